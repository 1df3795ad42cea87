"""Makes long things fit the host's context: which turns stay, and which passages of a long document. Pure."""

from collections.abc import Callable, Sequence

from knowledge_bricks.passages import Passage


def first_kept(lengths: Sequence[int], room: int, after_drop: float = 0.75) -> int:
    """Index of the oldest exchange that stays when each takes `lengths[i]` positions and all together may take `room`.

    Exchanges leave whole, the oldest first, and when one must leave, enough leave to bring the rest down to
    `after_drop` of the room: the beginning then stays the same for some turns, and so do its keys and values. The rule
    looks at the lengths alone and replays the conversation from its start, so every turn agrees on it. The last
    exchange is never dropped here.
    """
    first = 0
    for turn in range(1, len(lengths) + 1):
        if sum(lengths[first:turn]) > room:
            while first < turn - 1 and sum(lengths[first:turn]) > after_drop * room:
                first += 1
    return first


def fit_question(text: str, room: int, count: Callable[[str], int]) -> tuple[str, bool]:
    """The message, or its beginning and end when it takes more than `room` tokens; and whether it was cut."""
    used = count(text)
    if used <= room:
        return text, False
    # The task stands at the beginning or the end of a long message, and what it is about in between.
    keep = max(1, int(len(text) * room / used * 0.95) // 2)
    return f"{text[:keep]}\n[…]\n{text[-keep:]}", True


def fit_text(
    text: str, room: int, count: Callable[[str], int], ranked: Callable[[], Sequence[Passage]], passages_room: int
) -> tuple[str, bool]:
    """A document's text within `room` tokens: all of it, or the passages that come first in `ranked`, the first one last.

    ranked         the text's passages, those that the question asks for first; called only when they are needed
    passages_room  tokens that they may take together
    returns        the text, and whether passages were left out
    """
    if count(text) <= room:
        return text, False
    kept: list[Passage] = []
    for passage in ranked():
        size = count(passage.text) + 2
        if size <= passages_room:
            kept.append(passage)
            passages_room -= size
    # As with knowledge, the best passage stands next to the question.
    ordered = [*sorted(kept[1:], key=lambda passage: passage.start), *kept[:1]]
    return "\n\n".join(passage.text for passage in ordered), True
