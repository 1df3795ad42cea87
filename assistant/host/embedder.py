"""Turns texts into unit vectors of the `text` space. Knows nothing of what they are compared with."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import mattoni.torchvision_ops  # noqa: F401

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModel

from mattoni.cache import RecentlyUsed
from mattoni.errors import MattoniError
from mattoni.files import sha256_of
from mattoni.processor import multiplies_bf16

WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
# What sentence-transformers sets for all-MiniLM-L6-v2 (sentence_bert_config.json): later tokens do not count.
MAX_TOKENS = 256


class Embedder:
    """A sentence-transformers folder run by plain transformers: mean of the last hidden states, scaled to length one.

    Frozen and deterministic; may be used by several threads at once.
    """

    def __init__(self, folder: Path, device: str | torch.device = "cpu") -> None:
        """Load in float32. Raises MattoniError when the folder holds no embedder that transformers can read."""
        try:
            self._model = AutoModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
            )
            # Tokenizer itself, not transformers' wrapper: the wrapper sets truncation anew at each call, and two
            # threads that do so at once fail with "Already borrowed".
            self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        except Exception as problem:  # tokenizers raises plain Exception, transformers OSError and ValueError
            raise MattoniError(
                f"{folder} holds no text embedder that can be loaded: fetch or copy it again."
            ) from problem
        self._model.eval().requires_grad_(False).to(device)
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.no_padding()
        self._folder = folder
        # By text: of one message the router, several recognisers and each brick of knowledge want the vectors.
        self._read: RecentlyUsed[Tensor] = RecentlyUsed(256)
        self.device = torch.device(device)
        self.width: int = self._model.config.hidden_size

    @cached_property
    def digest(self) -> str:
        """Hash of the weights and the tokenizer: vectors from embedders with other digests cannot be compared."""
        parts = [sha256_of(self._folder / name) for name in (WEIGHTS, TOKENIZER)]
        return "sha256:" + hashlib.sha256("".join(parts).encode()).hexdigest()

    def embed(self, texts: Sequence[str], batch: int = 32) -> Tensor:
        """Embed texts. Returns (n, width) float32 unit rows on the CPU, in the order given.

        A text's vector depends on `batch` and the texts beside it only by rounding, below 1e-6.
        """
        # Passages are read in another precision, and once.
        if len(texts) == 1 and not torch.is_autocast_enabled(self.device.type):
            return torch.nn.functional.normalize(self.depths(texts[0])[-1:], dim=1)
        return self._embed(texts, batch)

    @torch.inference_mode()
    def _embed(self, texts: Sequence[str], batch: int) -> Tensor:
        vectors = torch.empty(len(texts), self.width)
        if not texts:
            return vectors
        ids = [torch.tensor(encoding.ids) for encoding in self._tokenizer.encode_batch(list(texts))]
        # Texts of like length share a batch: padding costs as much as words do.
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            vectors[rows] = self._unit_vectors([ids[row] for row in rows]).cpu()
        return vectors

    def embed_passages(self, texts: Sequence[str]) -> Tensor:
        """As `embed`, for many texts that are kept: with products in bf16 where that is faster.

        2.7 times as fast on a CPU with bf16; a vector's cosine with `embed`'s is 0.9999 or more.
        """
        with torch.autocast(self.device.type, torch.bfloat16, enabled=multiplies_bf16(self.device)):
            return self.embed(texts)

    def tokens(self, texts: Sequence[str]) -> int:
        """How many tokens of these texts count, the two that frame each of them among them."""
        return sum(len(encoding.ids) for encoding in self._tokenizer.encode_batch(list(texts)))

    def depths(self, text: str) -> Tensor:
        """The mean hidden state at every depth, the input embeddings first: (layers + 1, width), float32, on the CPU.

        The last one points where `embed` does; the middle ones know more of how a text is put, and less of its topic. Kept for the texts
        that were read last.
        """
        return self._read.get(hashlib.sha256(text.encode("utf-8", "replace")).digest(), lambda: self._depths(text))

    def forget(self) -> None:
        """Drop what was kept of texts."""
        self._read.drop(lambda key: True)

    @torch.inference_mode()
    def _depths(self, text: str) -> Tensor:
        ids = torch.tensor(self._tokenizer.encode(text).ids).unsqueeze(0)
        states = self._model(input_ids=ids.to(self.device), output_hidden_states=True).hidden_states
        return torch.stack([state[0].mean(dim=0) for state in states]).float().cpu()

    def _unit_vectors(self, ids: list[Tensor]) -> Tensor:
        """One batch of token ids, padded to the longest → (batch, width)."""
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
        lengths = torch.tensor([len(row) for row in ids])
        mask = (torch.arange(padded.shape[1]) < lengths.unsqueeze(1)).to(self.device)
        hidden = self._model(input_ids=padded.to(self.device), attention_mask=mask.long()).last_hidden_state
        mean = (hidden * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        return torch.nn.functional.normalize(mean, dim=1)
