"""Opens what a user sent: pictures, documents, mail and text, inside limits. The only package that does.

A module per family of files; `opening` asks each file what it is and hands it to its family. Nothing here fetches
anything or runs anything that a file brings with it.
"""

from assistant.turn.look.html import html_text
from assistant.turn.look.names import clean_name
from assistant.turn.look.opened import Limits
from assistant.turn.look.opening import look

__all__ = ["Limits", "clean_name", "html_text", "look"]
