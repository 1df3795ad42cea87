"""Where a trained brick goes: into a folder of its own, or beside the brick that is there as the variant of a further host.

Keys, encoder and all else that does not hang on the host stay the brick's; a variant has its files below `variants/HOST/`.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mattoni.card import CARD, VARIANTS, BrickCard, HostIdentity, Variant, describe_files, read_card, write_card
from mattoni.files import replace_folder


def short_name(host: str) -> str:
    """How a host is called in names of folders: "Qwen/Qwen2.5-0.5B-Instruct" -> "qwen2.5-0.5b-instruct"."""
    end = host.rstrip("/").split("/")[-1].lower().removesuffix(".gguf")
    return re.sub(r"[^a-z0-9._-]+", "-", end).strip("-._") or "host"


def card_for(card: BrickCard, host: HostIdentity) -> BrickCard | None:
    """The card as it reads for a host; None where the brick has no variant for it."""
    found = (own for own in card.for_each_host() if own.host is not None and own.host.fingerprint == host.fingerprint)
    return next(found, None)


def place_for(folder: Path, host: HostIdentity, name: str) -> str:
    """Where in a brick's folder the files of a host belong: "" is the first variant's place, or a new brick's."""
    card = read_card(folder) if (folder / CARD).is_file() else None
    if card is None or card.host is None or card.host.fingerprint == host.fingerprint:
        return ""
    known = (variant.name for variant in card.variants if variant.host.fingerprint == host.fingerprint)
    return f"{VARIANTS}/{next(known, name)}"


def write_variant(
    base: Path,
    target: Path,
    place: str,
    host: HostIdentity,
    values: dict[str, Any],
    fill: Callable[[Path], dict[str, Any]],
) -> BrickCard:
    """Add a variant to a brick, or make the one of that host its next version. Returns the card as written.

    base    the brick's folder
    target  where it is written: the same folder, or one for a copy
    place   as `place_for` says it, not empty
    values  of the variant: its training, metrics and parts
    fill    writes the variant's files; takes the brick's folder, a copy. Returns more of `parts`
    """
    name = place.removeprefix(f"{VARIANTS}/")

    def write(folder: Path) -> None:
        shutil.copytree(base, folder, dirs_exist_ok=True)
        before = read_card(base)
        own = next((v for v in before.variants if v.name == name), None)
        (folder / place).mkdir(parents=True, exist_ok=True)
        parts = {**values["parts"], **fill(folder)}
        variant = {
            **values,
            "name": name,
            "host": host.model_dump(),
            "version": own.version + 1 if own is not None else 1,
            "parts": parts,
            "files": {n: f.model_dump() for n, f in describe_files(folder, place).items()},
        }
        kept = [v.model_dump(mode="json") for v in before.variants if v.name != name]
        card = before.model_dump(mode="json", by_alias=True, exclude={"variants"}) | {"variants": [*kept, variant]}
        write_card(BrickCard.model_validate(card), folder)

    replace_folder(target, write)
    return read_card(target)


def keep_encoder(folder: Path, variants: tuple[Variant, ...], encoder: str) -> tuple[Variant, ...]:
    """Give variants a copy of the encoder in the brick's folder, which is about to be replaced. Returns them as they are then."""
    kept = []
    for variant in variants:
        if getattr(variant.parts, "encoder", None) == f"local-dir:{encoder}":
            shutil.copytree(folder / encoder, folder / variant.place / encoder, dirs_exist_ok=True)
            parts = variant.parts.model_copy(update={"encoder": f"local-dir:{variant.place}/{encoder}"})
            files = describe_files(folder, variant.place)
            variant = variant.model_copy(update={"parts": parts, "files": files})
        kept.append(variant)
    return tuple(kept)


def same_files(one: Path, other: Path) -> bool:
    """Whether two folders hold the same, byte for byte."""
    first, second = describe_files(one), describe_files(other)
    return bool(first) and first == second
