"""A tiny host, and texts of three functions that its tokens tell apart."""

import json
from pathlib import Path

import pytest

from assistant.host.host import Host, load_host

WORDS = {
    "digits": ("12.50", "50", "12", "2.5", "50.12", "1250"),
    "grass": ("dog", "grass", "runs", "over", "the", "picture"),
    "rome": ("Rome", "Italy", "capital", "mattoni", "bricks", "called"),
}


@pytest.fixture
def host(tiny_host: Path) -> Host:
    """The tiny host in fp32."""
    return load_host(str(tiny_host), device="cpu", dtype="float32")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A file of twelve texts of each function."""
    path = tmp_path / "rows.jsonl"
    write_rows(path, tuple(WORDS))
    return path


def write_rows(path: Path, functions: tuple[str, ...], count: int = 12) -> Path:
    """Texts of some functions, all different."""
    lines = []
    for function in functions:
        words = WORDS[function]
        for number in range(count):
            chosen = [words[(number * 5 + place * (1 + number % 3)) % len(words)] for place in range(4 + number % 5)]
            lines.append(json.dumps({"function": function, "text": " ".join([*chosen, "x" * number])}))
    path.write_text("\n".join(lines))
    return path
