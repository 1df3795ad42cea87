"""The host: the frozen language model, where it comes from, its prompt, what is composed onto it, and the tokens it gives."""
