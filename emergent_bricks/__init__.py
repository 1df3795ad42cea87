"""Bricks that are the host's own neurons: gates on them at run time; measured in `analysis`, which runs for no user."""
