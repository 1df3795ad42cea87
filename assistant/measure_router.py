"""Measures the router: python -m assistant.measure_router [pictures] [questions] [skill]

`pictures`   photo or document, on 400 dev pictures of equalised size and colour, and on the same as they come
`questions`  who asks about a picture that is not there: picture-questions-dev, plain-lookalikes-dev, chat-dev
`skill`      when Auto chooses `english-german`: translation-de-dev and what is near it
Without a word, all three. Prints one JSON object. Needs MATTONI_DATA; pages are rendered with chromium where there is one.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from assistant.catalogue import BUILTIN_EMBEDDER, fetch
from assistant.embedder import Embedder
from assistant.keyring import Keyrings
from assistant.picture_questions import PictureQuestions
from assistant.registry import Registry
from assistant.route import Choices, Keyring, Question, SeenPicture, route
from assistant.turn import message_pieces
from mattoni.errors import MattoniError
from mattoni.paths import shipped_models, training_data
from modality_bricks.glance import Glance
from modality_bricks.glance_dev import Shown, dev_pictures, equalised

Figures = dict[str, object]


def _percent(right: Sequence[bool]) -> float:
    return round(100 * sum(right) / len(right), 2)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def measure_pictures(keyring: Keyring, glance: Glance, shown: Sequence[Shown]) -> Figures:
    """Right between photo and document, over all and per sort; and how often a fallback was announced."""
    right: dict[str, list[bool]] = defaultdict(list)
    fallbacks = []
    for picture, vector in zip(shown, glance.embed([s.image for s in shown]), strict=True):
        plan = route(Question((SeenPicture(picture.sort, vector),)), keyring, Choices())
        chosen = plan.pictures[0]
        right[picture.sort].append(chosen is not None and chosen.name == picture.brick)
        fallbacks.append(any(notice.code == "fallback" for notice in plan.notices))
    return {
        "right_percent": _percent([r for rows in right.values() for r in rows]),
        "n": len(shown),
        "always_photo_percent": _percent([s.brick == "photo" for s in shown]),
        "fallback_announced_percent": _percent(fallbacks),
        "wrong_of": {sort: f"{rows.count(False)} of {len(rows)}" for sort, rows in right.items()},
    }


def pictures(keyring: Keyring, data: Path) -> Figures:
    """The 400 dev pictures equalised, and as they come."""
    shown, glance, rng = list(dev_pictures(data)), Glance.load(), np.random.default_rng(7)
    same = [Shown(equalised(s.image, rng), s.sort, s.brick) for s in shown]
    return {
        "equalised": measure_pictures(keyring, glance, same),
        "as they come": measure_pictures(keyring, glance, shown),
    }


def questions(embedder: Embedder, data: Path) -> Figures:
    """How often it is seen rightly that a message asks, or does not ask, about a picture."""
    asks = PictureQuestions.load()
    wanted = {"picture-questions-dev": True, "plain-lookalikes-dev": False, "chat-dev": False}
    figures: Figures = {}
    for name, wants in wanted.items():
        right = [asks.asks(embedder.depths(row["text"])) == wants for row in _rows(data / "text" / f"{name}.jsonl")]
        figures[name] = {"right_percent": _percent(right), "n": len(right)}
    return figures


def skill(keyring: Keyring, embedder: Embedder, data: Path, name: str = "english-german") -> Figures:
    """How often Auto chooses the skill, on messages that are for it and on those that are not."""

    def chosen(texts: Sequence[str]) -> Figures:
        plans = [route(Question(texts=embedder.embed(message_pieces(t))), keyring, Choices()) for t in texts]
        return {"chosen_percent": _percent([any(s.name == name for s in p.skills) for p in plans]), "n": len(texts)}

    text = data / "text"
    german = _rows(text / "translation-de-dev.jsonl")[:200]
    wordings = json.loads((text / "instructions.json").read_text(encoding="utf-8"))

    def worded(task: str, style: str) -> list[str]:
        found = [w["text"] for w in wordings[task] if w["split"] == "dev" and w["style"] == style]
        return [f"{wording}\n\n{row['input']}" for wording in found for row in german[:20]]

    return {
        "for it: its default wording": chosen([f"{row['instruction']}\n\n{row['input']}" for row in german]),
        "for it: plain dev wordings": chosen(worded("translation-de", "plain")),
        "for it: indirect dev wordings": chosen(worded("translation-de", "indirect")),
        "not: French, plain dev wordings": chosen(worded("translation-fr", "plain")),
        "not: French, indirect dev wordings": chosen(worded("translation-fr", "indirect")),
        "not: captions alone": chosen([row["input"] for row in german]),
        "not: chat-dev": chosen([row["text"] for row in _rows(text / "chat-dev.jsonl")]),
        "not: picture-questions-dev": chosen([row["text"] for row in _rows(text / "picture-questions-dev.jsonl")]),
        "not: plain-lookalikes-dev": chosen([row["text"] for row in _rows(text / "plain-lookalikes-dev.jsonl")]),
    }


def main(parts: Sequence[str]) -> None:
    """Print the figures of the parts asked for."""
    torch.set_num_threads(1)
    data = training_data()
    # The shipped bricks only: a user's own would change what is compared.
    keyring = Keyrings().of(Registry([shipped_models() / "bricks"]).scan())
    measures: dict[str, Callable[[], Figures]] = {
        "pictures": lambda: pictures(keyring, data),
        "questions": lambda: questions(Embedder(fetch(BUILTIN_EMBEDDER)), data),
        "skill": lambda: skill(keyring, Embedder(fetch(BUILTIN_EMBEDDER)), data),
    }
    for part in parts:
        if part not in measures:
            raise MattoniError(f"There is nothing to measure called '{part}' (there are: {', '.join(measures)}).")
    print(json.dumps({part: measures[part]() for part in parts or measures}, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except MattoniError as problem:
        sys.exit(str(problem))
