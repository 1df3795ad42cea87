"""Makes a host and a modality brick of one imported checkpoint: folders, card, keys. All of it or nothing.

The host's folder holds the language model's configuration and tokenizer, and the checkpoint's own shards as hard links; it
is found by the brick's name.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mattoni.torchvision_ops  # noqa: F401

import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from assistant.bricks.imported_prompt import chat_template
from assistant.host.catalogue import IMPORTED, ImportedHost
from assistant.host.host import fingerprint, identity
from assistant.registry import Bricks
from mattoni.card import BrickCard, HostIdentity, Routes, check_name, describe_files, write_card
from mattoni.errors import MattoniError
from mattoni.files import remove_folder, replace_folder, write_text
from mattoni.hub import HUB_ID, licence_of, name_from, snapshot, source_title
from mattoni.keys import KEYS
from modality_bricks.importing import LANGUAGE, WANTED, Checkpoint, open_checkpoint, write_parts
from modality_bricks.methods.imported import ImportedParts
from modality_bricks.modality import load_modality

PHOTO = "photo"  # whose routing keys an imported brick takes over: both are for the same pictures
_MARGIN = 50_000_000  # bytes for configurations and tokenizers, generously


@dataclass(frozen=True)
class Imported:
    """What came in: the brick's card, whose name is the host's too, and the parameters of all of it together."""

    card: BrickCard
    parameters: int


def import_checkpoint(
    source: str,
    bricks: Path,
    hosts: Path,
    known: Bricks,
    name: str | None = None,
    download: Callable[[str], Path] = lambda hub_id: snapshot(hub_id, WANTED),
) -> Imported:
    """Make `hosts/NAME` and `bricks/NAME` of a BLIP-2, InstructBLIP or LLaVA-1.5 checkpoint in the format of transformers.

    source    a folder or a Hub id
    known     the bricks that are there
    name      None: made from the source's
    download  fetches a Hub id and returns the folder

    Raises MattoniError with one sentence when it is no such checkpoint, is damaged, the name is taken or the disk full.
    """
    chosen = name or name_from(source)
    check_name(chosen)
    taken = {brick.name for brick in known.usable} | {brick.name for brick in known.refused}
    if chosen in taken or (hosts / chosen).exists():
        raise MattoniError(
            f"There is already a brick or host called '{chosen}': remove it first or give another --name."
        )
    folder = Path(source).expanduser()
    if not folder.is_dir():
        if not HUB_ID.fullmatch(source):
            raise MattoniError(f"There is no '{source}': name a folder or a Hub id such as llava-hf/llava-1.5-7b-hf.")
        folder = download(source)
    checkpoint = open_checkpoint(folder, source_title(source))
    _check_space(checkpoint, bricks)
    photo = next((brick for brick in known.usable if brick.name == PHOTO and brick.card.routes), None)
    cards: list[BrickCard] = []

    def fill_brick(target: Path, host: HostIdentity) -> None:
        parts: dict[str, Any] = dict(write_parts(checkpoint, target))
        # Loaded once, so that what does not fit is refused now and not in the middle of a turn.
        imported = ImportedParts.model_validate(parts)
        modality = load_modality(target, imported, torch.zeros(1, host.hidden_size, dtype=torch.bfloat16))
        parts["soft_tokens"] = modality.soft_tokens([Image.new("RGB", (64, 64))]).shape[1]
        if photo is not None:
            shutil.copyfile(photo.folder / KEYS, target / KEYS)
        cards.append(_card(chosen, checkpoint, host, parts, target, photo.card.routes if photo else None))
        write_card(cards[0], target)

    def fill_host(target: Path) -> None:
        host = _write_host(checkpoint, target)
        replace_folder(bricks / chosen, lambda fresh: fill_brick(fresh, host))

    try:
        replace_folder(hosts / chosen, fill_host)
    except BaseException:
        # The brick takes its place just before its host does, and is of no use without it.
        if (bricks / chosen).is_dir():
            remove_folder(bricks / chosen)
        raise
    return Imported(cards[0], checkpoint.parameters)


def _check_space(checkpoint: Checkpoint, bricks: Path) -> None:
    """Raise MattoniError when the brick's weights will not fit on the disk."""
    place = next(folder for folder in (bricks, *bricks.parents) if folder.is_dir())
    needed = sum(t.end - t.begin for part in (checkpoint.tower, checkpoint.stitch) for t in part.values()) + _MARGIN
    free = shutil.disk_usage(place).free
    if free < needed:
        raise MattoniError(
            f"{checkpoint.title} needs {needed / 1e9:.1f} GB beside its own files and {free / 1e9:.1f} GB are free: "
            "free some space or set MATTONI_HOME to a larger disk."
        )


def _write_host(checkpoint: Checkpoint, folder: Path) -> HostIdentity:
    """Write the host's folder; returns what a card records of it."""
    config = checkpoint.config.get_text_config()
    config.save_pretrained(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True)
    except Exception as problem:  # what a foreign tokenizer makes transformers raise can be anything
        raise MattoniError(
            f"{checkpoint.title} holds no tokenizer that can be read: fetch the whole checkpoint."
        ) from problem
    tokenizer.chat_template = chat_template(checkpoint, tokenizer)
    tokenizer.save_pretrained(folder)
    ends = _ends(checkpoint)
    GenerationConfig(bos_token_id=config.bos_token_id, eos_token_id=ends or None).save_pretrained(folder)
    _link_shards(checkpoint, folder)
    about = ImportedHost(source=checkpoint.title, licence=_licence(checkpoint), key_mapping=LANGUAGE)
    write_text(folder / IMPORTED, about.model_dump_json())
    return identity(config, tokenizer, _fingerprint(checkpoint))


def _licence(checkpoint: Checkpoint) -> str:
    return licence_of(checkpoint.folder / "README.md")


def _ends(checkpoint: Checkpoint) -> list[int]:
    """Tokens that end an answer, after the language model's configuration and the checkpoint's own."""
    found: list[int] = []
    configured: list[Any] = [checkpoint.config.get_text_config().eos_token_id]
    if (checkpoint.folder / "generation_config.json").is_file():
        configured.append(GenerationConfig.from_pretrained(checkpoint.folder).eos_token_id)
    for ids in configured:
        found += ids if isinstance(ids, list) else [] if ids is None else [ids]
    return sorted(set(found))


def _link_shards(checkpoint: Checkpoint, folder: Path) -> None:
    """Bring the files with the language model's weights into the folder: as hard links, on another disk as copies."""
    files = sorted({tensor.file for tensor in checkpoint.language.values()})
    names = {file: file.name if len(files) > 1 else SAFE_WEIGHTS_NAME for file in files}
    for file, name in names.items():
        try:
            # The Hub's cache holds links to its blobs; the blob itself outlives a cache that is cleared.
            os.link(file.resolve(), folder / name)
        except OSError:
            shutil.copyfile(file, folder / name)
    if len(files) > 1:
        index = {tensor.name: names[tensor.file] for tensor in checkpoint.language.values()}
        write_text(folder / SAFE_WEIGHTS_INDEX_NAME, json.dumps({"metadata": {}, "weight_map": index}))


def _fingerprint(checkpoint: Checkpoint) -> str:
    """As `Host.fingerprint`, with one weight at a time in memory. Raises MattoniError for one that is missing or misshapen."""
    config = checkpoint.config.get_text_config()
    with torch.device("meta"):
        shapes = {name: p.shape for name, p in AutoModelForCausalLM.from_config(config).named_parameters()}
    for name, shape in shapes.items():
        stored = checkpoint.language.get(name)
        if stored is None or stored.shape != tuple(shape):
            problem = "is missing" if stored is None else f"has the shape {stored.shape} instead of {tuple(shape)}"
            raise MattoniError(f"{checkpoint.title}: {name} {problem}; fetch the whole checkpoint again.")

    def weight(name: str) -> Tensor:
        stored = checkpoint.language[name]
        with safe_open(stored.file, "pt") as file:
            tensor: Tensor = file.get_tensor(stored.name)
        return tensor

    return fingerprint(config, shapes, weight)


def _card(
    name: str,
    checkpoint: Checkpoint,
    host: HostIdentity,
    parts: dict[str, Any],
    folder: Path,
    routes: Routes | None,
) -> BrickCard:
    how = (
        "Its routing keys are those of the photo brick."
        if routes
        else "It has no routing keys, so it is used only when chosen."
    )
    return BrickCard.model_validate(
        {
            "schema": 1,
            "name": name,
            "kind": "modality",
            "title": name.replace("-", " ").capitalize(),
            "summary": f"Looks at photos as {checkpoint.title} does; for the host '{name}', which came with it.",
            "host": host.model_dump(),
            "injects": ["sequence"],
            "routes": routes.model_dump() if routes else None,
            "files": {file: about.model_dump() for file, about in describe_files(folder).items()},
            "parts": parts,
            "training": {"imported_from": checkpoint.title},
            "licence": _licence(checkpoint),
            "limits": f"Imported: nobody here has measured it. {how}",
        }
    )
