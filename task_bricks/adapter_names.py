"""Finds the host's name of a layer under the names that adapters use for it."""

import re
from collections import defaultdict
from collections.abc import Iterable

from task_bricks.lora import PREFIX

# What torch.compile, FSDP and activation checkpointing put between the parts of a name.
_BETWEEN = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# What peft, DDP, DeepSpeed and the classes around a language model put in front; once, twice or not at all.
_BEFORE = {"base_model", "model", "module", "_forward_module", "language_model"}
_QUANTISED = re.compile(r"[.-](unsloth-)?(bnb-4bit|gguf|awq|gptq|fp8|[48]bit|int[48]|q\d(_\w+)?|bf16|f16|mlx)\b.*$")


class Names:
    """The host's names; `find` gives the one that an adapter's name stands for."""

    def __init__(self, names: Iterable[str]) -> None:
        self._ends: dict[str, set[str]] = defaultdict(set)
        for name in names:
            parts = name.split(".")
            for start in range(len(parts)):
                self._ends[".".join(parts[start:])].add(name)

    def find(self, name: str) -> str | None:
        """The host's name that is equal, or the only one that ends so once what was put around it is taken off."""
        parts = [part for part in name.split(".") if part not in _BETWEEN]
        name = ".".join(parts).removeprefix(PREFIX)
        if name in self._ends.get(name, ()):
            return name
        while parts and parts[0] in _BEFORE:
            parts.pop(0)
        found = self._ends.get(".".join(parts), set())
        return next(iter(found)) if len(found) == 1 else None


def same_model(one: str, other: str) -> bool:
    """Whether two names, such as a Hub id and a catalogue's, mean one model, quantised or not."""
    return _key(one) == _key(other)


def _key(name: str) -> str:
    last = name.replace("\\", "/").rstrip("/").split("/")[-1].split("--")[-1].lower()
    return re.sub(r"[^a-z0-9]", "", _QUANTISED.sub("", last))
