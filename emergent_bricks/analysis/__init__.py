"""Measures the neurons of hosts and makes bricks of them. Nothing here runs for a user."""
