"""Measures readers and draws what the router is measured on. Nothing here runs for a user."""
