"""Draws charts, and what is asked about them."""
