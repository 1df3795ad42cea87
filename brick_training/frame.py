"""The prompt of training, as token ids: what training shows the host is what the assistant will."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from assistant.host.host import Host
from assistant.host.prompt import Turn, build_prompt, invocation_tokens
from mattoni.injections import AFTER_PICTURE, Segment, Soft, Text, picture_label
from mattoni.untrusted import encode_untrusted

SOFT = -1  # stands for a soft token among token ids

TokenIds = tuple[int, ...]


@dataclass(frozen=True)
class PromptFrame:
    """How a user's message becomes token ids and an answer's ids text again; only who makes one knows the chat template.

    prompt  a message, and of each of its pictures the number of soft tokens -> the whole prompt, up to where the answer begins
    answer  an answer -> its ids, with the end of the turn
    text    ids of an answer -> its text
    end     the token that stops an answer
    invocation  the ids that open a user's message, from which on a skill acts that is trained as activated
    """

    prompt: Callable[[str, TokenIds], TokenIds]
    answer: Callable[[str], TokenIds]
    text: Callable[[Sequence[int]], str]
    end: int
    invocation: Callable[[], TokenIds]

    @property
    def before(self) -> TokenIds:
        """What stands in front of a message's only picture."""
        ids = self.prompt("", (1,))
        return ids[: ids.index(SOFT)]

    def question(self, text: str) -> TokenIds:
        """What stands between a message's only picture and the answer."""
        ids = self.prompt(text, (1,))
        return ids[ids.index(SOFT) + 1 :]


def prompt_frame(host: Host) -> PromptFrame:
    """The prompt exactly as `assistant` builds it for one message."""
    tokenizer = host.tokenizer

    def rendered(message: str, shown: TokenIds) -> TokenIds:
        segments: list[Segment] = []
        for place, count in enumerate(shown):
            segments += [*picture_label(place, len(shown)), Soft("", torch.zeros(count, 0)), AFTER_PICTURE]
        keys = build_prompt(tokenizer, [Turn("user", (*segments, Text(message)))]).keys
        return tuple(key if isinstance(key, int) else SOFT for key in keys)

    @lru_cache(maxsize=1)
    def around() -> tuple[TokenIds, TokenIds]:
        # The template is rendered once: what stands before and after a user's message does not depend on it.
        empty, marked = (rendered(text, ()) for text in ("", "x"))
        before = next(i for i, (a, b) in enumerate(zip(empty, marked, strict=False)) if a != b)
        return empty[:before], empty[before:]

    with_pictures = lru_cache(maxsize=10_000)(rendered)

    def prompt(message: str, shown: TokenIds) -> TokenIds:
        if shown:
            return with_pictures(message, shown)
        before, after = around()
        return (*before, *encode_untrusted(tokenizer, message), *after)

    end = _end_of_turn(host)
    return PromptFrame(
        prompt=prompt,
        answer=lambda text: (*encode_untrusted(tokenizer, text), end),
        text=lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=True)),
        end=end,
        invocation=lambda: invocation_tokens(tokenizer),
    )


def _end_of_turn(host: Host) -> int:
    """The token with which the template ends an answer, if generation stops at it."""
    picture = Soft("", torch.zeros(0))
    answered = [Turn("user", (picture,)), Turn("assistant", (picture,))]
    closing = build_prompt(host.tokenizer, answered, answering=False).pieces[-1]
    assert isinstance(closing, tuple)
    # The template may put a line break behind the end of a turn; generation stops before it.
    return next((i for i in closing if i in host.stop_ids), int(host.tokenizer.eos_token_id))
