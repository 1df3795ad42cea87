"""Trains modality bricks. Nothing here runs for a user."""
