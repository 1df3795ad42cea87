"""Makes one skill of several: their factors by peft's own `add_weighted_adapter`, their cards and routing keys joined.

Nothing of a host is loaded: peft is given a skeleton, linear layers of the right shapes that hold no weights.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import mattoni.torchvision_ops  # noqa: F401

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from mattoni.card import BrickCard, Routes, brick_digest, check_name, describe_files, write_card
from mattoni.errors import MattoniError
from mattoni.files import replace_folder, write_text
from mattoni.injections import LowRank
from mattoni.keys import KEYS, load_counter_keys, load_keys, save_keys, scores
from task_bricks.exporting import check_is_lora
from task_bricks.lora import PREFIX, README, card_parts, read_lora, write_lora

Method = Literal["cat", "linear", "ties", "dare", "svd"]
METHODS: tuple[Method, ...] = get_args(Method)
_PEFTS = {"cat": "cat", "linear": "linear", "ties": "ties", "dare": "dare_linear", "svd": "svd"}
_SAME_RANKS = ("linear", "ties", "dare")
_MERGED = "merged"


@dataclass(frozen=True)
class How:
    """How skills are merged.

    cat     the exact sum Σ wᵢ ΔWᵢ; its rank is the sum of the ranks
    linear  the weighted sums of A and of B, multiplied: as small as one, and with products between the skills
    ties    linear after trimming to `density` and electing signs (Yadav et al. 2023, arXiv:2306.01708)
    dare    linear after dropping all but `density` at random (Yu et al. 2023, arXiv:2311.03099)
    svd     the best approximation of the exact sum with `rank`; None: the largest of the ranks
    """

    method: Method
    weights: tuple[float, ...]
    density: float = 0.5
    rank: int | None = None
    seed: int = 0

    @property
    def told(self) -> dict[str, Any]:
        """What a card says of it."""
        more: dict[str, Any] = {"density": self.density} if self.method in ("ties", "dare") else {}
        more |= {"seed": self.seed} if self.method == "dare" else {}
        return {"method": self.method, "weights": [round(weight, 4) for weight in self.weights], **more}


@dataclass(frozen=True, eq=False)
class Part:
    """A skill that goes into a merge."""

    folder: Path
    card: BrickCard
    lora: LowRank


def read_parts(bricks: Sequence[tuple[Path, BrickCard]]) -> list[Part]:
    """The skills of a merge. Raises MattoniError, naming the skill, where they cannot be one."""
    names = [card.name for _, card in bricks]
    if len(set(names)) < 2:
        raise MattoniError("A merge takes two skills or more: name another one.")
    if len(set(names)) < len(names):
        raise MattoniError("A skill was named twice: give it a larger weight instead.")
    for _, card in bricks:
        check_is_lora(card)
    _check_together([card for _, card in bricks])
    parts = [Part(folder, card, read_lora(folder, brick_digest(card))) for folder, card in bricks]
    _shapes([part.lora for part in parts])
    _check_same_activation([part.lora for part in parts])
    return parts


def _check_same_activation(loras: Sequence[LowRank]) -> None:
    """Raise MattoniError where skills act from different positions on: one LoRA cannot do both."""
    first = loras[0]
    other = next((lora for lora in loras if lora.invocation_tokens != first.invocation_tokens), None)
    if other is not None:
        raise MattoniError(
            f"'{first.name}' and '{other.name}' act from different positions of a prompt on (activated LoRA): switch both on for "
            "a turn instead of merging them."
        )


def _check_together(cards: Sequence[BrickCard]) -> None:
    """Raise MattoniError where cards are for different hosts, or want different things of a turn."""
    first = cards[0]
    for card in cards[1:]:
        if first.host is not None and card.host is not None and first.host.fingerprint != card.host.fingerprint:
            raise MattoniError(
                f"'{first.name}' and '{card.name}' were trained on different hosts: merge skills of one host."
            )
        mine, theirs = (c.parts.model_dump(exclude={"method", "rank"}) for c in (first, card))
        for key, value in mine.items():
            if value != theirs.get(key):
                said = [f"'{c.name}' {v or 'none'}" for c, v in ((first, value), (card, theirs.get(key)))]
                raise MattoniError(
                    f"{key}: {said[0]}, {said[1]}: one skill cannot be both, so switch both on for a turn instead of merging them."
                )


def _shapes(loras: Sequence[LowRank]) -> dict[str, tuple[int, int]]:
    """(out, in) of every layer that some skill changes. Raises MattoniError where they do not agree."""
    shapes: dict[str, tuple[int, int]] = {}
    for lora in loras:
        for name, (a, b) in lora.factors.items():
            shape = (b.shape[0], a.shape[1])
            if shapes.setdefault(name, shape) != shape:
                raise MattoniError(
                    f"'{lora.name}' takes '{name}' as {shape[0]} x {shape[1]} and '{loras[0].name}' does not: merge skills of "
                    "one host."
                )
    return shapes


def merge_factors(loras: Sequence[LowRank], how: How) -> LowRank:
    """One low-rank delta of several, by peft; in bfloat16 where all of them are, else in fp32. Its scales are 1.

    Raises MattoniError where the method cannot take their ranks.
    """
    _check_how(loras, how)
    model = _skeleton(loras)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)  # DARE draws what it drops
        tuner: Any = model.base_model
        tuner.add_weighted_adapter(
            [f"part{n}" for n in range(len(loras))],
            list(how.weights),
            _MERGED,
            combination_type=_PEFTS[how.method],
            density=how.density,
            svd_rank=how.rank,
            svd_full_matrices=False,  # of which peft would throw away all but the first ones
        )
    kinds = {tensor.dtype for lora in loras for pair in lora.factors.values() for tensor in pair}
    dtype = torch.bfloat16 if kinds == {torch.bfloat16} else torch.float32
    factors, scales = {}, {}
    for name, layer in _layers(model).items():
        pair = (layer.lora_A[_MERGED].weight, layer.lora_B[_MERGED].weight)
        factors[name] = (pair[0].detach().to(dtype), pair[1].detach().to(dtype))
        scales[name] = float(layer.scaling[_MERGED])
    return LowRank(_MERGED, "", factors, scales, invocation_tokens=loras[0].invocation_tokens)


def _check_how(loras: Sequence[LowRank], how: How) -> None:
    if len(how.weights) != len(loras):
        raise MattoniError(f"--weights has {len(how.weights)} numbers for {len(loras)} skills: give one for each.")
    if not 0 < how.density <= 1:
        raise MattoniError(f"--density {how.density:g}: it is the share that is kept, above 0 and up to 1.")
    if how.method not in _SAME_RANKS:
        return
    for name in _shapes(loras):
        ranks = {lora.name: len(lora.factors[name][0]) for lora in loras if name in lora.factors}
        if len(set(ranks.values())) > 1:
            told = ", ".join(f"'{skill}' {rank}" for skill, rank in ranks.items())
            raise MattoniError(f"{how.method} needs equal ranks, and they differ ({told}): choose cat or svd.")


def _skeleton(loras: Sequence[LowRank]) -> PeftModel:
    """A model of peft with the skills as its adapters, on layers of one number each."""
    root = nn.Module()
    for name, shape in _shapes(loras).items():
        *path, last = name.split(".")
        place = root
        for step in path:
            if not hasattr(place, step):
                place.add_module(step, nn.Module())
            place = place.get_submodule(step)
        layer = nn.Linear(shape[1], shape[0], bias=False, device="meta")
        layer.weight = nn.Parameter(torch.zeros(1, 1).expand(shape), requires_grad=False)
        place.add_module(last, layer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft looks in vain for what only a whole model has
        model: PeftModel | None = None
        for number, lora in enumerate(loras):
            if model is None:
                model = get_peft_model(root, _config(lora), adapter_name=f"part{number}")
            else:
                model.add_adapter(f"part{number}", _config(lora))
    assert model is not None
    layers = _layers(model)
    for number, lora in enumerate(loras):
        for name, (a, b) in lora.factors.items():
            layers[name].lora_A[f"part{number}"].weight.data = a.float()
            layers[name].lora_B[f"part{number}"].weight.data = b.float()
    return model


def _layers(model: PeftModel) -> dict[str, Any]:
    """The adapted layers, by the host's names."""
    return {name.removeprefix(PREFIX): m for name, m in model.named_modules() if hasattr(m, "lora_A")}


def _config(lora: LowRank) -> LoraConfig:
    """What peft has to know of a skill; its scale is written as alpha, whatever it was made by."""
    ranks = {name: len(a) for name, (a, _) in lora.factors.items()}
    return LoraConfig(
        r=max(ranks.values()),
        lora_alpha=1,
        target_modules=sorted(ranks),
        rank_pattern={name: rank for name, rank in ranks.items() if rank != max(ranks.values())},
        alpha_pattern={name: lora.scales[name] * rank for name, rank in ranks.items()},
    )


def join_keys(parts: Sequence[tuple[Tensor, Tensor | None, float]]) -> tuple[Tensor, Tensor, float]:
    """Keys, counter-keys and threshold of a skill that does what several do; each part is (keys, counter-keys, threshold).

    A counter-key of one skill that another would take stands for that other's messages, and is left out. The largest threshold
    counts: rather no skill than one that was not meant.
    """
    counters = []
    for place, (_, counter, _) in enumerate(parts):
        if counter is None or not len(counter):
            continue
        others = [part for i, part in enumerate(parts) if i != place]
        taken = torch.stack([scores(counter, k, c) >= threshold for k, c, threshold in others]).any(dim=0)
        counters.append(counter[~taken])
    width = parts[0][0].shape[1]
    joined = torch.cat([*counters, torch.zeros(0, width)])
    return torch.cat([keys for keys, _, _ in parts]), joined, max(threshold for _, _, threshold in parts)


def merge_skills(
    parts: Sequence[Part], how: How, target: Path, learned: Mapping[str, Any] | None = None
) -> tuple[BrickCard, list[str]]:
    """Write the brick `target` of several skills. Returns its card, and what is to be said, in sentences.

    learned  how the weights were found, for the card; None: they were given

    Raises MattoniError where the name cannot be one, or a method does not take the skills' ranks.
    """
    check_name(target.name)
    lora = merge_factors([part.lora for part in parts], how)
    told = {**how.told, **({"weights learned": dict(learned)} if learned else {})}
    keyed, notes = _routing(parts)
    cards: list[BrickCard] = []

    def fill(folder: Path) -> None:
        write_lora(folder, lora, _base(parts))
        routes = None
        if keyed is not None:
            keys, counter, threshold = keyed
            save_keys(keys, folder / KEYS, counter)
            routes = Routes(space="text", keys=KEYS, threshold=threshold)
        read_lora(folder)  # what the turn will do
        rank = max(len(a) for a, _ in lora.factors.values())
        card = _card(target.name, parts, rank, told, routes)
        write_text(folder / README, _readme(card, told))
        cards.append(card.model_copy(update={"files": describe_files(folder)}))
        write_card(cards[0], folder)

    replace_folder(target, fill)
    return cards[0], notes


def _base(parts: Sequence[Part]) -> str | None:
    """The host as the first skill's card names it."""
    recipe = parts[0].card.training.get("recipe")
    return recipe.get("base_model") if isinstance(recipe, dict) else None


def _routing(parts: Sequence[Part]) -> tuple[tuple[Tensor, Tensor, float] | None, list[str]]:
    """The joined keys, and a note; no keys where a part has none."""
    without = [p.card.name for p in parts if p.card.routes is None or p.card.routes.space != "text"]
    if without:
        return None, [f"'{without[0]}' has no routing keys, so the merged skill has none: switch it on by hand."]
    read = [
        (load_keys(p.folder / KEYS), load_counter_keys(p.folder / KEYS), p.card.routes.threshold)
        for p in parts
        if p.card.routes is not None
    ]
    return join_keys(read), []


def _card(name: str, parts: Sequence[Part], rank: int, told: Mapping[str, Any], routes: Routes | None) -> BrickCard:
    cards = [part.card for part in parts]
    names = " and ".join(card.name for card in cards)
    sources = [source for card in cards for source in card.training.get("data", ()) if isinstance(source, dict)]
    parents = [
        {"name": c.name, "version": c.version, "digest": brick_digest(c), "licence": c.licence, "title": c.title}
        for c in cards
    ]
    # All are named: which one is the stricter is for a person to say.
    licences = dict.fromkeys(card.licence for card in cards)
    limits = [f"{card.name}: {card.limits}" for card in cards if card.limits]
    kept = cards[0].parts.model_dump(exclude={"method", "rank"}, exclude_none=True)
    return BrickCard.model_validate(
        {
            "schema": 1,
            "name": name,
            "kind": "task",
            "title": " + ".join(card.title for card in cards),
            "summary": f"{names}, merged into one skill ({told['method']}).",
            "host": next((c.host.model_dump() for c in cards if c.host is not None), None),
            "injects": ["low-rank"],
            "routes": routes.model_dump() if routes else None,
            "parts": {**kept, **card_parts(rank)},
            "training": {
                "merged": dict(told),
                "data": [s for n, s in enumerate(sources) if s not in sources[:n]],
                "parents": parents,
            },
            "licence": " And: ".join(licences),
            "limits": " ".join(["Merged: nobody here has measured it.", *limits]),
        }
    )


def _readme(card: BrickCard, told: Mapping[str, Any]) -> str:
    parents = "\n".join(
        f"- {p['name']}, version {p['version']} ({p['title']}). Licence: {p['licence']}"
        for p in card.training["parents"]
    )
    how = ", ".join(f"{key} {value}" for key, value in told.items())
    return f"""# {card.title}

{card.summary} A skill for Mattoni: a PEFT LoRA that any version of peft reads too.

## Method

peft's `add_weighted_adapter`: {how}. Merged of:

{parents}

Licence of this brick: {card.licence}

## Known failures

{card.limits}
"""
