"""The frozen host behind soft tokens: its loss on answers, and what it says by itself. Training only; the host is an argument."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel

from brick_training.frame import PromptFrame
from mattoni.errors import MattoniError


class Speaker:
    """A host that is asked about pictures.

    The prompt up to the soft tokens never changes: its keys and values are computed once and shared by all samples.
    """

    def __init__(self, host: PreTrainedModel, frame: PromptFrame) -> None:
        self.host, self.frame = host, frame
        with torch.no_grad():
            before = torch.tensor([frame.before], device=host.device)
            cache = host(before, use_cache=True).past_key_values
        self._prefix = [(layer.keys, layer.values) for layer in cache.layers]

    def prefix(self, batch: int) -> DynamicCache:
        """A cache that begins with the constant part of the prompt, for `batch` rows."""
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(self._prefix):
            cache.update(keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1), layer)
        return cache

    def loss(self, soft: Tensor, questions: Sequence[str], answers: Sequence[str]) -> Tensor:
        """The host's loss on these answers: (batch, queries, width), a question and an answer of each -> mean over samples."""
        asked, said = [self.frame.question(q) for q in questions], [self.frame.answer(a) for a in answers]
        return answer_loss(self.host, self.prefix(len(soft)), soft, asked, said)

    @torch.inference_mode()
    def answer(self, soft: Tensor, question: str, new_tokens: int) -> list[str]:
        """Greedy answers to one question about several pictures, (batch, queries, width), as one batch."""
        asked = torch.tensor(self.frame.question(question), device=soft.device).expand(len(soft), -1)
        embed = self.host.get_input_embeddings()
        words: Tensor = embed(asked)
        inputs = torch.cat([soft.to(words.dtype), words], dim=1)
        cache = self.prefix(len(soft))
        said: list[Tensor] = []
        for _ in range(new_tokens):
            logits = self.host(inputs_embeds=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            said.append(logits[:, -1].argmax(-1))
            inputs = embed(said[-1]).unsqueeze(1)
        texts = []
        for row in torch.stack(said, dim=1).tolist():
            end = row.index(self.frame.end) if self.frame.end in row else len(row)
            texts.append(self.frame.text(row[:end]).strip())
        return texts


def answer_loss(
    host: PreTrainedModel,
    cache: DynamicCache,
    soft: Tensor,
    questions: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
) -> Tensor:
    """Mean over samples of the mean cross-entropy of each answer's tokens.

    cache      keys and values of what stands before the soft tokens
    soft       (batch, queries, width)
    questions  ids between the soft tokens and the answer, one list per sample
    answers    ids of the answers with their end, one list per sample

    Raises MattoniError when an answer is empty, as then nothing would be learned from it.
    """
    if any(not answer for answer in answers):
        raise MattoniError(
            "A sample has an empty answer, so its label mask is empty: remove such samples from the data."
        )
    queries = soft.shape[1]
    longest = max(len(q) + len(a) for q, a in zip(questions, answers, strict=True))
    ids = torch.zeros(len(soft), longest, dtype=torch.long)
    rows: list[int] = []
    places: list[int] = []
    labels: list[int] = []
    weights: list[float] = []
    for row, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        ids[row, : len(question) + len(answer)] = torch.tensor([*question, *answer])
        first = queries + len(question) - 1  # the position that predicts the answer's first token
        rows += [row] * len(answer)
        places += range(first, first + len(answer))
        labels += answer
        weights += [1 / len(answer)] * len(answer)
    embed = host.get_input_embeddings()
    asked: Tensor = embed(ids.to(soft.device))
    inputs = torch.cat([soft.to(asked.dtype), asked], dim=1)
    # Padding stands to the right of everything that counts, so causal attention never sees it.
    hidden = host.base_model(inputs_embeds=inputs, past_key_values=cache, use_cache=True).last_hidden_state
    head = host.get_output_embeddings()
    assert head is not None
    logits = head(hidden[rows, places]).float()
    losses = F.cross_entropy(logits, torch.tensor(labels, device=soft.device), reduction="none")
    return (losses * torch.tensor(weights, device=soft.device)).sum() / len(soft)
