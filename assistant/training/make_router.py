"""Remakes what the router decides by, from training data and from the messages in models/router:

    python -m assistant.training.make_router questions                  which messages ask about a picture
    python -m assistant.training.make_router follow-ups                 which messages go on with what was said
    python -m assistant.training.make_router several                    which messages are about several pictures
    python -m assistant.training.make_router reading                    which messages want the words in a picture
    python -m assistant.training.make_router naming                     which messages ask what a thing is called
    python -m assistant.training.make_router keys                       the keys of the shipped bricks `photo`, `document` and `chart`
    python -m assistant.training.make_router skill FOLDER RECIPE        the keys of a skill, from its training recipe

The keys of a skill are first made by its training (`mattoni train task`), those of a user's image brick from example pictures
(`mattoni bricks examples`). Nothing is trained here.
"""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from assistant.host.catalogue import BUILTIN_EMBEDDER, fetch
from assistant.host.embedder import Embedder
from assistant.turn.recogniser import (
    FOLLOW_UPS,
    NAMING_QUESTIONS,
    PICTURE_QUESTIONS,
    READING_QUESTIONS,
    SEVERAL_PICTURES,
    Recogniser,
    unit_depths,
)
from mattoni.card import Routes, describe_files, read_card, write_card
from mattoni.errors import MattoniError
from mattoni.keys import KEYS, make_keys, save_keys
from mattoni.lines import json_rows
from mattoni.paths import shipped_models, training_data
from modality_bricks.glance import Glance
from modality_bricks.training.glance import pictures as drawn
from modality_bricks.training.glance.canvas import Kind, read_material
from task_bricks.training.messages import read_messages, read_texts
from task_bricks.training.recipe import read_recipe
from task_bricks.training.routing import make_skill_keys

FOLDS = 5
# Documents look most various, charts most alike; chosen with docs/experiments.md's dev pictures.
MOST_KEYS = {"photo": 32, "document": 48, "chart": 4}
# Chosen by cross-validation on the messages of models/router (docs/experiments.md).
PENALTY = 1e-4
# Questions of DAQUAR are many and alike, chat messages many and easy: the written messages count most.
DAQUAR_ROWS, DAQUAR_WEIGHT, CHAT_WEIGHT = 1000, 0.1, 0.3
# The plain messages here are made to be mistaken; among real ones a threshold that finds these few misses less.
FOUND = 0.95
# A follow-up that is not seen as one is asked without what it goes on with; one message more keeps a picture that it
# does not need, as all did before.
FOLLOW_UPS_FOUND = 0.98
# Who asks for words and is not heard is answered by a brick that cannot read; a needless reading costs a second.
READING_FOUND = 0.99
# A guess of a name helps who asks for one; before a description it misleads.
NAMING_FOUND = 0.95
# A comparison that is not seen is answered from the latest picture alone; two pictures needlessly in the prompt cost little.
SEVERAL_FOUND = 0.96
# Behind two pictures in one message most of what is asked is about both, and the skill that compares can answer the rest.
EXPECTED_FOUND = 0.99


@dataclass(frozen=True)
class Group:
    """Messages of one origin: the recogniser's own or not, and how much each counts."""

    name: str
    texts: Sequence[str]
    wanted: bool
    weight: float = 1.0


def picture_question_groups() -> list[Group]:
    """Messages that ask about a picture, and others; the written ones weigh 1."""
    folder, data = shipped_models() / "router", training_data()
    rooms = sorted({row.value["question"] for row in json_rows(data / "vision" / "daquar-train.jsonl")})
    rooms = [rooms[row] for row in np.random.default_rng(0).permutation(len(rooms))[:DAQUAR_ROWS]]
    return [
        Group("asks", read_messages(folder / "picture-questions.txt"), True),
        Group("plain", read_messages(folder / "plain-messages.txt"), False),
        Group("chat", read_texts(data / "text" / "chat-train.jsonl"), False, CHAT_WEIGHT),
        Group("rooms", rooms, True, DAQUAR_WEIGHT),
    ]


def follow_up_groups() -> list[Group]:
    """Messages that go on with what was said, and others; what stands among the follow-ups is one wherever else it stands."""
    folder, data = shipped_models() / "router", training_data()
    follow_ups = read_messages(folder / "follow-ups.txt")
    known = {_bare(text) for text in follow_ups}
    chat = read_texts(data / "text" / "chat-train.jsonl")

    def others(texts: Sequence[str]) -> list[str]:
        return [text for text in texts if _bare(text) not in known]

    return [
        Group("follow-ups", follow_ups, True),
        Group("stand-alone", others(read_messages(folder / "stand-alone.txt")), False),
        Group("plain", others(read_messages(folder / "plain-messages.txt")), False),
        Group("chat", others(chat), False, CHAT_WEIGHT),
    ]


def several_picture_groups() -> list[Group]:
    """Messages about several pictures or an earlier one, those about the latest, and those about none."""
    folder, data = shipped_models() / "router", training_data()
    several = read_messages(folder / "several-pictures.txt")
    known = {_bare(text) for text in several}
    asks = [text for text in read_messages(folder / "picture-questions.txt") if not _SEVERAL.search(text)]
    one = [*read_messages(folder / "one-picture.txt"), *asks]
    return [
        Group("several", several, True),
        Group("one", [text for text in one if _bare(text) not in known], False),
        Group("plain", read_messages(folder / "plain-messages.txt"), False, CHAT_WEIGHT),
        Group("chat", read_texts(data / "text" / "chat-train.jsonl"), False, CHAT_WEIGHT),
    ]


def reading_groups() -> list[Group]:
    """Messages that want the words in a picture, other questions about pictures, and messages about none."""
    folder, data = shipped_models() / "router", training_data()
    asks = [text for text in read_messages(folder / "picture-questions.txt") if not _READING.search(text)]
    return [
        Group("reading", read_messages(folder / "reading-questions.txt"), True),
        Group("seeing", [*asks, *read_messages(folder / "one-picture.txt")], False),
        Group("several", read_messages(folder / "several-pictures.txt"), False, CHAT_WEIGHT),
        Group("plain", read_messages(folder / "plain-messages.txt"), False, CHAT_WEIGHT),
        Group("chat", read_texts(data / "text" / "chat-train.jsonl"), False, CHAT_WEIGHT),
    ]


def naming_groups() -> list[Group]:
    """Messages that ask what a thing is called, other questions about pictures, and messages about none."""
    folder, data = shipped_models() / "router", training_data()
    asks = [*read_messages(folder / "picture-questions.txt"), *read_messages(folder / "one-picture.txt")]
    return [
        Group("naming", read_messages(folder / "naming-questions.txt"), True),
        Group("seeing", sorted({text for text in asks if not _NAMING.search(text)}), False),
        Group("several", read_messages(folder / "several-pictures.txt"), False, CHAT_WEIGHT),
        Group("reading", read_messages(folder / "reading-questions.txt"), False, CHAT_WEIGHT),
        Group("plain", read_messages(folder / "plain-messages.txt"), False, CHAT_WEIGHT),
        Group("chat", read_texts(data / "text" / "chat-train.jsonl"), False, CHAT_WEIGHT),
    ]


# Of `picture-questions.txt`, which was written for another question, what may be of the kind is left out of both sides.
_SEVERAL = re.compile(
    r"\b(both|two|second|first|these|pictures|photos|images|differ\w*|compare\w*|other|alike)\b", re.I
)
_READING = re.compile(
    r"\b(say\w*|read\w*|writ\w*|word\w*|text|title|headline|letter\w*|name\w*|number\w*|page|line|paragraph|translat\w*|total|"
    r"price\w*|cost\w*|date\w*|address|phone|transcribe|type|label\w*|caption|error|message|receipt|bill|menu|sign\w*|form|spell\w*|"
    r"brand|logo|note\w*|list|summar\w*|table|chart|graph|axis|highest|lowest|percent\w*|value\w*|screen\w*|document|quote|clock|plate)\b",
    re.I,
)

_NAMING = re.compile(
    r"what('?s| is| are| was)? (in|on|inside|this|that|it|these|those|there|they)\b|\b(name\w*|identif\w*|recogni\w*|call\w*|kind|type|"
    r"sort|breed|species|guess|idea|know|see|show\w*|this one|that one|which \w+ is|what \w+ is (this|that|it))\b",
    re.I,
)


def _bare(text: str) -> str:
    return re.sub(r"\W+", " ", text.lower()).strip()


def fit(x: Tensor, labels: Tensor, weights: Tensor, penalty: float = PENALTY) -> tuple[Tensor, float]:
    """Weighted logistic regression with an L2 penalty: (n, width) to a direction (width,) and an offset."""
    direction, offset = torch.zeros(x.shape[1], requires_grad=True), torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.LBFGS([direction, offset], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(x @ direction + offset, labels, reduction="none")
        total = (entropy * weights).sum() / weights.sum() + penalty * direction.square().sum()
        total.backward()
        return total

    optimiser.step(loss)
    return direction.detach(), offset.item()


def make_recogniser(kind: str, groups: Sequence[Group], found: float) -> dict[str, float]:
    """Fit and write the direction; gives what five-fold cross-validation says of it, group by group.

    found  the share of the first group that the threshold lets through in cross-validation; where such a message is to be
           expected, `EXPECTED_FOUND`
    """
    embedder = Embedder(fetch(BUILTIN_EMBEDDER))
    depths = torch.stack([embedder.depths(text) for group in groups for text in group.texts])
    labels = torch.cat([torch.full((len(group.texts),), float(group.wanted)) for group in groups])
    weights = torch.cat([torch.full((len(group.texts),), group.weight) for group in groups])
    mean = depths[weights == 1].mean(dim=0)
    x = unit_depths(depths, mean).flatten(1)
    fold = torch.randint(0, FOLDS, (len(x),), generator=torch.Generator().manual_seed(0))
    scores = torch.zeros(len(x))
    for number in range(FOLDS):
        direction, offset = fit(x[fold != number], labels[fold != number], weights[fold != number])
        scores[fold == number] = x[fold == number] @ direction + offset
    of_group = scores.split([len(group.texts) for group in groups])
    threshold, expected = of_group[0].quantile(torch.tensor([1 - found, 1 - EXPECTED_FOUND])).tolist()
    direction, offset = fit(x, labels, weights)
    Recogniser(mean, direction.view_as(mean), threshold - offset, expected - offset).save(
        kind, shipped_models() / "router"
    )
    figures: dict[str, float] = {}
    for group, found_scores in zip(groups, of_group, strict=True):
        right = (found_scores >= threshold) == group.wanted
        figures |= {f"{group.name}_right_percent": round(100 * float(right.float().mean()), 1), group.name: len(right)}
    return figures


def example_vectors(glance: Glance, data: Path, each: int = 60, photos: int = 300) -> dict[str, Tensor]:
    """Embeddings of training pictures for the two shipped image bricks, and of what is for neither.

    The seeds are not those that `glance` was trained with; sizes are drawn without looking at the kind.
    """
    material = read_material(data)
    rng = np.random.default_rng(1)

    def embed(pictures: Sequence[Image.Image]) -> Tensor:
        sides = rng.choice([64, 128, 256, 512], len(pictures))
        return glance.embed([p.resize((s, s), reducing_gap=3.0) for p, s in zip(pictures, sides.tolist(), strict=True)])

    def draw(kinds: Sequence[Kind]) -> list[Image.Image]:
        return [kind(np.random.default_rng([1, k, n]), material) for k, kind in enumerate(kinds) for n in range(each)]

    large = [drawn.photo(np.random.default_rng([1, 99, n]), material) for n in range(photos)]
    tiny = list(drawn.tiny_photos(data, 10_000 + photos))[10_000:]
    pages = draw([*drawn.DOCUMENTS, drawn.photo_of_text, drawn.photo_of_text])
    return {
        "photo": embed(large + tiny),
        "document": embed(pages),
        "chart": embed(draw([*drawn.CHARTS, *drawn.CHARTS[:2]])),
        "neither": embed(draw(drawn.OTHERS)),
    }


def write_keys(folder: Path, keys: Tensor, threshold: float) -> None:
    """Put the `glance` keys of an image brick into its folder and the way to them on its card."""
    save_keys(keys, folder / KEYS)
    write_routes(folder, Routes(space="glance", keys=KEYS, threshold=round(threshold, 4)))


def write_routes(folder: Path, routes: Routes) -> None:
    """Put the way to new keys, and their hash, on a brick's card."""
    card = read_card(folder)
    write_card(card.model_copy(update={"routes": routes, "files": describe_files(folder)}), folder)


def make_shipped_keys() -> dict[str, float]:
    """Keys of `photo`, `document` and `chart`; gives their thresholds."""
    vectors = example_vectors(Glance.load(), training_data())
    thresholds = {}
    for name, most in MOST_KEYS.items():
        # They compete by score; a threshold only has to tell what is for none of them.
        keys, threshold = make_keys(vectors[name], vectors["neither"], most)
        write_keys(shipped_models() / "bricks" / name, keys, threshold)
        thresholds[name] = threshold
    return thresholds


def make_skill_brick_keys(folder: Path, recipe_path: Path) -> dict[str, float]:
    """Keys of a skill by its training recipe, without training it."""
    recipe = read_recipe(recipe_path)
    made = make_skill_keys(recipe, recipe_path.parent, training_data(), Embedder(fetch(BUILTIN_EMBEDDER)).embed)
    routes = Routes.model_validate(made.save(folder))
    card = read_card(folder)
    if recipe.routing is not None and isinstance(card.training.get("recipe"), dict):
        card.training["recipe"]["routing"] = recipe.routing.model_dump(mode="json")
        write_card(card, folder)
    write_routes(folder, routes)
    return {folder.name: routes.threshold}


def main(arguments: list[str]) -> None:
    """Run one of the commands in the docstring of this module."""
    torch.set_num_threads(1)
    match arguments:
        case ["questions"]:
            print(json.dumps(make_recogniser(PICTURE_QUESTIONS, picture_question_groups(), FOUND)))
        case ["follow-ups"]:
            print(json.dumps(make_recogniser(FOLLOW_UPS, follow_up_groups(), FOLLOW_UPS_FOUND)))
        case ["several"]:
            print(json.dumps(make_recogniser(SEVERAL_PICTURES, several_picture_groups(), SEVERAL_FOUND)))
        case ["reading"]:
            print(json.dumps(make_recogniser(READING_QUESTIONS, reading_groups(), READING_FOUND)))
        case ["naming"]:
            print(json.dumps(make_recogniser(NAMING_QUESTIONS, naming_groups(), NAMING_FOUND)))
        case ["keys"]:
            print(json.dumps(make_shipped_keys()))
        case ["skill", folder, recipe]:
            print(json.dumps(make_skill_brick_keys(Path(folder), Path(recipe))))
        case _:
            print(__doc__)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except MattoniError as problem:
        sys.exit(str(problem))
