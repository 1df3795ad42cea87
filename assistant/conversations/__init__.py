"""Conversations and their attachments on disk."""
