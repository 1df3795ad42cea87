"""Makes an image brick routable from example pictures, and says how well they are recognised.

Nothing is trained and nothing of another brick changes: of the others only the keys and thresholds on their cards are
known here, of the brick itself only its pictures, each judged by the keys that the rest of them make.
"""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from assistant.registry import Bricks
from assistant.turn.keyring import Keyrings
from assistant.turn.look import look
from mattoni.card import BrickCard, Routes, describe_files, read_card, write_card
from mattoni.errors import MattoniError
from mattoni.files import replace_folder
from mattoni.inputs import Attachment, Picture
from mattoni.keys import KEYS, make_keys_from_few, save_keys, scores
from mattoni.paths import shipped_models
from modality_bricks.glance import Glance, even_out, grey_square

LEAST = 10  # pictures that differ
MOST = 200
# Root of the mean squared difference of two evened-out pictures of 32 x 32: below it is one picture twice.
SAME = 0.1


@dataclass(frozen=True)
class Added:
    """A brick that was given keys, and what was measured on its examples, each judged by keys that the others made."""

    card: BrickCard
    examples: int
    recognised: int  # of the examples: nearer to the keys of the others than to any other brick's
    typical: float  # median score of an example
    nearest: str | None  # the other brick that comes nearest to the examples
    rival: float  # the median of their scores with it

    @property
    def sentence(self) -> str:
        """What was measured, in words."""
        said = (
            f"'{self.card.name}' is chosen by its pictures now: {self.recognised} of {self.examples} examples "
            f"are recognised by the others (score {self.typical:.2f})"
        )
        if self.nearest is None:
            return f"{said}; no other image brick has keys."
        return f"{said}; the nearest other brick is '{self.nearest}' ({self.rival:.2f})."


def add_examples(
    name: str,
    files: Iterable[Attachment],
    bricks: Bricks,
    glance: Glance,
    publish: Callable[[Callable[[], None]], object] = lambda swap: swap(),
) -> Added:
    """Give a brick of the user's keys from example pictures; keys that it had are replaced, its version goes up.

    What is recognised is measured against the other bricks' keys: their pictures are not on a user's machine.

    publish  calls the step that others notice, at a time when nobody uses the brick

    Raises MattoniError, and changes nothing, when the brick is not the user's or sees no pictures, when a file is no picture,
    when fewer than LEAST of the pictures differ, and when most of them look like another brick's.
    """
    brick = bricks.get(name)
    if brick.card.kind != "modality":
        raise MattoniError(f"'{name}' is a {brick.card.kind} brick: only image bricks are chosen by pictures.")
    if brick.folder.is_relative_to(shipped_models()):
        raise MattoniError(f"'{name}' came with Mattoni, and so did its keys: give examples to a brick of yours.")
    own = read_pictures(files, glance)
    rivals = [b for b in Keyrings().of(bricks).bricks if b.name != name and b.space == "glance" and b.keys is not None]
    others = torch.cat([own[:0], *(b.keys for b in rivals if b.keys is not None)])
    keys, threshold, left_out = make_keys_from_few(own, others)
    theirs = [scores(own, b.keys, b.counter) for b in rivals if b.keys is not None]
    # A row of -1, the least that an inner product can be, stands for nobody.
    table = torch.stack([*theirs, torch.full((len(own),), -1.0)])
    recognised = int((left_out > table.amax(dim=0)).sum())
    typical = table.median(dim=1).values
    nearest = rivals[int(typical.argmax())].name if rivals else None
    if 2 * recognised < len(own):
        raise MattoniError(
            f"Only {recognised} of {len(own)} examples differ enough from what '{nearest}' looks at, and '{name}' would "
            f"seldom be chosen: nothing was changed. Give other pictures, or choose '{name}' by hand."
        )
    routes = Routes(space="glance", keys=KEYS, threshold=round(threshold, 4))
    # As it is on the disk, with the variants for other hosts: they share the keys.
    whole = read_card(brick.folder)
    card = whole.model_copy(update={"routes": routes, "version": whole.version + 1})

    def fill(fresh: Path) -> None:
        shutil.copytree(brick.folder, fresh, dirs_exist_ok=True)
        save_keys(keys, fresh / KEYS)
        write_card(card.model_copy(update={"files": describe_files(fresh)}), fresh)

    replace_folder(brick.folder, fill, publish)
    return Added(read_card(brick.folder), len(own), recognised, float(left_out.median()), nearest, float(typical.max()))


def read_pictures(files: Iterable[Attachment], glance: Glance) -> Tensor:
    """The `glance` vectors of example pictures, (n, width); one picture twice counts once.

    Opened one after the other, so that many take no more memory than one. Raises MattoniError as `add_examples` does.
    """
    vectors, seen, sent = [], torch.empty(0, 32 * 32), 0
    for sent, file in enumerate(files, 1):
        if sent > MOST:
            raise MattoniError(f"More than {MOST} example pictures are not used: choose some of them.")
        looked = look([file])
        refused = next((notice.text for notice in looked.notices if notice.code == "refused"), None)
        if refused is not None:
            raise MattoniError(refused)
        item = looked.items[0]
        if not isinstance(item, Picture):
            raise MattoniError(f"{item.name} is no picture: leave it out.")
        small = even_out(torch.tensor(grey_square(item.image, 32))[None, None]).flatten(1)
        if len(seen) and (seen - small).square().mean(dim=1).sqrt().min() < SAME:
            continue
        seen = torch.cat([seen, small])
        vectors.append(glance.embed([item.image]))
    if len(vectors) < LEAST:
        alike = f", {len(vectors)} without copies of one another," if len(vectors) < sent else ""
        raise MattoniError(f"{sent} example pictures{alike} are too few: give {LEAST} that differ, better 20.")
    return torch.cat(vectors)
