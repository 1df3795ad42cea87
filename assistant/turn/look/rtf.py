"""Reads RTF: its text, nothing that is embedded."""

from striprtf.striprtf import rtf_to_text

from assistant.turn.look.opened import Limits, Opened, pages_of


def open_rtf(content: bytes, limits: Limits) -> Opened:
    """RTF is ASCII, with any other character spelled out."""
    text = rtf_to_text(content.decode("latin-1"), encoding="cp1252", errors="replace")
    return pages_of(["\n".join(line.rstrip() for line in text.replace("\r\n", "\n").split("\n")).strip()])
