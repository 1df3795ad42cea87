"""How far bricks hang on one another: `python -m assistant.evaluation.measure_coupling ROWS.jsonl [--limit N] [--out FILE]`

Coupling in the sense of section 5.3 of "Configurable Foundation Models" (arXiv:2409.02877): each row is answered with all bricks on
Auto, then once more without each that took part. A brick that changes only answers for which it was chosen, and leaves the
others' part of an answer as it was, is loosely coupled. Printed is one JSON object: the mean share of parameters that a turn used
(sparsity), and per brick in how many turns it took part, how many answers changed without it, how far the likelihood of the
answer moved (nats a token, 95 % interval), and with which others it shared turns. Rows as for `mattoni eval`, single messages only.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from assistant.evaluation.asking import messages_of, read_rows, shipped_assistant, write_lines
from assistant.host.sampling import Sampling
from assistant.turn.minus_one import MinusOne
from mattoni.errors import MattoniError, run_command
from mattoni.metrics import bootstrap


def summary(turns: Sequence[MinusOne], seed: int = 0) -> dict[str, Any]:
    """What the turns say of each brick."""
    shares = [
        (counted["host"] + counted["bricks"]) / (counted["host"] + counted["installed"])
        for turn in turns
        if (counted := turn.trace.parameters)
    ]
    changed: dict[str, list[bool]] = defaultdict(list)
    moved: dict[str, list[float]] = defaultdict(list)
    beside: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for turn in turns:
        for one in turn.without:
            changed[one.brick].append(one.is_changed)
            if one.moved is not None:
                moved[one.brick].append(one.moved)
            for other in turn.without:
                if other.brick != one.brick:
                    beside[one.brick][other.brick] += 1
    return {
        "n": len(turns),
        "parameters_used": round(float(np.mean(shares)), 4) if shares else None,
        "bricks": {
            name: {
                "turns": len(answers),
                "changed": sum(answers),
                "moved": round(float(np.mean(moved[name])), 4) if moved[name] else None,
                "interval": [round(edge, 4) for edge in bootstrap(moved[name], seed)] if moved[name] else None,
                "beside": dict(beside[name]),
            }
            for name, answers in sorted(changed.items())
        },
        "turns_without_bricks": sum(not turn.without for turn in turns),
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Answer each row without each of its bricks.")
    parser.add_argument("rows", type=Path, help="JSON lines as for mattoni eval")
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--max-tokens", type=int, default=40)
    parser.add_argument("--host", default="builtin")
    parser.add_argument("--out", type=Path, help="keep a line per row: id, answer, table")
    given = parser.parse_args()
    rows = read_rows(given.rows, given.limit)
    if any(row.before or row.history for row in rows):
        raise MattoniError(f"{given.rows.name} has rows of several messages: give single ones.")
    sampling = Sampling(temperature=0.0, max_tokens=given.max_tokens, seed=0)
    with tempfile.TemporaryDirectory() as scratch, closing(shipped_assistant(Path(scratch), given.host)) as assistant:
        turns = []
        for row in rows:
            (message,) = messages_of(row, given.rows.parent)
            turns.append(assistant.minus_one(message.text, message.attachments, None, sampling))
    if given.out is not None:
        write_lines(given.out, [{"id": row.id, **turn.to_json()} for row, turn in zip(rows, turns, strict=True)])
    print(json.dumps(summary(turns)))


if __name__ == "__main__":
    run_command(main)
