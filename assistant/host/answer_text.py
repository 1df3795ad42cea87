"""From the token ids of an answer to its text, piece by piece. Knows nothing of how they were drawn."""

from collections.abc import Callable, Sequence


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
        return text

    def _open(self) -> int:
        """Length of the longest end of the text that begins one of the strings."""
        longest = max(map(len, self._strings), default=1) - 1
        ends = range(min(longest, len(self._held)), 0, -1)
        return next((n for n in ends if any(s.startswith(self._held[-n:]) for s in self._strings)), 0)
