"""Lists of messages that routing keys are made from. Knows nothing of embedders or keys."""

from pathlib import Path

from mattoni.errors import MattoniError
from mattoni.lines import json_rows, read_text


def read_messages(path: Path) -> list[str]:
    r"""Messages of a text file: one a line, `\n` for a line break, empty lines and those that begin with # left out."""
    lines = read_text(path, "put the list of messages beside the recipe.").split("\n")
    messages = [line.strip().replace("\\n", "\n") for line in lines if line.strip() and not line.startswith("#")]
    if not messages:
        raise MattoniError(f"{path.name} holds no messages: write one a line.")
    return messages


def read_texts(path: Path) -> list[str]:
    """The `text` of each row of a JSONL file."""
    rows = list(json_rows(path, advice="check the recipe."))
    for number, _, value in rows:
        if not isinstance(value, dict) or "text" not in value:
            raise MattoniError(f"{path.name}, row {number}: this is no row with a 'text': check the recipe.")
    return [str(row.value["text"]) for row in rows]
