"""Asks, scores and times the assistant. Nothing here runs for a user."""
