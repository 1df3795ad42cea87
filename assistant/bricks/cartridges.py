"""Brings in cartridges that peft wrote, and writes them as such again. Knows nothing of turns or of training."""

import shutil
from collections.abc import Callable
from pathlib import Path

from assistant.bricks.lifecycle import check_free
from assistant.host.host import Host
from knowledge_bricks.cartridge import CONFIG, WEIGHTS, read_cartridge
from knowledge_bricks.methods.cartridge import CartridgeParts
from mattoni.card import CARD, BrickCard, card_beside, check_files, describe_files, read_card, write_card
from mattoni.errors import MattoniError
from mattoni.files import replace_folder
from mattoni.hub import licence_of, name_from, source_title
from mattoni.keys import KEYS

_README = "README.md"
_FILES = (CONFIG, WEIGHTS, KEYS)


def import_cartridge(
    source: Path,
    bricks: Path,
    name: str | None,
    host: Host,
    publish: Callable[[Callable[[], None]], object] = lambda swap: swap(),
) -> BrickCard:
    """Make the brick `bricks/NAME` of a folder that peft wrote, its files byte for byte; with a card if it has none.

    name     None: as its card says, else made from the folder's
    publish  calls the last step, which puts the brick in its place, at a time when no turn reads it

    Raises MattoniError with one sentence when it is damaged or for another host, or the name is taken; then nothing is written.
    """
    own = _own_card(source)
    chosen = name or (own.name if own else name_from(str(source)))
    check_free(chosen, bricks)
    layers = read_cartridge(source, host.key_shape, host.name)

    def fill(fresh: Path) -> None:
        _copy(source, fresh)
        card = own or _new_card(chosen, source, layers[0][0].shape[1], host)
        write_card(card.model_copy(update={"name": chosen, "files": describe_files(fresh)}), fresh)

    replace_folder(bricks / chosen, fill, publish)
    return read_card(bricks / chosen)


def export_cartridge(brick: Path, card: BrickCard, target: Path) -> Path:
    """Write a cartridge as the folder that it came in, every byte as it is, its card and keys beside it. Returns the folder.

    `PeftModel.from_pretrained(host, target)` loads it, and `mattoni bricks add` brings back the same brick.

    Raises MattoniError when the brick is damaged or the folder is there.
    """
    check_files(card, brick)
    if target.exists():
        raise MattoniError(f"{target} is there already: name a folder that is not.")

    def fill(fresh: Path) -> None:
        _copy(brick, fresh)
        shutil.copyfile(brick / CARD, fresh / CARD)

    replace_folder(target, fill)
    return target


def _copy(source: Path, target: Path) -> None:
    for name in (*_FILES, _README):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _own_card(folder: Path) -> BrickCard | None:
    """The card that a cartridge brings from another Mattoni, its files checked."""
    card = card_beside(folder)
    if card is None:
        return None
    if not isinstance(card.parts, CartridgeParts):
        raise MattoniError(f"{folder.name}/{CARD} is that of a {card.kind} brick and of no cartridge: remove it.")
    check_files(card, folder)
    return card


def _new_card(name: str, source: Path, positions: int, host: Host) -> BrickCard:
    """A card for a cartridge that has none. Without its text it has no routes: only the user chooses it."""
    return BrickCard(
        schema=1,
        name=name,
        kind="knowledge",
        title=name.replace("-", " ").capitalize(),
        summary=f"A cartridge of {positions:,} positions that was trained elsewhere.",
        host=host.identity,
        injects=("prefix",),
        parts=CartridgeParts(method="cartridge", positions=positions),
        training={"imported_from": source_title(str(source))},
        licence=licence_of(source / _README),
        limits="Imported: nobody here has measured it. It has no routing keys, so it is used only when switched on.",
    )
