"""The one exception that a person gets to read."""


class MattoniError(Exception):
    """One sentence: what is wrong, where, and what to do. Shown as it is, on the page and in the terminal."""
