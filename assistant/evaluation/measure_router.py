"""Measures the router: python -m assistant.evaluation.measure_router [pictures] [later] [questions] [follow-ups] [several] [reading] [naming] [skill] [skills] [twofold]

`pictures`   photo, chart or document, on 600 dev pictures of equalised size and colour, and on the same as they come; where
             the chart brick is not there, photo or document, on 400
`later`      a fourth image brick that is given 20 example pictures: how often it is chosen, and what that costs the others
`questions`  who asks about a picture that is not there: picture-questions-dev, plain-lookalikes-dev, chat-dev
`follow-ups` which messages go on with what was said, and which stand alone: follow-ups-dev and stand-alone-dev of models/router,
             and messages that begin a conversation; those that ask about a picture count as going on, as in a turn
`naming`     which messages ask what a thing is called, beside other questions about pictures: lists of models/router
`skill`      when Auto chooses `english-german`: translation-de-dev and what is near it
`skills`     the right skill or none with every shipped one on Auto: dev rows in wordings that no key was made from, receipts with
             messages of receipt-json-dev, chat-dev; and how often a picture is wrongly called missing
`twofold`    messages that ask about a picture and for the answer in another language, in a conversation with a picture; and what asks
             for one thing: sentences to translate, questions about pictures, chat
Without a word, all of them. Prints one JSON object. Needs MATTONI_DATA, and chromium for the first two.
"""

import io
import json
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from assistant.bricks.examples import add_examples
from assistant.evaluation.measure_eyes import other_wordings
from assistant.evaluation.rows import with_passage
from assistant.host.catalogue import BUILTIN_EMBEDDER, fetch
from assistant.host.embedder import Embedder
from assistant.registry import Registry
from assistant.turn.keyring import Keyrings
from assistant.turn.question import goes_on, holds_number, message_pieces
from assistant.turn.recogniser import (
    FOLLOW_UPS,
    NAMING_QUESTIONS,
    PICTURE_QUESTIONS,
    READING_QUESTIONS,
    SEVERAL_PICTURES,
    Recogniser,
)
from assistant.turn.route import Choices, Keyring, Question, SeenPicture, route
from assistant.turn.twofold import asking, is_answered, second_request, without
from mattoni.card import BrickCard, write_card
from mattoni.errors import MattoniError
from mattoni.inputs import Attachment
from mattoni.lines import json_rows
from mattoni.metrics import bootstrap
from mattoni.paths import shipped_models, training_data
from modality_bricks.evaluation.glance_dev import Shown, dev_pictures, dev_reports, equalised
from modality_bricks.evaluation.glance_dev_kinds import LATER_KINDS
from modality_bricks.glance import Glance
from modality_bricks.training.packs import pack_files
from task_bricks.training.messages import read_messages, read_texts

Figures = dict[str, object]


def _percent(right: Sequence[bool]) -> float:
    return round(100 * sum(right) / len(right), 2)


def _rows(path: Path) -> list[dict[str, str]]:
    return [row.value for row in json_rows(path)]


def _chosen(keyring: Keyring, vectors: Tensor) -> list[tuple[str | None, bool]]:
    """Of each picture the brick that looks at it, and whether that was announced as a fallback."""
    chosen: list[tuple[str | None, bool]] = []
    for vector in vectors:
        plan = route(Question((SeenPicture("picture", vector),)), keyring, Choices())
        brick = plan.pictures[0]
        chosen.append((brick.name if brick else None, any(notice.code == "fallback" for notice in plan.notices)))
    return chosen


def measure_pictures(keyring: Keyring, shown: Sequence[Shown], vectors: Tensor) -> Figures:
    """Right among photo, chart and document, over all and per sort; and how often a fallback was announced.

    Pictures of a brick that is not there count for nothing.
    """
    there = {brick.name for brick in keyring.bricks}
    rows = [row for row, picture in enumerate(shown) if picture.brick in there]
    shown, chosen = [shown[row] for row in rows], _chosen(keyring, vectors[rows])
    wrong: dict[str, list[str]] = defaultdict(list)
    for picture, (name, _) in zip(shown, chosen, strict=True):
        wrong[picture.sort] += [str(name)] if name != picture.brick else []
    sizes = Counter(picture.sort for picture in shown)
    right = [name == picture.brick for picture, (name, _) in zip(shown, chosen, strict=True)]
    return {
        "right_percent": _percent(right),
        "n": len(shown),
        "always_photo_percent": _percent([s.brick == "photo" for s in shown]),
        "fallback_announced_percent": _percent([announced for _, announced in chosen]),
        "wrong_of": {
            sort: f"{len(wrong[sort])} of {size} {dict(Counter(wrong[sort]))}" for sort, size in sizes.items()
        },
    }


def _equalised(shown: Sequence[Shown]) -> list[Image.Image]:
    rng = np.random.default_rng(7)
    return [equalised(picture.image, rng) for picture in shown]


def pictures(keyring: Keyring, data: Path) -> Figures:
    """The 600 dev pictures equalised, and as they come; and who looks at reports, for which no brick is wrong."""
    shown, glance = list(dev_pictures(data)), Glance.load()
    reports = [name for name, _ in _chosen(keyring, glance.embed(list(dev_reports(data))))]
    return {
        "equalised": measure_pictures(keyring, shown, glance.embed(_equalised(shown))),
        "as they come": measure_pictures(keyring, shown, glance.embed([s.image for s in shown])),
        "reports with a chart go to": dict(Counter(reports)),
    }


def later(keyring: Keyring, data: Path, draws: int = 3, examples: int = 20, held_out: int = 120) -> Figures:
    """A fourth brick from `examples` pictures as they come, on held-out pictures and the 600, all equalised.

    Without that brick its pictures are for none: how often that is announced is a figure too.
    """
    glance, rng = Glance.load(), np.random.default_rng(8)
    shown = list(dev_pictures(data))
    others = glance.embed(_equalised(shown))
    figures: Figures = {}
    for number, kind in enumerate(LATER_KINDS):
        drawn = [kind(np.random.default_rng([11, number, n])) for n in range(draws * examples + held_out)]
        new = glance.embed([equalised(picture, rng) for picture in drawn[-held_out:]])
        trials = [drawn[draw * examples : (draw + 1) * examples] for draw in range(draws)]
        figures[kind.__name__] = {
            "announced_without_it_percent": _percent([announced for _, announced in _chosen(keyring, new)]),
            "trials": [_later(trial, new, others, [s.brick for s in shown], glance) for trial in trials],
        }
    return figures


def _later(
    examples: Sequence[Image.Image], new: Tensor, others: Tensor, bricks: Sequence[str], glance: Glance
) -> Figures:
    """One trial: the user's command on a brick without anything else, then the router before and after."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "later").mkdir()
        card = {
            "schema": 1,
            "name": "later",
            "kind": "modality",
            "title": "",
            "summary": "",
            "licence": "",
            "parts": {"method": "qformer", "encoder": ""},
        }
        write_card(BrickCard.model_validate({**card, "injects": ["sequence"]}), Path(folder) / "later")
        registry = Registry([Path(folder), shipped_models() / "bricks"])
        before = [name for name, _ in _chosen(Keyrings().of(registry.scan()), others)]
        try:
            added = add_examples("later", [_sent(picture) for picture in examples], registry.scan(), glance)
        except MattoniError as refused:
            return {"refused": str(refused)}
        keyring = Keyrings().of(registry.scan())
    after = [name for name, _ in _chosen(keyring, others)]
    lost = _percent([a == b for a, b in zip(before, bricks, strict=True)])
    return {
        "right_percent": _percent([name == "later" for name, _ in _chosen(keyring, new)]),
        "n": len(new),
        "others_lose_points": round(lost - _percent([a == b for a, b in zip(after, bricks, strict=True)]), 2),
        "n_others": len(others),
        "recognised_left_out": f"{added.recognised} of {added.examples}",
        "nearest": added.nearest,
    }


def _sent(picture: Image.Image) -> Attachment:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return Attachment("picture.png", file.getvalue())


def questions(embedder: Embedder, data: Path) -> Figures:
    """How often it is seen rightly that a message asks, or does not ask, about a picture."""
    asks = Recogniser.load(PICTURE_QUESTIONS)
    wanted = {"picture-questions-dev": True, "plain-lookalikes-dev": False, "chat-dev": False}
    figures: Figures = {}
    for name, wants in wanted.items():
        right = [
            asks.recognises(embedder.depths(row["text"])) == wants for row in _rows(data / "text" / f"{name}.jsonl")
        ]
        figures[name] = {"right_percent": _percent(right), "n": len(right)}
    return figures


def follow_ups(embedder: Embedder, data: Path) -> Figures:
    """How often it is seen rightly that a message needs, or does not need, earlier exchanges about pictures."""
    kinds = Recogniser.load(FOLLOW_UPS), Recogniser.load(PICTURE_QUESTIONS)
    written, text = shipped_models() / "router", data / "text"
    sets: dict[str, tuple[list[str], bool]] = {
        "follow-ups-dev": (read_messages(written / "follow-ups-dev.txt"), True),
        "picture-questions-dev": (read_texts(text / "picture-questions-dev.jsonl"), True),
        "stand-alone-dev": (read_messages(written / "stand-alone-dev.txt"), False),
        "chat-dev": (read_texts(text / "chat-dev.jsonl"), False),
        "plain-lookalikes-dev": (read_texts(text / "plain-lookalikes-dev.jsonl"), False),
        "reading-dev, passage and question": ([row["question"] for row in with_passage(data, "dev")], False),
    }
    figures: Figures = {}
    for name, (messages, needs) in sets.items():
        pieces = [[embedder.depths(piece) for piece in message_pieces(message)] for message in messages]
        alone = [kinds[0].recognises(found[0]) for found in pieces]
        either = [goes_on(found, *kinds) for found in pieces]
        figures[name] = {
            "right_percent": _percent([found == needs for found in either]),
            "by the follow-ups alone": _percent([found == needs for found in alone]),
            "n": len(messages),
        }
    return figures


def kind(embedder: Embedder, data: Path, name: str, others: Sequence[str]) -> Figures:
    """How often messages of the kind, and messages that are near to it, are told apart."""
    recogniser = Recogniser.load(name)
    sets = {name: True, **dict.fromkeys(others, False)}
    figures: Figures = {}
    for group, wants in sets.items():
        messages = (
            read_texts(data / "text" / f"{group}.jsonl")
            if group == "chat-dev"
            else read_messages(shipped_models() / "router" / f"{group}-dev.txt")
        )
        depths = [embedder.depths(message) for message in messages]
        right = [recogniser.recognises(found) == wants for found in depths]
        expected = [recogniser.recognises(found, expected=True) == wants for found in depths]
        figures[group] = {"right_percent": _percent(right), "where expected": _percent(expected), "n": len(right)}
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
        "not: other wordings of naming and captions": chosen(
            [wording for wordings in other_wordings().values() for wording in wordings]
        ),
    }


# The tasks of the text pack that the shipped skills are for.
SKILL_TASKS = {
    "english-german": "translation-de",
    "english-french": "translation-fr",
    "sql": "sql",
    "sentiment": "sentiment",
    "arithmetic": "arithmetic",
    "maths": "maths",
}
_PLAIN, _INDIRECT = 40, 20  # messages of each task; an indirect wording does not name it


@dataclass(frozen=True)
class RoutedMessage:
    """A message, what it is for (None: for no skill), and what it brings."""

    sort: str
    skill: str | None
    text: str
    pictures: tuple[SeenPicture, ...] = ()


def skill_messages(there: Collection[str], data: Path, glance: Callable[[], Glance]) -> list[RoutedMessage]:
    """Dev rows of every task whose skill is there, worded in split `dev`, before or behind the text; receipts; plain chat."""
    text, rng = data / "text", random.Random(1)
    wordings = json.loads((text / "instructions.json").read_text(encoding="utf-8"))
    found: list[RoutedMessage] = []
    for skill, task in SKILL_TASKS.items():
        rows = _rows(text / f"{task}-dev.jsonl") if skill in there else []
        for style, count in (("plain", _PLAIN), ("indirect", _INDIRECT)):
            of_style = [w["text"] for w in wordings[task] if w["split"] == "dev" and w["style"] == style]
            for number in range(count if rows else 0):
                parts = [of_style[number % len(of_style)], rng.choice(rows)["input"]]
                message = "\n\n".join(parts if rng.random() < 0.7 else reversed(parts))
                found.append(RoutedMessage(f"{skill}, {style}", skill, message))
    if "receipt-json" in there:
        (path,) = (data / "vision").glob("receipts-dev.tar")
        scans = [content for name, content in pack_files(path).items() if name.endswith(".webp")]
        asked = read_messages(shipped_models() / "router" / "receipt-json-dev.txt")
        vectors = glance().embed([Image.open(io.BytesIO(scan)).convert("RGB") for scan in scans[: len(asked)]])
        found += [
            RoutedMessage("receipt-json", "receipt-json", message, (SeenPicture("receipt", vector),))
            for message, vector in zip(asked, vectors, strict=True)
        ]
    return [*found, *(RoutedMessage("chat-dev", None, row["text"]) for row in _rows(text / "chat-dev.jsonl"))]


def skills(keyring: Keyring, embedder: Embedder, data: Path) -> Figures:
    """The right skill or none, over all and by sort; what was chosen in its place; false notices that a picture is missing."""
    asks = Recogniser.load(PICTURE_QUESTIONS)
    there = {brick.name for brick in keyring.for_message}
    right: dict[str, list[bool]] = defaultdict(list)
    instead: Counter[str] = Counter()
    missing: list[bool] = []
    started = time.perf_counter()
    messages = skill_messages(there, data, Glance.load)
    for message in messages:
        question = Question(
            message.pictures,
            embedder.embed(message_pieces(message.text)),
            asks_about_picture=asks.recognises(embedder.depths(message.text)),
            holds_number=holds_number(message.text),
        )
        plan = route(question, keyring, Choices())
        chosen = plan.skills[0].name if plan.skills else None
        right[message.sort].append(chosen == message.skill)
        instead[f"{message.sort}: {chosen}"] += chosen != message.skill
        missing += [] if message.pictures else [any(notice.code == "no-picture" for notice in plan.notices)]
    every = [one for sort in right.values() for one in sort]
    low, high = bootstrap([100.0 * one for one in every])
    return {
        "right_percent": _percent(every),
        "interval": [round(low, 2), round(high, 2)],
        "n": len(every),
        "without_the_skills_name_percent": _percent(
            [r for s, found in right.items() if "indirect" in s for r in found]
        ),
        "by_sort": {sort: f"{sum(found)} of {len(found)}" for sort, found in right.items()},
        "wrong": {what: count for what, count in instead.most_common() if count},
        "picture_wrongly_missing_percent": _percent(missing),
        "n_without_a_picture": len(missing),
        "ms_per_message_with_embedding": round(1000 * (time.perf_counter() - started) / len(messages), 1),
    }


# How people ask for an answer in another language.
_ENDINGS = {
    "english-german": (
        "{} In German, please.",
        "{} Answer in German.",
        "In German, {}",
        "{} (in German)",
        "Tell me in German {}",
    ),
    "english-french": (
        "{} In French, please.",
        "{} Reply in French.",
        "In French: {}",
        "{} en français",
        "Tell me in French {}",
    ),
}


def twofold(keyring: Keyring, embedder: Embedder, data: Path) -> Figures:
    """How often a message is taken for two requests, by whom for the second; a picture was sent earlier."""
    pictures, words = Recogniser.load(PICTURE_QUESTIONS), Recogniser.load(READING_QUESTIONS)
    asks = asking(embedder, pictures, keyring)

    def second_of(message: str) -> str | None:
        vectors = embedder.embed(message_pieces(message))
        found = second_request(message, vectors, embedder.embed, asks, keyring, Choices())
        if found is None:
            return None
        depths = embedder.depths(found.rest)
        rest = Question(
            texts=embedder.embed(message_pieces(found.rest)),
            asks_about_picture=pictures.recognises(depths),
            wants_words=words.recognises(depths),
            history_has_pictures=True,
            earlier_pictures=("photo",),
        )
        plan = route(rest, keyring, without(Choices(), found.chosen.name))
        return found.chosen.name if is_answered(found, rest, plan) else None

    text = data / "text"
    questions = [row["text"] for row in _rows(text / "picture-questions-dev.jsonl")]
    sentences = [row["input"] for row in _rows(text / "translation-de-dev.jsonl")]
    figures: Figures = {}
    for name, endings in _ENDINGS.items():
        for sort, said in (("questions about a picture", questions[:50]), ("sentences to translate", sentences[:50])):
            by = {ending: [second_of(ending.format(one)) == name for one in said] for ending in endings}
            found = [taken for of_ending in by.values() for taken in of_ending]
            each = {ending: _percent(taken) for ending, taken in by.items()}
            figures[f"{name}: {sort}"] = {"two_requests_percent": _percent(found), "n": len(found), "by_wording": each}
    alone = {
        "picture-questions-dev": questions,
        "plain-lookalikes-dev": [row["text"] for row in _rows(text / "plain-lookalikes-dev.jsonl")],
        "chat-dev": [row["text"] for row in _rows(text / "chat-dev.jsonl")],
    }
    for sort, messages in alone.items():
        found = [second_of(message) is not None for message in messages]
        figures[f"not: {sort}"] = {"two_requests_percent": _percent(found), "n": len(found)}
    return figures


def main(parts: Sequence[str]) -> None:
    """Print the figures of the parts asked for."""
    torch.set_num_threads(1)
    data = training_data()
    # The shipped bricks only: a user's own would change what is compared.
    keyring = Keyrings().of(Registry([shipped_models() / "bricks"]).scan())
    measures: dict[str, Callable[[], Figures]] = {
        "pictures": lambda: pictures(keyring, data),
        "later": lambda: later(keyring, data),
        "questions": lambda: questions(Embedder(fetch(BUILTIN_EMBEDDER)), data),
        "follow-ups": lambda: follow_ups(Embedder(fetch(BUILTIN_EMBEDDER)), data),
        "several": lambda: kind(
            Embedder(fetch(BUILTIN_EMBEDDER)), data, SEVERAL_PICTURES, ["one-picture", "reading-questions", "chat-dev"]
        ),
        "reading": lambda: kind(
            Embedder(fetch(BUILTIN_EMBEDDER)), data, READING_QUESTIONS, ["one-picture", "several-pictures", "chat-dev"]
        ),
        "naming": lambda: kind(
            Embedder(fetch(BUILTIN_EMBEDDER)),
            data,
            NAMING_QUESTIONS,
            ["seeing-questions", "reading-questions", "several-pictures", "chat-dev"],
        ),
        "skill": lambda: skill(keyring, Embedder(fetch(BUILTIN_EMBEDDER)), data),
        "skills": lambda: skills(keyring, Embedder(fetch(BUILTIN_EMBEDDER)), data),
        "twofold": lambda: twofold(keyring, Embedder(fetch(BUILTIN_EMBEDDER)), data),
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
