"""Perplexity of texts under a host whose neurons are changed. Knows nothing of why."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from math import exp

import numpy as np
import torch

from assistant.host.host import Host
from emergent_bricks.analysis.texts import Sample, batches, by_function, tokenise


def losses(
    host: Host, ids: Sequence[Sequence[int]], within: AbstractContextManager[None] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Of each text the summed loss of its tokens but the first, in nats, and how many there are; (texts,) both."""
    summed, counts = np.zeros(len(ids)), np.array([max(0, len(row) - 1) for row in ids])
    with torch.inference_mode(), within or nullcontext():
        for batch in batches(host, ids):
            logits = host.model(input_ids=batch.ids, attention_mask=batch.is_text.long(), use_cache=False).logits
            for place, row in enumerate(batch.rows):
                own = logits[place, : counts[row]].float()
                wanted = batch.ids[place, 1 : counts[row] + 1]
                summed[row] = float(torch.nn.functional.cross_entropy(own, wanted, reduction="sum"))
    return summed, counts


def perplexity(host: Host, ids: Sequence[Sequence[int]], within: AbstractContextManager[None] | None = None) -> float:
    """Perplexity per token of all texts together."""
    summed, counts = losses(host, ids, within)
    return float(np.exp(summed.sum() / counts.sum()))


def perplexities(
    host: Host, samples: Sequence[Sample], within: AbstractContextManager[None] | None = None
) -> dict[str, float]:
    """Perplexity per token of each function's texts."""
    ids, _ = tokenise(host, [sample.text for sample in samples])
    summed, counts = losses(host, ids, within)
    return {
        function: exp(summed[places].sum() / max(1, counts[places].sum()))
        for function, places in by_function(samples).items()
    }


def increase(changed: float, plain: float) -> float:
    """How much larger a perplexity has become, in per cent."""
    return 100 * (changed / plain - 1)
