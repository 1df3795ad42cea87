"""A text as keys and values in front of the prompt (`knowledge_bricks/cartridge.py`): the host has it before it without reading it."""

from typing import Literal

from pydantic import NonNegativeInt

from knowledge_bricks.cartridge import Layers, read_cartridge
from mattoni.injections import Prefix
from mattoni.methods import Method, Parts
from mattoni.runtime import Asked, BrickFiles, BrickRuntime, HostView, Injected


class CartridgeParts(Parts):
    """What a card says of such a brick."""

    method: Literal["cartridge"]
    positions: NonNegativeInt = 0
    tokens: NonNegativeInt = 0  # of the text that it stands for; 0: not known
    source: str = ""  # the file that it was made from

    @property
    def costs(self) -> tuple[str, ...]:
        """What a turn with it pays."""
        stands = f" in place of {self.tokens:,} tokens" if self.tokens else ""
        return (f"{self.positions:,} positions of keys and values in front of the prompt{stands}",)


class CartridgeRuntime(BrickRuntime):
    """The keys and values of one text."""

    def __init__(self, brick: BrickFiles, layers: Layers, dtype_bytes: int) -> None:
        super().__init__(brick)
        self._prefix = Prefix(brick.name, brick.digest, layers)
        numbers = sum(keys.numel() + values.numel() for keys, values in layers)
        self._told = f"prefix: {self._prefix.length} positions, {numbers * dtype_bytes / 1e6:.1f} MB of keys and values, by {brick.name}"

    def inject(self, asked: Asked) -> Injected:
        """Its keys and values, whatever the message: the router has chosen it."""
        return Injected(others=(self._prefix,), described=(self._told,))


def _load(brick: BrickFiles, host: HostView) -> CartridgeRuntime:
    layers = read_cartridge(brick.host_folder, host.key_shape, host.name)
    return CartridgeRuntime(brick, layers, host.dtype.itemsize)


METHODS = (Method("cartridge", CartridgeParts, _load, accepts=frozenset({"text"}), chosen_by="keys"),)
