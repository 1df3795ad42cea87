"""`python -m modality_bricks.charts FOLDER`: draws charts, with rows to train a brick on and rows for `mattoni eval`.

FOLDER gets `pictures/`, `facts.jsonl` (what is on each chart), `rows.jsonl` (conversations, as a source of format `jsonl`
in a training config), and `eval-KIND.jsonl` for each kind of question. The same seed draws the same charts.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mattoni.errors import MattoniError
from mattoni.files import replace_folder, write_text
from mattoni.lines import json_rows
from modality_bricks.training.charts.draw import Facts, draw_chart
from modality_bricks.training.charts.questions import conversation, evaluation_rows, labels, spelled, turns
from modality_bricks.training.charts.styles import SPACES


def draw_one(split: str, seed: int, number: int, side: int | None, path: Path) -> Facts:
    """Draw and store a chart, at most `side` pixels large."""
    picture, facts = draw_chart(np.random.default_rng((seed, split == "dev", number)), SPACES[split])
    if side is not None:
        picture.thumbnail((side, side), Image.Resampling.BICUBIC)
    picture.save(path, quality=92)
    return facts


def _draw_star(arguments: tuple[str, int, int, int | None, Path]) -> Facts:
    return draw_one(*arguments)


def write_charts(folder: Path, split: str, count: int, seed: int = 0, side: int | None = None, jobs: int = 1) -> None:
    """Draw `count` charts of a split (`train` or `dev`, whose styles have nothing in common) into `folder`.

    What was in the folder is replaced. `side`: pictures are made smaller than that; for labels to be read, leave it out.
    """
    if folder.exists() and not (folder / "facts.jsonl").is_file():
        raise MattoniError(f"{folder} holds something else than charts: name a new folder.")

    def fill(target: Path) -> None:
        (target / "pictures").mkdir()
        names = [f"pictures/{seed}-{number:06}.jpg" for number in range(count)]
        tasks = [(split, seed, number, side, target / name) for number, name in enumerate(names)]
        if jobs > 1:
            with get_context("spawn").Pool(jobs) as pool:
                all_facts = list(pool.imap(_draw_star, tasks, chunksize=8))
        else:
            all_facts = list(map(_draw_star, tasks))
        stored = [{"image": name, **asdict(facts)} for name, facts in zip(names, all_facts, strict=True)]
        _write_lines(target / "facts.jsonl", stored)
        write_rows(target)

    replace_folder(folder, fill)


def write_rows(folder: Path) -> None:
    """Write all rows from what is known of the charts of a folder."""
    rows, asked = [], defaultdict[str, list[dict[str, Any]]](list)
    for _, _, facts in json_rows(folder / "facts.jsonl"):
        name = facts.pop("image")
        texts = tuple((text, tuple(box)) for text, box in facts.pop("texts"))
        chart = Facts(labels=tuple(facts.pop("labels")), values=tuple(facts.pop("values")), texts=texts, **facts)
        pairs = turns(chart, np.random.default_rng(list(name.encode())))
        row = {"image": name, "spells": spelled(chart), "conversations": conversation(pairs), **labels(chart)}
        rows.append(row if chart.kind == "pie" else {**row, "mirrored": labels(chart, mirrored=True)})
        for kind, question in evaluation_rows(Path(name).stem, name, chart).items():
            asked[kind].append(question)
    _write_lines(folder / "rows.jsonl", rows)
    for kind, found in asked.items():
        _write_lines(folder / f"eval-{kind}.jsonl", found)


def _write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw charts."""
    parser = argparse.ArgumentParser(prog="python -m modality_bricks.charts", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", choices=sorted(SPACES), default="train")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", type=int, help="make pictures smaller than this, in pixels")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--rows-only", action="store_true", help="write the rows of drawn charts again")
    given = parser.parse_args(arguments)
    if given.rows_only:
        write_rows(given.folder)
        return
    write_charts(given.folder, given.split, given.count, given.seed, given.side, given.jobs)
    print(f"{given.count} charts in {given.folder}")
