"""Receipts as rows of a skill that gives them as JSON. Knows nothing of pictures or models: lines and fields come as arguments."""

import json
import random
import re
from collections.abc import Mapping, Sequence

FIELDS = ("company", "date", "address", "total")

# How people ask for it; `DEFAULT` also when it is measured.
DEFAULT = "Give me this receipt as JSON."
WORDINGS = (
    DEFAULT,
    DEFAULT,
    DEFAULT,
    "Give me this receipt as JSON with company, date, address and total.",
    "Turn this receipt into JSON.",
    "receipt to json please",
    "Extract company, date, address and total from this receipt as JSON.",
    "Make JSON of this.",
    "Return the shop, date, address and total of this receipt as a JSON object.",
    "Convert the receipt to JSON.",
)

_TELLS = re.compile(r"total|amount|cash|due|round|date|\d[/.-]\d\d?[/.-]\d|jalan|jln|taman|\b\d{5}\b", re.IGNORECASE)
_HEAD = 8  # lines: who it is from, and where


def receipt_json(fields: Mapping[str, str]) -> str:
    """The answer: the four fields in this order, empty where a receipt lacks one."""
    return json.dumps({name: fields.get(name, "").strip() for name in FIELDS}, ensure_ascii=False)


def shortened(lines: Sequence[str], rng: random.Random) -> list[str]:
    """A receipt with some of its goods left out: the head and every line with a date, an amount due or a place stay.

    How many differs from receipt to receipt, and a third stay whole. A row takes less time, and is new in every epoch.
    """
    share = max(0.0, rng.uniform(-0.4, 0.9))
    return [line for n, line in enumerate(lines) if n < _HEAD or _TELLS.search(line) or rng.random() >= share]


def receipt_message(text: str, wording: str = DEFAULT) -> str:
    """What a turn shows the host of a receipt and a message: the text that was read, and the message behind it."""
    return f"{text.strip()}\n\n{wording}"
