"""Bricks as folders: found, checked, keyed for the router, brought in."""
