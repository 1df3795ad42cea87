"""Remakes what the router decides by, from training data and from the messages in models/router:

    python -m assistant.make_router questions    which messages ask about a picture
    python -m assistant.make_router keys         the glance keys of the bricks `photo` and `document`

Keys of a skill are made by its training (`mattoni train task`).
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from assistant.catalogue import BUILTIN_EMBEDDER, fetch
from assistant.embedder import Embedder
from assistant.picture_questions import PictureQuestions, unit_depths
from mattoni.paths import shipped_models, training_data

FOLDS = 5
# Chosen by cross-validation on the messages of models/router (docs/experiments.md).
PENALTY = 3e-4
# Questions of DAQUAR are many and alike, chat messages many and easy: the written messages count most.
DAQUAR_ROWS, DAQUAR_WEIGHT, CHAT_WEIGHT = 1000, 0.1, 0.3
# Whom a needless notice annoys is many more than who forgets the picture; the target is 95 % of these and 97 % of those.
ASKS_RIGHT, PLAIN_RIGHT = 0.95, 0.97


def read_messages() -> tuple[list[str], Tensor, Tensor]:
    """Messages, whether they ask about a picture (0 or 1), and their weights; the written ones first."""
    folder, data = shipped_models() / "router", training_data()
    asks = (folder / "picture-questions.txt").read_text(encoding="utf-8").splitlines()
    plain = (folder / "plain-messages.txt").read_text(encoding="utf-8").splitlines()
    with (data / "text" / "chat-train.jsonl").open(encoding="utf-8") as file:
        chat = [json.loads(line)["text"] for line in file]
    with (data / "vision" / "daquar-train.jsonl").open(encoding="utf-8") as file:
        rooms = sorted({json.loads(line)["question"] for line in file})
    rooms = [rooms[row] for row in np.random.default_rng(0).permutation(len(rooms))[:DAQUAR_ROWS]]
    groups = [(asks, 1.0, 1.0), (plain, 0.0, 1.0), (chat, 0.0, CHAT_WEIGHT), (rooms, 1.0, DAQUAR_WEIGHT)]
    texts = [text for group, _, _ in groups for text in group]
    labels = torch.cat([torch.full((len(group),), label) for group, label, _ in groups])
    weights = torch.cat([torch.full((len(group),), weight) for group, _, weight in groups])
    return texts, labels, weights


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

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return direction.detach(), offset.item()


def make_questions() -> dict[str, float]:
    """Fit and write the direction; gives what five-fold cross-validation says of it."""
    texts, labels, weights = read_messages()
    embedder = Embedder(fetch(BUILTIN_EMBEDDER))
    depths = torch.stack([embedder.depths(text) for text in texts])
    mean = depths[weights == 1].mean(dim=0)
    x = unit_depths(depths, mean).flatten(1)
    fold = torch.randint(0, FOLDS, (len(texts),), generator=torch.Generator().manual_seed(0))
    scores = torch.zeros(len(texts))
    for number in range(FOLDS):
        direction, offset = fit(x[fold != number], labels[fold != number], weights[fold != number])
        scores[fold == number] = x[fold == number] @ direction + offset
    written = weights == 1
    asks, plain, chat = scores[written & (labels == 1)], scores[written & (labels == 0)], scores[weights == CHAT_WEIGHT]
    cuts = scores[written].sort().values
    slack = torch.stack([torch.minimum((asks >= c).float().mean() - ASKS_RIGHT, (plain < c).float().mean() - PLAIN_RIGHT)
                         for c in cuts])  # fmt: skip
    threshold = float(cuts[slack.argmax()])
    direction, offset = fit(x, labels, weights)
    questions = PictureQuestions(mean, direction.view_as(mean), threshold - offset)
    questions.save(shipped_models() / "router")
    return {
        "asks_right_percent": round(100 * float((asks >= threshold).float().mean()), 1),
        "plain_right_percent": round(100 * float((plain < threshold).float().mean()), 1),
        "chat_right_percent": round(100 * float((chat < threshold).float().mean()), 1),
        "asks": len(asks), "plain": len(plain), "chat": len(chat),
    }  # fmt: skip
