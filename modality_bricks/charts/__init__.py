"""Charts: the generator that draws them, what a brick learns from them, and the order of their labels."""
