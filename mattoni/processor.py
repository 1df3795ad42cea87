"""What the processor can compute with. Knows nothing of models."""

import torch


def multiplies_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bf16 itself.

    A CPU that has to imitate it takes longer than for fp32: for a matrix product some 8 times, for its gradient 28 times.
    """
    return device.type != "cpu" or bool(torch.cpu._is_avx512_bf16_supported())
