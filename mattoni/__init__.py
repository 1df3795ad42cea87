"""The floor that every package stands on: errors, paths, files. Knows nothing of bricks, hosts or pages."""

__version__ = "0.1.0"
