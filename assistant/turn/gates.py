"""What the gates of a turn do together. Knows nothing of the bricks that they came from."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mattoni.injections import Gate
from mattoni.trace import Notice

# With a tenth of the builtin host's neurons off, drawn at random or chosen, its sentences fall apart.
_MUCH = 0.1


def much_is_off(gates: Sequence[Gate]) -> Notice | None:
    """A sentence where gates switch off so many neurons of the layers they act on that answers fall apart."""
    is_off: dict[int, Tensor] = {}
    for gate in gates:
        for layer, factors in gate.factors.items():
            is_off[layer] = is_off.get(layer, torch.zeros_like(factors, dtype=torch.bool)) | (factors == 0)
    count = sum(len(row) for row in is_off.values())
    off = sum(int(row.sum()) for row in is_off.values())
    if not count or off < _MUCH * count:
        return None
    names = ", ".join(gate.name for gate in gates)
    text = f"{names} switch off {100 * off / count:.0f} % of the host's neurons: its answer may fall apart; turn some up again."
    return Notice("much-is-off", text)
