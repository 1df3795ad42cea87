"""Lists of messages that routing keys are made from. Knows nothing of embedders or keys."""

from pathlib import Path

from mattoni.errors import MattoniError
from mattoni.lines import json_rows, read_messages

__all__ = ["read_messages", "read_texts"]


def read_texts(path: Path) -> list[str]:
    """The `text` of each row of a JSONL file."""
    rows = list(json_rows(path, advice="check the recipe."))
    for number, _, value in rows:
        if not isinstance(value, dict) or "text" not in value:
            raise MattoniError(f"{path.name}, row {number}: this is no row with a 'text': check the recipe.")
    return [str(row.value["text"]) for row in rows]
