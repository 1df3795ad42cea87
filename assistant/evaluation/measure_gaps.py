"""How long one waits for the next token while another has a scan read: `python -m assistant.evaluation.measure_gaps [--pages 50]`

One conversation writes a story of fixed length, alone and while a second one has a scan of so many pages read by OCR. Prints one JSON
object: the gaps between tokens in milliseconds (median and 95th percentile), alone and beside, and the one by the other.
Gaps after the scan has been read do not count. To be quiet at the time: other programs lengthen both.
"""

import argparse
import io
import json
import tempfile
import time
from contextlib import closing
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

from assistant.assistant import Assistant
from assistant.evaluation.asking import shipped_assistant
from assistant.host.sampling import Sampling
from assistant.turn.route import Choices
from assistant.turn.ticket import Ticket
from mattoni.errors import MattoniError, run_command
from mattoni.inputs import Attachment

_STORY = "Write a long story about a brick that wants to become a house."
_PATIENCE_S = 0.02


def scan(pages: int, side: int = 1000) -> Attachment:
    """A PDF of pictures of print, each page another one."""
    drawn = []
    for number in range(1, pages + 1):
        page = Image.new("L", (side, side), "white")
        text = "\n".join(f"{number}.{line} The red brick number {line * number} is warm." for line in range(1, 25))
        ImageDraw.Draw(page).multiline_text((60, 40), text, "black", ImageFont.load_default(26), spacing=12)
        drawn.append(page)
    buffer = io.BytesIO()
    drawn[0].save(buffer, "PDF", save_all=True, append_images=drawn[1:])
    return Attachment("scan.pdf", buffer.getvalue())


def gaps(assistant: Assistant, tokens: int, beside: Ticket | None = None) -> list[float]:
    """Milliseconds between the pieces of a story; only those that came while `beside` was at work, where there is one."""
    sampling = Sampling(temperature=0, max_tokens=tokens, min_tokens=tokens)
    ticket = assistant.ask(_STORY, choices=Choices(no_bricks=True), sampling=sampling)
    found: list[float] = []
    last = 0.0
    for _ in ticket.changes():
        now = time.perf_counter()
        at_work = beside is None or beside.stage.startswith("reading")
        if last and at_work:
            found.append((now - last) * 1000)
        last = now
    if ticket.error is not None:
        raise MattoniError(ticket.error)
    return found


def measure(assistant: Assistant, pages: int, tokens: int) -> dict[str, Any]:
    """See the module's docstring."""
    gaps(assistant, tokens)  # warms up
    alone = gaps(assistant, tokens)
    reading = assistant.ask("What is warm?", [scan(pages)], Choices(vision=None), Sampling(max_tokens=1))
    while not reading.finished and not reading.stage.startswith("reading"):
        time.sleep(_PATIENCE_S)
    beside = gaps(assistant, tokens, reading)
    reading.stop()
    reading.wait()
    if len(beside) < max(2, tokens // 8):
        raise MattoniError("The scan was read before there were enough tokens: take more --pages.")
    return {
        "alone_ms": _told(alone),
        "beside_ms": _told(beside),
        "p95_ratio": round(_p95(beside) / _p95(alone), 3),
        "pages": pages,
        "threads": torch.get_num_threads(),
    }


def _p95(values: list[float]) -> float:
    return quantiles(values, n=20)[-1]


def _told(values: list[float]) -> dict[str, float]:
    return {"median": round(median(values), 1), "p95": round(_p95(values), 1), "n": len(values)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m assistant.evaluation.measure_gaps",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pages", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--host", default="builtin")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, closing(shipped_assistant(Path(home), given.host)) as assistant:
        print(json.dumps(measure(assistant, given.pages, given.tokens), indent=1))


if __name__ == "__main__":
    run_command(main)
