"""Trains the `glance` space on drawn pictures."""
