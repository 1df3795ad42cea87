"""Trains knowledge bricks; the host is an argument. What runs for a user imports nothing of this."""
