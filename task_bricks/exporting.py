"""Writes a skill as a folder that peft loads, and that comes in again as it went out. Knows nothing of hosts."""

import shutil
from pathlib import Path

from mattoni.card import CARD, BrickCard, check_files, write_card
from mattoni.errors import MattoniError
from mattoni.files import replace_folder
from mattoni.keys import KEYS
from task_bricks.lora import CONFIG, README, WEIGHTS, read_lora

_OTHERWISE = {
    "facts": "`mattoni facts export` writes facts as one",
    "gates": "a function of the host has no weights of its own",
}


def check_is_lora(card: BrickCard) -> None:
    """Raise MattoniError, naming what the brick is, unless it is a PEFT LoRA."""
    if card.parts.method != "lora":
        way = _OTHERWISE.get(card.parts.method, "a file that ends in .zip takes any brick")
        raise MattoniError(f"'{card.name}' is a {card.kind} brick ({card.parts.method}) and no LoRA: {way}.")


def export_skill(brick: Path, card: BrickCard, target: Path) -> Path:
    """Write a skill's LoRA, card, keys and README to a new folder, every byte as it is. Returns the folder.

    `PeftModel.from_pretrained(host, target)` loads it, with everything that its `LoraConfig` said; card and keys, which peft
    passes over, let `mattoni bricks add` bring back the same brick. Older versions stay here.

    Of a brick with variants, the one of the first host goes out alone.

    Raises MattoniError when the brick is no LoRA or damaged, or the folder is there.
    """
    check_is_lora(card)
    check_files(card, brick)
    read_lora(brick)
    if target.exists():
        raise MattoniError(f"{target} is there already: name a folder that is not.")

    def fill(fresh: Path) -> None:
        for name in (CONFIG, WEIGHTS, README, KEYS, CARD):
            if (brick / name).is_file():
                shutil.copyfile(brick / name, fresh / name)
        if card.variants:
            write_card(card.for_each_host()[0], fresh)

    replace_folder(target, fill)
    return target
