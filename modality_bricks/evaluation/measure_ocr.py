"""Measures the reader on a pack of receipts:

    MATTONI_DATA=... python -m modality_bricks.evaluation.measure_ocr [--split dev] [--limit N]

Prints JSON: the share of characters read (1 - CER), the receipts read worst, and CPU seconds a receipt on one thread.
"""

import argparse
import io
import json
import statistics
import time
from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy.optimize import linear_sum_assignment

from mattoni.errors import MattoniError
from mattoni.paths import training_data
from modality_bricks.ocr import Reader, text_in_reading_order
from modality_bricks.training.packs import pack_files


def edit_distance(a: str, b: str) -> int:
    """Levenshtein: the fewest insertions, deletions and substitutions that make `a` into `b`."""
    codes, places = np.array([ord(c) for c in b], np.int64), np.arange(len(b) + 1)
    previous = places
    for row, character in enumerate(a, start=1):
        change = np.minimum(previous[:-1] + (codes != ord(character)), previous[1:] + 1)
        # An insertion costs one a step, so without it the row's running minimum, less the place, is what counts.
        previous = np.minimum.accumulate(np.concatenate([[row], change]) - places) + places
    return int(previous[-1])


def fold(line: str) -> str:
    """Case and spaces do not count."""
    return "".join(line.lower().split())


def errors(found: Sequence[str], true: Sequence[str]) -> tuple[int, int]:
    """Wrong characters and all true ones; lines are matched one to one, an unmatched line counts in full."""
    found, true = [f for line in found if (f := fold(line))], [t for line in true if (t := fold(line))]
    size = max(len(found), len(true))
    rows, columns = found + [""] * (size - len(found)), true + [""] * (size - len(true))
    cost = np.array([[edit_distance(row, column) for column in columns] for row in rows]).reshape(size, size)
    return int(cost[linear_sum_assignment(cost)].sum()), sum(map(len, true))


def measure(reader: Reader, files: dict[str, bytes], limit: int | None = None) -> dict[str, object]:
    """Read the receipts of a pack (`KEY.webp`, `KEY.json` with `lines`); figures over all their characters."""
    keys = sorted(name[:-5] for name in files if name.endswith(".webp"))[:limit]
    if not keys:
        raise MattoniError("The pack holds no receipts: name one with KEY.webp and KEY.json.")
    wrong, characters, seconds, shares = 0, 0, [], {}
    for key in keys:
        began = time.process_time()
        text = text_in_reading_order(reader.read(Image.open(io.BytesIO(files[f"{key}.webp"]))))
        seconds.append(time.process_time() - began)
        missed, total = errors(text.split("\n"), json.loads(files[f"{key}.json"])["lines"])
        wrong, characters, shares[key] = wrong + missed, characters + total, 1 - missed / total
    return {
        "characters_read": round(1 - wrong / characters, 4),
        "n": len(keys),
        "characters": characters,
        "worst": {key: round(share, 3) for key, share in sorted(shares.items(), key=lambda item: item[1])[:5]},
        "cpu_seconds_median": round(statistics.median(seconds), 2),
    }


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m modality_bricks.evaluation.measure_ocr")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--limit", type=int)
    asked = parser.parse_args()
    files = pack_files(training_data() / "vision" / f"receipts-{asked.split}.tar")
    print(json.dumps(measure(Reader(), files, asked.limit), indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
