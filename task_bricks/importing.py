"""Brings in a skill that somebody else trained: a PEFT LoRA in a folder, an archive or on the Hub becomes a brick folder.

The folder gets its place only when the LoRA could be read and fits the host; nothing of a refused one stays behind. It holds
what peft writes for this host, whatever names or format the adapter came in.
"""

import json
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from mattoni.card import BrickCard, card_beside, check_files, check_name, describe_files, read_card, write_card
from mattoni.errors import MattoniError
from mattoni.hub import licence_of, source_title
from mattoni.keys import KEYS
from mattoni.methods import typed_parts
from mattoni.versions import next_version, replace_brick
from task_bricks.adapter import AdaptedHost, Adapter, peft_config, read_adapter
from task_bricks.adapter_source import Download, Source, locate
from task_bricks.lora import CONFIG, PREFIX, README, WEIGHTS, card_parts, read_lora


def import_skill(
    source: str | Path,
    destination: Path,
    name: str | None,
    host: AdaptedHost,
    download: Download | None = None,
    replace: bool = False,
) -> Path:
    """Make the brick `destination/NAME` of a PEFT LoRA, with a card if it has none. Returns the brick's folder.

    source    a folder, a .zip or .tar.gz, a file with its configuration beside it, or a Hub id such as `someone/their-lora`
    name      the brick's name; None: made from the source's
    download  fetches a Hub id and returns the folder; None: into the Hub's own cache
    replace   a skill of that name becomes an older version, which can be gone back to

    Raises MattoniError with one sentence when the source is no such LoRA, does not fit, or the name is taken.
    """
    with tempfile.TemporaryDirectory(prefix="mattoni-import-") as scratch:
        found = locate(str(source), Path(scratch), download)
        own = _own_card(found.folder)
        chosen = name or (own.name if own else found.name)
        check_name(chosen)
        target = destination / chosen
        if target.exists():
            _check_replaced(target, replace)
        adapter = read_adapter(found, host)
        card = own or _new_card(chosen, str(source), found.folder, adapter, host)
        version = max(card.version, next_version(target))
        card = card.model_copy(update={"name": chosen, "version": version if target.exists() else card.version})
        replace_brick(target, lambda folder: _fill(folder, found, adapter, card))
    return target


def _check_replaced(target: Path, replace: bool) -> None:
    """Raise MattoniError where a brick is there and may not be replaced."""
    if not replace:
        raise MattoniError(
            f"There is already a brick called '{target.name}': remove it first, give another name, or replace it (--replace)."
        )
    if read_card(target).kind != "task":
        raise MattoniError(f"'{target.name}' is no skill, and a skill cannot replace it: give another name.")


def _fill(folder: Path, found: Source, adapter: Adapter, card: BrickCard) -> None:
    """Write the brick's files and its card into a fresh folder."""
    for name in (README, KEYS):
        if (found.folder / name).is_file():
            shutil.copyfile(found.folder / name, folder / name)
    if adapter.is_plain:
        for name in (CONFIG, WEIGHTS):
            shutil.copyfile(found.folder / name, folder / name)
    else:
        _write_peft(folder, adapter)
    read_lora(folder)  # what the turn will do
    write_card(card.model_copy(update={"files": describe_files(folder)}), folder)


def _write_peft(folder: Path, adapter: Adapter) -> None:
    """Write the LoRA as peft writes it for this host."""
    tensors: dict[str, torch.Tensor] = {}
    for name, (a, b) in adapter.lora.factors.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = a.contiguous().clone()  # a pickle's tensors may share memory
        tensors[f"{PREFIX}{name}.lora_B.weight"] = b.contiguous().clone()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(peft_config(adapter), indent=2, sort_keys=True), encoding="utf-8")


def _own_card(folder: Path) -> BrickCard | None:
    """The card that a skill brings from another Mattoni, its files checked."""
    card = card_beside(folder)
    if card is None:
        return None
    if card.kind != "task":
        raise MattoniError(f"{folder.name} is a {card.kind} brick and no skill: copy its folder to your bricks.")
    check_files(card, folder)
    return card


def _new_card(name: str, source: str, folder: Path, adapter: Adapter, host: AdaptedHost) -> BrickCard:
    """A card for an adapter that has none. Without examples it has no routes: only the user chooses it."""
    ranks = [a.shape[0] for a, _ in adapter.lora.factors.values()]
    notes = {"notes": list(adapter.notes)} if adapter.notes else {}
    return BrickCard(
        schema=1,
        name=name,
        kind="task",
        title=name.replace("-", " ").capitalize(),
        summary=f"A PEFT LoRA of rank {max(ranks)} on {len(ranks)} layers, trained on "
        f"{adapter.base_model or 'a host that it does not name'}.",
        host=host.identity,
        injects=("low-rank",),
        parts=typed_parts("task", card_parts(max(ranks))),
        training={"imported_from": source_title(source), **notes},
        licence=licence_of(folder / README),
        limits="Imported: nobody here has measured it. It has no routing keys, so it is used only when switched on.",
    )
