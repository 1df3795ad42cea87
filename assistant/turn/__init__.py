"""The way of a turn: look, route, inject, write."""
