"""From the token ids of an answer to its text, piece by piece. Knows nothing of how they were drawn."""

from collections.abc import Callable, Sequence
from typing import Literal

from transformers import PreTrainedTokenizerBase

from assistant.host.repetition import Repetition
from assistant.host.sampling import Sampling


class TextStream:
    """Turns token ids into text as they come; a character that spans tokens appears when it is whole."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._pending: list[int] = []
        self._shown = 0
        self.ids: list[int] = []

    def push(self, token: int) -> str:
        """The text that this token completes, maybe none."""
        self.ids.append(token)
        self._pending.append(token)
        text = self._decode(self._pending)
        if text.endswith("\ufffd"):
            return ""
        new, self._shown = text[self._shown :], len(text)
        # Decoding starts anew at line ends, so that its cost does not grow with the answer.
        if text.endswith("\n"):
            self._pending, self._shown = [], 0
        return new

    def rest(self) -> str:
        """What was held back at the end."""
        return self._decode(self._pending)[self._shown :]


class StopStrings:
    """Lets text through up to the first of some strings; holds back what may yet become one."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = [string for string in strings if string]
        self._held = ""
        self.passed = 0  # characters that were let through
        self.hit = False

    def push(self, text: str) -> str:
        """What of the text so far is surely none of the strings; sets `hit` where one begins."""
        self._held += text
        places = [place for place in (self._held.find(string) for string in self._strings) if place >= 0]
        if places:
            self.hit = True
            return self._release(min(places))
        return self._release(len(self._held) - self._open())

    def rest(self) -> str:
        """What was held back at the end; nothing after a hit."""
        return "" if self.hit else self._release(len(self._held))

    def _release(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        self.passed += count
        return text

    def _open(self) -> int:
        """Length of the longest end of the text that begins one of the strings."""
        longest = max(map(len, self._strings), default=1) - 1
        ends = range(min(longest, len(self._held)), 0, -1)
        return next((n for n in ends if any(s.startswith(self._held[-n:]) for s in self._strings)), 0)


class Answer:
    """An answer as it grows: its text, where a stop string or going round in circles ends it, and what of it is kept."""

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str] = (), least: int = 0) -> None:
        """`least`: tokens before which going round in circles ends nothing."""
        self._least = least
        self._stream, self._stops, self._repetition = TextStream(decode), StopStrings(stop), Repetition()
        self._text = ""
        self._lengths: list[int] = []  # of the text after each token
        self._keep: int | None = None  # characters, where not all is kept
        self.ended: Literal["stop-string", "repeats"] | None = None

    @property
    def said(self) -> list[int]:
        """All token ids so far, whatever is kept of them in the end."""
        return self._stream.ids

    def push(self, token: int) -> str:
        """The text that this token completes and that may be shown; sets `ended`."""
        return self._show(self._stream.push(token))

    def rest(self) -> str:
        """What was held back at the end."""
        return self._show(self._stream.rest()) + self._stops.rest()

    def over(self) -> None:
        """Note that nothing more comes: where it went round in circles at its end, what it said once is kept."""
        if self._keep is None and len(self.said) > self._least and (keep := self._repetition.at_end()) is not None:
            self.ended, self._keep = "repeats", keep

    def kept(self) -> tuple[str, list[int]]:
        """Text and token ids without a stop string or surplus repetitions: what the next prompt holds of it."""
        if self._keep is None:
            return self._text, list(self.said)
        count = sum(length <= self._keep for length in self._lengths)
        # A token that shows nothing begins a character which is left out.
        while count and self._lengths[count - 1] == (self._lengths[count - 2] if count > 1 else 0):
            count -= 1
        return self._text[: self._lengths[count - 1]] if count else "", self.said[:count]

    def _show(self, text: str) -> str:
        self._text += text
        self._lengths.append(len(self._text))
        shown = self._stops.push(text)
        if self._stops.hit:
            self.ended, self._keep = "stop-string", self._stops.passed
        elif self.ended is None and len(self.said) >= self._least and (keep := self._repetition.push(text)) is not None:
            self.ended, self._keep = "repeats", keep
        return shown


def answer_of(tokenizer: PreTrainedTokenizerBase, sampling: Sampling) -> Answer:
    """An empty answer that ends as the sampling says."""
    return Answer(
        lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)),
        sampling.stop,
        # What has a form is as long as that: half of it would be none.
        sampling.max_tokens if sampling.json_schema is not None else sampling.min_tokens,
    )
