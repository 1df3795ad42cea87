"""Where a training starts from that continues a skill: its LoRA, and what the new card says of it. Training only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mattoni.torchvision_ops  # noqa: F401

import torch
from peft import PeftModel
from torch import Tensor

from brick_training.variants import card_for, place_for
from mattoni.card import CARD, BrickCard, brick_digest, check_files, read_card
from mattoni.errors import MattoniError
from mattoni.injections import LowRank
from mattoni.paths import brick_folders
from task_bricks.lora import read_lora

if TYPE_CHECKING:
    from mattoni.card import HostIdentity

# What a card keeps of the skill that a training went on from.
_KEPT = ("data", "pairs_seen", "best_step", "seed", "hours")


@dataclass(frozen=True, eq=False)
class Start:
    """A skill's factors, and its card where it has one: a folder that peft wrote has none."""

    lora: LowRank
    card: BrickCard | None
    others: tuple["Start", ...] = ()  # whose mean it is with the first

    @property
    def parents(self) -> list[dict[str, Any]]:
        """What the new card says under `training.parents`: this skill, then those that it came from itself."""
        own = self._own_parents()
        return [*own, *(told for other in self.others for told in other.parents if told not in own)]

    def _own_parents(self) -> list[dict[str, Any]]:
        if self.card is None:
            return [{"name": self.lora.name, "digest": self.lora.digest}]
        before = self.card.training
        told = {key: before[key] for key in _KEPT if key in before}
        metrics = [metric.model_dump(mode="json", exclude_none=True) for metric in self.card.metrics]
        about = {"name": self.card.name, "version": self.card.version, "digest": brick_digest(self.card)}
        return [{**about, **told, "metrics": metrics}, *before.get("parents", [])]


def find_start(source: str, host: "HostIdentity") -> Start:
    """The skill of a name, or in a folder (with a card or as peft wrote it), for this host.

    Raises MattoniError where there is none, it is no LoRA, damaged, or was trained on another host.
    """
    from assistant.registry import Registry

    folder = Path(source).expanduser()
    if "/" not in source and not folder.is_dir():
        folder = Registry(brick_folders()).scan(host).get(source).folder
    if not folder.is_dir():
        raise MattoniError(f"start_from: there is no folder {source}: name a skill, or a folder that holds one.")
    card = read_card(folder) if (folder / CARD).is_file() else None
    place, own = "", card
    if card is not None:
        check_files(card, folder)
        if card.kind != "task":
            raise MattoniError(f"start_from: '{card.name}' is a {card.kind} brick and no skill: name a skill.")
        place, own = place_for(folder, host, ""), card_for(card, host)
        if card.host is not None and own is None:
            raise MattoniError(
                f"start_from: '{card.name}' was trained on other weights than this host's: choose its host with --host."
            )
    return Start(replace(read_lora(folder / place), name=folder.name), own or card)


def mean_of(starts: Sequence[Start]) -> Start:
    """The mean of skills, factor by factor (model soups, arXiv:2203.05482): of such as went on from one another.

    Raises MattoniError where rank, layers or invocation tokens differ.
    """
    first, *others = starts
    if not others:
        return first
    shapes = {name: a.shape for name, (a, _) in first.lora.factors.items()}
    for other in (start.lora for start in others):
        same = {name: a.shape for name, (a, _) in other.factors.items()} == shapes
        if not same or other.invocation_tokens != first.lora.invocation_tokens:
            raise MattoniError(
                f"start_from: '{first.lora.name}' and '{other.name}' are of different form: name one of them."
            )
    factors = {}
    for name in shapes:
        like = first.lora.factors[name][0]
        pairs = [alike(start.lora, name, like) for start in starts]
        factors[name] = (torch.stack([a for a, _ in pairs]).mean(0), torch.stack([b for _, b in pairs]).mean(0))
    lora = replace(first.lora, factors=factors)
    return replace(first, lora=replace(lora, scales=dict.fromkeys(factors, 1.0)), others=tuple(others))


def alike(lora: LowRank, name: str, like: Tensor) -> tuple[Tensor, Tensor]:
    """One layer's factors in fp32, B with its scale: A about as long as `like`, by a power of two.

    What was written in eight bits stands in the middle of what they can say, a long way from where a training leaves its factors,
    and the steps of one that goes on would be too large for the one and too small for the other.
    """
    a, b = (factor.float() for factor in lora.factors[name])
    ratio = float(like.float().norm() / a.norm()) if a.any() and like.any() else 1.0
    by = 2.0 ** round(math.log2(ratio))
    return a * by, b * (lora.scales[name] / by)


@torch.no_grad()
def give_factors(model: PeftModel, start: LowRank) -> None:
    """Put a skill's factors into a model's fresh LoRA; ΔW stays what it was, also where alpha is another.

    Layers that the skill leaves alone keep their fresh factors, whose ΔW is 0. Raises MattoniError where rank or layers differ.
    """
    trained = tuple(getattr(model.active_peft_config, "alora_invocation_tokens", None) or ())
    if trained != start.invocation_tokens:
        raise MattoniError(
            f"start_from: '{start.name}' is {'' if start.invocation_tokens else 'not '}activated: write lora.activated as it is."
        )
    layers = {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    }
    for name, (a, b) in start.factors.items():
        if name not in layers:
            raise MattoniError(
                f"start_from: '{start.name}' changes '{name}', which a recipe does not train: train the skill anew."
            )
        layer = layers[name]
        mine_a, mine_b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        if mine_a.shape != a.shape or mine_b.shape != b.shape:
            raise MattoniError(
                f"start_from: '{start.name}' has rank {a.shape[0]} and the recipe {mine_a.shape[0]}: write the same rank under "
                "lora."
            )
        own_a, own_b = alike(start, name, mine_a)
        mine_a.copy_(own_a)
        mine_b.copy_(own_b / layer.scaling["default"])
