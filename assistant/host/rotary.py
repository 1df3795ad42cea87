"""Rotary positions (RoFormer, Su et al. 2021, arXiv:2104.09864): keys that were read at one place, as if read at another. Pure."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mattoni.errors import MattoniError

# In these a position's angle is the same whatever the prompt's length is; others could not be turned afterwards.
FIXED = frozenset({"default", "linear", "llama3", "yarn"})


def frequencies_of(model: PreTrainedModel) -> Tensor:
    """The host's own rotary frequencies, (width / 2,).

    Raises MattoniError for a host whose keys cannot be turned into another place.
    """
    config = model.config.get_text_config()
    kind = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "none")
    frequencies = getattr(getattr(model.base_model, "rotary_emb", None), "inv_freq", None)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if kind not in FIXED or not isinstance(frequencies, Tensor) or 2 * len(frequencies) != width:
        raise MattoniError(
            f"The keys of this host cannot be turned (rope: {kind}): choose one with plain rotary positions."
        )
    return frequencies.float()


def turn(keys: Tensor, by: int, frequencies: Tensor) -> Tensor:
    """Rotary keys, (…, width), as if they stood `by` positions later; in fp32 (RoFormer, section 3.2)."""
    angles = (by * frequencies).repeat(2).to(keys.device)
    first, second = keys.float().chunk(2, dim=-1)
    return (keys.float() * angles.cos() + torch.cat((-second, first), dim=-1) * angles.sin()).to(keys.dtype)
