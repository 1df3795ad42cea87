"""Builds prompts from turns. The only place that knows the chat template, and where soft tokens stand.

Text from a user, a file, OCR or a document can never open or close a role or stand for a picture: the template is
rendered around placeholders, and every piece that is not the template's own is encoded apart with special tokens off;
token ids are joined, never text. Escaping alone is not enough (transformers #47386, #48052; vLLM #57740).

An imported checkpoint was trained on prompts of another build: pictures at a place of their own, and text that was encoded
in one piece. Its chat template asks for `message.pictures` (a list) and `message.text` instead of `message.content`; then each
run of text between soft tokens is encoded as its own processor would, and what a stranger wrote still closes no role.
"""

import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from assistant.host.activation import Place
from assistant.host.host import Host
from mattoni.errors import MattoniError
from mattoni.injections import AFTER_PICTURE, Ids, Passage, Segment, Soft, Text
from mattoni.untrusted import cut, encode_untrusted

# Between a document's text and a question about it: without it a small host adds up what it reads, or tells it all again
# (docs/experiments.md, "What is the total?").
ASK_TEXT = "Answer this question from the text above, in a few words:\n\n"
# And between passages that were found for it and a question.
ASK_PASSAGES = "Answer this question from the passages above, in a few words:\n\n"


def asks(message: str) -> bool:
    """Whether a message is a question, not an order such as "Translate this"."""
    return "?" in message


Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Turn:
    """One message of the conversation as the host sees it."""

    role: Role
    segments: tuple[Segment, ...]


def opening(host: Host) -> list[Turn]:
    """What a conversation with a host begins with: who it is, where its chat template would say something else."""
    return [Turn("system", (Text(host.system),))] if host.system else []


@dataclass(frozen=True)
class Apart:
    """Token ids that are read behind a beginning alone, wherever they stand in the prompt: the beginning is their attention sink."""

    beginning: tuple[int, ...]
    ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def places(self) -> list[Place]:
        """Its keys: what is read apart is not what the same tokens are that see all before them."""
        said = ",".join(map(str, self.beginning)), ",".join(map(str, self.ids))
        digest = f"apart:{hashlib.sha256('|'.join(said).encode()).hexdigest()}"
        return [(digest, i) for i in range(len(self.ids))]


Piece = tuple[int, ...] | Soft | Apart


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt as runs of token ids, soft tokens and passages that are read apart, in order."""

    pieces: tuple[Piece, ...]

    @property
    def keys(self) -> list[Place]:
        """One entry per position: a token id, or (digest, index) of a soft token. Equal keys have equal contents."""
        keys: list[Place] = []
        for piece in self.pieces:
            match piece:
                case Soft():
                    keys.extend((piece.digest, i) for i in range(len(piece.vectors)))
                case Apart():
                    keys.extend(piece.places)
                case ids:
                    keys.extend(ids)
        return keys

    @property
    def apart(self) -> dict[int, Apart]:
        """The passages that are read apart, by the position of their first token."""
        sizes = map(_size, self.pieces)
        ends = itertools.accumulate(sizes)
        return {
            end - len(piece): piece for piece, end in zip(self.pieces, ends, strict=True) if isinstance(piece, Apart)
        }

    @property
    def whole(self) -> "Prompt":
        """The same token ids, each of which sees all before it."""
        return Prompt(tuple(piece.ids if isinstance(piece, Apart) else piece for piece in self.pieces))

    def __len__(self) -> int:
        return sum(map(_size, self.pieces))

    def inputs(self, host: Host, start: int = 0) -> dict[str, Tensor]:
        """The forward arguments for the positions from `start` on.

        `input_ids` (1, n) for plain text, which keeps the bare host's path bit for bit, or `inputs_embeds` (1, n,
        width) where soft tokens are among them.
        """
        rest = _from(self.whole.pieces, start)
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


def _size(piece: Piece) -> int:
    """Positions of a piece."""
    return len(piece.vectors) if isinstance(piece, Soft) else len(piece)


def _from(pieces: Sequence[Piece], start: int) -> list[tuple[int, ...] | Soft]:
    """The pieces of a whole prompt without their first `start` positions."""
    rest: list[tuple[int, ...] | Soft] = []
    for piece in pieces:
        assert not isinstance(piece, Apart)
        size = _size(piece)
        if start < size:
            rest.append(Soft(piece.digest, piece.vectors[start:]) if isinstance(piece, Soft) else piece[start:])
        start = max(0, start - size)
    return rest


def build_prompt(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], answering: bool = True) -> Prompt:
    """Render the tokenizer's own chat template around the turns' segments.

    answering  end with the opening of the assistant's answer

    Raises MattoniError for a tokenizer without a template, or one whose template refuses these roles.
    """
    parts: dict[str, tuple[Segment, ...]] = {}
    messages: list[dict[str, Any]] = []
    for n, turn in enumerate(turns):
        pictures = [segment for segment in turn.segments if isinstance(segment, Soft)]
        text = tuple(s for s in turn.segments if not isinstance(s, Soft) and s != AFTER_PICTURE)
        placed = {_mark(f"{n}p{k}"): (picture,) for k, picture in enumerate(pictures)}
        said = {_mark(f"{n}t"): text} if text else {}
        parts |= {_mark(f"{n}"): turn.segments, **placed, **said}
        messages.append(
            {"role": turn.role, "content": _mark(f"{n}"), "pictures": list(placed), "text": next(iter(said), "")}
        )
    if not tokenizer.chat_template:
        raise MattoniError("This host has no chat template: choose an instruction-tuned model as host.")
    try:
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answering)
    except Exception as problem:  # jinja templates raise whatever their author chose
        raise MattoniError(f"This host's chat template refuses the conversation ({problem}).") from problem
    assert isinstance(rendered, str)
    around = re.split("(\ue000\\w+\ue001)", rendered)
    marks = around[1::2]
    whole = [_mark(f"{n}") for n in range(len(turns))]
    if marks == whole:
        pieces = _one_by_one(tokenizer, [text if n % 2 == 0 else parts[text] for n, text in enumerate(around)], turns)
    elif sorted(marks) == sorted(mark for mark in parts if mark not in whole):
        pieces = _in_runs(tokenizer, [parts.get(text, text) for text in around])
    else:
        raise MattoniError("This host's chat template leaves messages out: choose another host.")
    return Prompt(tuple(piece for piece in pieces if isinstance(piece, Soft) or len(piece)))


def invocation_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The token ids that open every message of a user: from the last of them on, a skill that is trained as activated acts.

    So it reads the message as well as the answer, as a LoRA that acts everywhere does, and leaves the history alone. They
    begin with the template's own mark where it has one, which no text of a stranger's can bring.

    Raises MattoniError for a template with nothing of its own in front of a user's message.
    """
    said = Soft("", torch.zeros(0, 0))  # a piece of its own, which leaves no tokens
    asked = [Turn("user", (said,)), Turn("assistant", (said,)), Turn("user", (said,))]
    first, _, later = [p for p in build_prompt(tokenizer, asked, answering=False).pieces if isinstance(p, tuple)][:3]
    same = 0
    while same < min(len(first), len(later)) and first[-1 - same] == later[-1 - same]:
        same += 1
    shared = later[len(later) - same :]
    added = set(tokenizer.get_added_vocab().values())
    begin = max((at for at, token in enumerate(shared) if token in added), default=0)
    if not shared:
        raise MattoniError(
            "This host's chat template has nothing in front of a user's message from which a skill could act: train it "
            "without lora.activated."
        )
    return shared[begin:]


def _mark(name: str) -> str:
    """What stands for a segment while the template is rendered; nothing a template would change."""
    return f"\ue000{name}\ue001"


def _one_by_one(
    tokenizer: PreTrainedTokenizerBase, rendered: Sequence[str | tuple[Segment, ...]], turns: Sequence[Turn]
) -> list[Piece]:
    """The template's own text, in which role markers are real tokens and BOS stands where the model wants one, and segments, each by
    itself; a passage is read behind all that stands before the first user's message."""
    # Its own text stands before each message and behind the last.
    opening = 2 * next((n for n, turn in enumerate(turns) if turn.role == "user"), len(turns))
    pieces: list[Piece] = []
    beginning: tuple[int, ...] | None = None
    for n, part in enumerate(rendered):
        if isinstance(part, str):
            pieces.append(tuple(tokenizer.encode(part, add_special_tokens=False)))
            if n == opening:
                beginning = _plain_ids(pieces)
            continue
        for segment in part:
            encoded: Piece = _encode(tokenizer, segment)
            if isinstance(segment, Passage) and isinstance(encoded, tuple) and beginning:
                encoded = Apart(beginning, encoded)
            pieces.append(encoded)
    return pieces


def _plain_ids(pieces: Sequence[Piece]) -> tuple[int, ...] | None:
    """Their token ids; None where they hold anything else."""
    ids = [piece for piece in pieces if isinstance(piece, tuple)]
    return tuple(i for piece in ids for i in piece) if len(ids) == len(pieces) else None


def _in_runs(tokenizer: PreTrainedTokenizerBase, rendered: Sequence[str | tuple[Segment, ...]]) -> list[Piece]:
    """The rendered template, its own text as `str`, with each run of text between soft tokens and answers encoded whole."""
    pieces: list[Piece] = []
    run: list[str | Text | Passage] = []
    for part in [*rendered, (Ids(()),)]:
        for segment in [part] if isinstance(part, str) else part:
            if isinstance(segment, str | Text | Passage):
                run.append(segment)
                continue
            if isinstance(segment, Ids) and segment.ids and run and isinstance(run[-1], str):
                # An answer's first token brings the space before it; twice, the kept keys and values would not fit.
                run[-1] = run[-1].rstrip(" ")
            pieces.append(_encode_run(tokenizer, run, begins=not pieces))
            pieces.append(segment if isinstance(segment, Soft) else segment.ids)
            run = []
    return pieces


def _encode_run(
    tokenizer: PreTrainedTokenizerBase, run: Sequence[str | Text | Passage], begins: bool
) -> tuple[int, ...]:
    """Template's text and strangers' text in one piece, cut only inside what looks like an added token in the latter."""
    chunks = [""]
    for part in run:
        first, *more = [part] if isinstance(part, str) else cut(tokenizer, part.text)
        chunks[-1] += first
        chunks += more
    ids = [i for n, chunk in enumerate(chunks) if chunk for i in _in_place(tokenizer, chunk, begins and n == 0)]
    apart = [
        i
        for part in run
        for i in (
            tokenizer.encode(part, add_special_tokens=False)
            if isinstance(part, str)
            else encode_untrusted(tokenizer, part.text)
        )
    ]
    # What no token stands for is no mark, though many tokenizers list it with them.
    added = set(tokenizer.get_added_vocab().values()) - {tokenizer.unk_token_id}
    # A stranger's text next to the template's could still spell an added token; then nothing is encoded together.
    same = [i for i in ids if i in added] == [i for i in apart if i in added]
    return tuple(ids if same else apart)


def _in_place(tokenizer: PreTrainedTokenizerBase, text: str, begins: bool) -> list[int]:
    """Token ids of `text` where it stands: at the beginning, or after a picture. Many tokenizers put a space in front of
    what begins."""
    bos = str(tokenizer.bos_token or "")
    if bos and text.startswith(bos):
        return [int(tokenizer.bos_token_id), *tokenizer.encode(text.removeprefix(bos), add_special_tokens=False)]
    anchor = "<image>" if "<image>" in tokenizer.get_added_vocab() else str(tokenizer.eos_token or "")
    if begins or not anchor:
        return list(tokenizer.encode(text, add_special_tokens=False))
    return list(tokenizer.encode(anchor + text, add_special_tokens=False))[1:]


def _encode(tokenizer: PreTrainedTokenizerBase, segment: Segment) -> tuple[int, ...] | Soft:
    match segment:
        case Text(text) | Passage(text):
            return encode_untrusted(tokenizer, text)
        case Ids(ids):
            return ids
        case Soft():
            return segment
