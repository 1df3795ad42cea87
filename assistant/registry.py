"""Finds brick folders, checks them, and says which fit the host. Knows nothing of what bricks do.

The scan is cheap enough for every turn: a brick that appears in or leaves a folder is seen without a restart. Digests
are computed once per state of a folder (names, sizes, times).
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open

from mattoni.card import CARD, BrickCard, HostIdentity, brick_digest, check_files, read_card
from mattoni.errors import MattoniError
from mattoni.files import is_pickle, write_text
from mattoni.methods import Parts
from mattoni.runtime import Accepts

if TYPE_CHECKING:
    from assistant.host.host import Host

OFF = ".off"  # in the user's folder: a name on each line
_SHAPE = ("model_type", "hidden_size", "layers", "vocabulary")
_FLOATS, _SMALL_FLOATS = ("F16", "BF16", "F32", "F64"), ("F8_E4M3", "F8_E5M2")


@dataclass(frozen=True)
class Brick:
    """A usable brick: its folder, its card, the digest of its contents, and a warning if its host is another."""

    folder: Path
    card: BrickCard
    digest: str
    warning: str | None = None
    place: str = ""  # of what belongs to this host, in the folder
    borrowed: bool = False  # it answers with another host than the one that the bricks were looked up for

    @property
    def host_folder(self) -> Path:
        """Where the files lie that belong to one host: a variant's folder, or the brick's own."""
        return self.folder / self.place

    @property
    def name(self) -> str:
        """The card's name."""
        return self.card.name

    @property
    def parts(self) -> Parts:
        """What the card says of how the brick is made, in its method's own type."""
        return self.card.parts

    @property
    def threshold(self) -> float | None:
        """How near a message or picture must come, where that is known."""
        return self.card.routes.threshold if self.card.routes is not None else None

    def accepts(self, what: Accepts) -> bool:
        """Whether it can be given a picture, a page, a sound or the message."""
        return what in self.card.takes


@dataclass(frozen=True)
class Refused:
    """A folder that is set aside, and the one sentence why."""

    name: str
    folder: Path
    sentence: str
    is_off: bool = False  # the user wants it so; nothing is wrong with it


@dataclass(frozen=True)
class Bricks:
    """One state of the brick folders."""

    usable: tuple[Brick, ...]
    refused: tuple[Refused, ...]

    def get(self, name: str) -> Brick:
        """The usable brick of that name; else raises MattoniError: why it is refused, or which names there are."""
        for brick in self.usable:
            if brick.name == name:
                return brick
        for refused in self.refused:
            if refused.name == name:
                raise MattoniError(f"The brick '{name}' is set aside: {refused.sentence}")
        names = ", ".join(sorted(b.name for b in self.usable)) or "none"
        raise MattoniError(f"There is no brick called '{name}' (installed: {names}).")

    def among(self, names: Collection[str]) -> "Bricks":
        """Those of these names; nothing is said of the others."""
        return Bricks(
            tuple(b for b in self.usable if b.name in names), tuple(r for r in self.refused if r.name in names)
        )

    def without_borrowed(self) -> "Bricks":
        """The host's own, for a turn that stays here."""
        aside = (
            Refused(b.name, b.folder, f"{b.name} was made for another host, and another brick that is on for this one.")
            for b in self.usable
            if b.borrowed
        )
        return Bricks(tuple(b for b in self.usable if not b.borrowed), (*self.refused, *aside))

    def borrowing(self, theirs: "Bricks", except_for: Collection[str] = ()) -> "Bricks":
        """These with the skills and image bricks that are refused here and fit the host that `theirs` were looked up for."""
        lacking = {refused.name for refused in self.refused if not refused.is_off} - set(except_for)
        lent = [brick for brick in theirs.usable if brick.name in lacking and can_be_lent(brick.card)]
        names = {brick.name for brick in lent}
        return Bricks(
            (*self.usable, *(replace(brick, borrowed=True) for brick in lent)),
            tuple(refused for refused in self.refused if refused.name not in names),
        )


def can_be_lent(card: BrickCard) -> bool:
    """Whether a turn that wants a brick can go to another host, whole: one with a skill, or about a picture.

    A skill that reads what other bricks found takes part in turns that are the assistant's own host's.
    """
    return not card.parts.needs.passages if card.kind == "task" else card.kind == "modality" and "picture" in card.takes


def check_weights(folder: Path, card: BrickCard) -> None:
    """Raise MattoniError when a file is pickled, is no safetensors file, or holds NaN or infinity."""
    for name in card.all_files:
        path = folder / name
        if is_pickle(path):
            raise MattoniError(f"{card.name}/{name} is a pickle, which can run code: convert it to safetensors.")
        if path.suffix != ".safetensors":
            continue
        try:
            with safe_open(path, framework="pt") as tensors:
                for key in tensors.keys():
                    kind = tensors.get_slice(key).get_dtype()
                    if kind not in (*_FLOATS, *_SMALL_FLOATS):
                        continue
                    tensor = tensors.get_tensor(key)
                    # torch looks for NaN in sixteen bits and more.
                    if not torch.isfinite(tensor.bfloat16() if kind in _SMALL_FLOATS else tensor).all():
                        raise MattoniError(
                            f"{card.name}/{name}: the tensor '{key}' holds NaN or infinity; train or copy it again."
                        )
        except (SafetensorError, OSError) as problem:
            raise MattoniError(
                f"{card.name}/{name} is not a readable safetensors file: copy the brick again."
            ) from problem


def unlisted_files(folder: Path, card: BrickCard) -> list[str]:
    """Files beside the card that it does not list; a pickle or a program among them would go unchecked."""
    known = {CARD, "README.md", *card.all_files}
    inside = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return sorted(p.as_posix() for p in inside if p.as_posix() not in known and "versions" not in p.parts)


def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of a folder's files: changes when a file does."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return tuple((p.as_posix(), (s := p.stat()).st_size, s.st_mtime_ns) for p in files)


def switched_off(folder: Path) -> frozenset[str]:
    """The names of the bricks that the user has switched off for good."""
    path = folder / OFF
    return frozenset(path.read_text(encoding="utf-8").split()) if path.is_file() else frozenset()


def switch(folder: Path, name: str, is_on: bool) -> None:
    """Switch a brick off in all conversations, or on again."""
    names = switched_off(folder) - {name} if is_on else switched_off(folder) | {name}
    write_text(folder / OFF, "".join(f"{one}\n" for one in sorted(names)))


class Registry:
    """The bricks of some folders, seen afresh at every `scan`; earlier folders hide later bricks of the same name.

    The first folder is the user's, and says which bricks are switched off, wherever they lie.
    """

    def __init__(self, folders: list[Path]) -> None:
        self._folders = folders
        # By folder: its stamp when it was checked, and what came of it. Host-independent, so that hosts can share it.
        self._checked: dict[Path, tuple[object, Brick | Refused]] = {}

    def elsewhere(self, folders: list[Path]) -> "Registry":
        """The bricks of other folders; one that lies in both is checked once."""
        other = Registry(folders)
        other._checked = self._checked
        return other

    def scan(self, host: "Host | HostIdentity | None" = None) -> Bricks:
        """All bricks as they are now; with a host, those made for another one are refused."""
        found: dict[str, Brick | Refused] = {}
        for parent in self._folders:
            for folder in sorted(parent.iterdir()) if parent.is_dir() else []:
                if folder.name in found or folder.name.startswith(".") or not folder.is_dir():
                    continue
                found[folder.name] = self._check(folder)
        off = switched_off(self._folders[0]) if self._folders else frozenset()
        found = {name: _switched_off(entry) if name in off else entry for name, entry in found.items()}
        fitted = [_fit(entry, host) for entry in found.values()]
        return Bricks(
            usable=tuple(e for e in fitted if isinstance(e, Brick)),
            refused=tuple(e for e in fitted if isinstance(e, Refused)),
        )

    def _check(self, folder: Path) -> Brick | Refused:
        try:
            stamp = _stamp(folder)
        except OSError:
            # The folder is being removed this moment.
            return Refused(folder.name, folder, f"{folder.name} cannot be read: copy it again or remove it.")
        known = self._checked.get(folder)
        if known is None or known[0] != stamp:
            known = (stamp, check_brick(folder))
            self._checked[folder] = known
        return known[1]


def check_brick(folder: Path) -> Brick | Refused:
    """Card, files, digests and weights of one folder, whatever the host."""
    try:
        card = read_card(folder)
        check_files(card, folder)
        check_weights(folder, card)
        strangers = unlisted_files(folder, card)
        if strangers:
            raise MattoniError(
                f"{card.name}/{strangers[0]} is not listed on the card: remove it or list it under files."
            )
    except MattoniError as problem:
        return Refused(folder.name, folder, str(problem))
    return Brick(folder, card, brick_digest(card))


def _switched_off(entry: Brick | Refused) -> Refused:
    sentence = f"{entry.name} is switched off: `mattoni bricks on {entry.name}` brings it back."
    return Refused(entry.name, entry.folder, sentence, is_off=True)


def _fit(entry: Brick | Refused, host: "Host | HostIdentity | None") -> Brick | Refused:
    """The brick as it is for this host: its variant, if there are several."""
    if isinstance(entry, Refused) or host is None or entry.card.host is None:
        return entry
    mine = host if isinstance(host, HostIdentity) else host.identity
    bricks = _for_each_host(entry)
    for brick in bricks:
        if brick.card.host is not None and mine.fingerprint == brick.card.host.fingerprint:
            return brick
    for brick in bricks:
        if all(getattr(mine, f) == getattr(brick.card.host, f) for f in _SHAPE):
            warning = f"{entry.name} was made for other weights of the same shape; it may answer worse on this host."
            return replace(brick, warning=warning)
    theirs = "; ".join(_shape(brick.card.host) for brick in bricks if brick.card.host is not None)
    return Refused(
        entry.name,
        entry.folder,
        f"{entry.name} was made for {'other hosts' if len(bricks) > 1 else 'another host'} ({theirs}; this is {_shape(mine)}): "
        f"{_advice(entry.card, None if isinstance(host, HostIdentity) else host.name)}",
    )


def _for_each_host(brick: Brick) -> tuple[Brick, ...]:
    """A brick once for each host that it has a variant for."""
    if not brick.card.variants:
        return (brick,)
    places = ("", *(variant.place for variant in brick.card.variants))
    return tuple(
        Brick(brick.folder, card, brick_digest(card), place=place)
        for card, place in zip(brick.card.for_each_host(), places, strict=True)
    )


def _advice(card: BrickCard, host: str | None) -> str:
    """How the variant comes about that is missing: the command, where the card says how the brick was trained."""
    command = train_command(card)
    if command is None:
        return "train it for this one."
    return f"`{command} --host {host or 'NAME'}` adds what it needs for this one."


def train_command(card: BrickCard) -> str | None:
    """The command that trained a brick for one of its hosts, all its stages in one; None where the card does not say.

    Where a variant took fewer stages than another, as it was carried over, its command is the one for a further host too.
    """
    found = [own for own in map(_train_command, card.for_each_host()) if own is not None]
    return min(found, key=lambda command: len(command.split()), default=None)


def _train_command(card: BrickCard) -> str | None:
    commands = card.training.get("command")
    lines = [commands] if isinstance(commands, str) else commands if isinstance(commands, list) else []
    words = [str(line).split() for line in lines]
    # `python -m PACKAGE.train CONFIG`, once a stage; what such a line says beside that belonged to its own host.
    if not words or any(len(line) < 4 or line[:3] != words[0][:3] for line in words):
        return None
    return " ".join([*words[0][:3], *dict.fromkeys(line[3] for line in words)])


def _shape(host: HostIdentity) -> str:
    return f"{host.model_type}, width {host.hidden_size}, {host.layers} layers"
