"""Measures the `speech` brick on recordings with transcripts:

    MATTONI_DATA=... python -m modality_bricks.evaluation.measure_speech [--split dev] [--language en] [--limit N]

Prints JSON: word error rates by language with their 95 % intervals, seconds of work for a second of sound on one thread
(processor time, so that a busy machine does not matter), and what was heard where nobody speaks. Recordings are opened as a
message's are.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assistant.turn.look import look
from mattoni.errors import MattoniError, run_command
from mattoni.inputs import Attachment, Sound
from mattoni.lines import json_rows
from mattoni.metrics import Scored, score
from mattoni.paths import model_folder, training_data
from modality_bricks.speech import Recogniser, Transcript, Whisper, listen, understand

_SMALL, _LARGE = "whisper-tiny.en", "whisper-base"


def measure(
    rows: Sequence[dict[str, Any]], folder: Path, small: Recogniser, large: Recogniser | None
) -> dict[str, Any]:
    """What is heard in each row's `file`, against its `text`; one without a text is one in which nobody speaks."""
    heard: list[tuple[dict[str, Any], Transcript, float]] = []
    for row in rows:
        (sound,) = look([Attachment(row["file"], (folder / row["file"]).read_bytes())]).items
        assert isinstance(sound, Sound)
        began = time.process_time()
        transcript = listen(sound.blocks(), lambda window, language: understand(window.samples, small, large, language))
        heard.append((row, transcript, time.process_time() - began))
    report: dict[str, Any] = {}
    for language in dict.fromkeys(_group(row) for row, _, _ in heard if row["text"]):
        own = [(row, t, spent) for row, t, spent in heard if _group(row) == language and row["text"]]
        result = score("wer", [Scored(t.text, (row["text"],)) for row, t, _ in own])
        worst = sorted(zip(result.rows, own, strict=True), key=lambda pair: -pair[0])[:5]
        report[language] = {
            "word_error_rate": round(result.value, 4),
            "low": round(result.low, 4),
            "high": round(result.high, 4),
            "n": len(own),
            "real_time_factor": round(sum(spent for *_, spent in own) / sum(row["seconds"] for row, *_ in own), 3),
            "languages_found": sorted({name for _, t, _ in own for name in t.languages}),
            "worst": {row["id"]: round(value, 2) for value, (row, _, _) in worst},
        }
    nobody = [(row, t) for row, t, _ in heard if not row["text"]]
    made_up = {row["id"]: t.text for row, t in nobody if t.text}
    return report | {"nobody_speaks": {"n": len(nobody), "words_made_up": made_up}}


def _group(row: dict[str, Any]) -> str:
    """Its language; what is awkward (a telephone, a stereo MP3) counts for itself."""
    return "awkward" if row["id"].startswith("awkward") else str(row["language"])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m modality_bricks.evaluation.measure_speech")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--language", help="only recordings in it, such as en; awkward ones always")
    parser.add_argument("--limit", type=int, help="only the first so many")
    asked = parser.parse_args()
    folder = training_data() / "speech"
    rows = [row.value for row in json_rows(folder / f"speech-{asked.split}.jsonl")][: asked.limit]
    rows = [row for row in rows if asked.language in (None, row["language"])]
    awkward = [row.value for row in json_rows(folder / f"awkward-{asked.split}.jsonl")]
    if not model_folder(_SMALL).is_dir():
        raise MattoniError(f"{_SMALL} is not here: fetch it with `mattoni models pull {_SMALL}`.")
    large = Whisper(model_folder(_LARGE), threads=1) if model_folder(_LARGE).is_dir() else None
    small = Whisper(model_folder(_SMALL), threads=1)
    models = {"models": [_SMALL, *([_LARGE] if large is not None else [])]}
    print(json.dumps(models | measure([*rows, *awkward], folder, small, large), indent=2, ensure_ascii=False))


if __name__ == "__main__":
    run_command(main)
