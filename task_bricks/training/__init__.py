"""Trains skills. Nothing here runs for a user."""
