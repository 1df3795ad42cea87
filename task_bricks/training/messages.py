"""Lists of messages that routing keys are made from. Knows nothing of embedders or keys."""

import json
from pathlib import Path

from mattoni.errors import MattoniError


def read_messages(path: Path) -> list[str]:
    r"""Messages of a text file: one a line, `\n` for a line break, empty lines and those that begin with # left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise MattoniError(f"{path.name} cannot be read: put the list of messages beside the recipe.") from problem
    messages = [line.strip().replace("\\n", "\n") for line in lines if line.strip() and not line.startswith("#")]
    if not messages:
        raise MattoniError(f"{path.name} holds no messages: write one a line.")
    return messages


def read_texts(path: Path) -> list[str]:
    """The `text` of each row of a JSONL file."""
    try:
        with path.open(encoding="utf-8") as file:
            return [str(json.loads(line)["text"]) for line in file if line.strip()]
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as problem:
        raise MattoniError(
            f"{path.name} cannot be read as rows with a 'text' ({problem}): check the recipe."
        ) from problem
