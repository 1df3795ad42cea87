"""The frozen host, the conversation, routing, composing and generating. Knows nothing of pages or training."""
