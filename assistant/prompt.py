"""Builds prompts from turns. The only place that knows the chat template, and where soft tokens stand.

Text from a user, a file, OCR or a document can never open or close a role or stand for a picture: the template is
rendered around placeholders, and every piece that is not the template's own is encoded apart with special tokens off;
token ids are joined, never text. Escaping alone is not enough (transformers #47386, #48052; vLLM #57740).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from assistant.host import Host
from mattoni.errors import MattoniError

# Between a document's text and a question about it: without it a small host adds up what it reads, or tells it all again
# (docs/experiments.md, "What is the total?").
ASK_TEXT = "Answer this question from the text above, in a few words:\n\n"


def asks(message: str) -> bool:
    """Whether a message is a question, not an order such as "Translate this"."""
    return "?" in message


@dataclass(frozen=True)
class Text:
    """Text that anybody may have written."""

    text: str


@dataclass(frozen=True, eq=False)
class Soft:
    """Soft tokens of one picture: (n, width); `digest` stands for the contents they were made from."""

    digest: str
    vectors: Tensor


@dataclass(frozen=True)
class Ids:
    """Token ids of an answer as the host gave them, so that its cache is found again."""

    ids: tuple[int, ...]


Segment = Text | Soft | Ids
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Turn:
    """One message of the conversation as the host sees it."""

    role: Role
    segments: tuple[Segment, ...]


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt as runs of token ids and soft tokens, in order."""

    pieces: tuple[tuple[int, ...] | Soft, ...]

    @property
    def keys(self) -> list[int | tuple[str, int]]:
        """One entry per position: a token id, or (digest, index) of a soft token. Equal keys have equal contents."""
        keys: list[int | tuple[str, int]] = []
        for piece in self.pieces:
            keys.extend([(piece.digest, i) for i in range(len(piece.vectors))] if isinstance(piece, Soft) else piece)
        return keys

    def __len__(self) -> int:
        return sum(len(piece.vectors) if isinstance(piece, Soft) else len(piece) for piece in self.pieces)

    def inputs(self, host: Host, start: int = 0) -> dict[str, Tensor]:
        """The forward arguments for the positions from `start` on.

        `input_ids` (1, n) for plain text, which keeps the bare host's path bit for bit, or `inputs_embeds` (1, n,
        width) where soft tokens are among them.
        """
        rest = _from(self.pieces, start)
        if all(not isinstance(piece, Soft) for piece in rest):
            ids = [i for piece in rest if not isinstance(piece, Soft) for i in piece]
            return {"input_ids": torch.tensor([ids], device=host.device)}
        rows = [
            piece.vectors.to(host.device, host.dtype)
            if isinstance(piece, Soft)
            else host.embed(torch.tensor(piece, dtype=torch.long, device=host.device))
            for piece in rest
        ]
        return {"inputs_embeds": torch.cat(rows).unsqueeze(0)}


def _from(pieces: Sequence[tuple[int, ...] | Soft], start: int) -> list[tuple[int, ...] | Soft]:
    """The pieces without their first `start` positions."""
    rest: list[tuple[int, ...] | Soft] = []
    for piece in pieces:
        size = len(piece.vectors) if isinstance(piece, Soft) else len(piece)
        if start < size:
            rest.append(Soft(piece.digest, piece.vectors[start:]) if isinstance(piece, Soft) else piece[start:])
        start = max(0, start - size)
    return rest


@lru_cache(maxsize=8)
def _added_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str] | None:
    """Matches every added token's text (role markers, picture placeholders, tool marks, special or not)."""
    literals = sorted({str(token) for token in tokenizer.get_added_vocab()}, key=len, reverse=True)
    return re.compile("|".join(re.escape(literal) for literal in literals if literal)) if literals else None


def encode_untrusted(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Token ids of `text` in which no added token occurs, whatever it says: each look-alike is cut after its first
    character and the halves are encoded apart."""
    pattern = _added_tokens(tokenizer)
    pieces, start = [], 0
    for match in pattern.finditer(text) if pattern else ():
        cut = match.start() + 1
        pieces.append(text[start:cut])
        start = cut
    pieces.append(text[start:])
    ids = [i for piece in pieces if piece for i in tokenizer.encode(piece, add_special_tokens=False)]
    forbidden = set(tokenizer.get_added_vocab().values())
    # A one-character added token cannot be cut; nothing a message could need is lost with it.
    return tuple(i for i in ids if i not in forbidden)


def build_prompt(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], answering: bool = True) -> Prompt:
    """Render the tokenizer's own chat template around the turns' segments.

    answering  end with the opening of the assistant's answer

    Raises MattoniError for a tokenizer without a template, or one whose template refuses these roles.
    """
    marks = [f"\ue000{n}\ue001" for n in range(len(turns))]
    messages = [{"role": turn.role, "content": mark} for turn, mark in zip(turns, marks, strict=True)]
    if not tokenizer.chat_template:
        raise MattoniError("This host has no chat template: choose an instruction-tuned model as host.")
    try:
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answering)
    except Exception as problem:  # jinja templates raise whatever their author chose
        raise MattoniError(f"This host's chat template refuses the conversation ({problem}).") from problem
    assert isinstance(rendered, str)
    around = re.split("\ue000\\d+\ue001", rendered)
    if len(around) != len(turns) + 1:
        raise MattoniError("This host's chat template leaves messages out: choose another host.")
    pieces: list[tuple[int, ...] | Soft] = []
    for own, turn in zip(around, [*turns, None], strict=True):
        # The template's own text: role markers are real tokens here. It brings its own BOS where the model wants one.
        pieces.append(tuple(tokenizer.encode(own, add_special_tokens=False)))
        pieces.extend(_encode(tokenizer, segment) for segment in (turn.segments if turn else ()))
    return Prompt(tuple(piece for piece in pieces if isinstance(piece, Soft) or piece))


def _encode(tokenizer: PreTrainedTokenizerBase, segment: Segment) -> tuple[int, ...] | Soft:
    match segment:
        case Text(text):
            return encode_untrusted(tokenizer, text)
        case Ids(ids):
            return ids
        case Soft():
            return segment
