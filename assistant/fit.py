"""Makes long things fit the host's context: which turns stay, and which passages of a long document. Pure."""

from collections.abc import Callable, Sequence

from torch import Tensor

from knowledge_bricks.passages import split_text


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
    text: str,
    question: str,
    room: int,
    count: Callable[[str], int],
    embed: Callable[[list[str]], Tensor],
) -> tuple[str, bool]:
    """A document's text within `room` tokens: all of it, or the passages nearest to the question in reading order.

    embed   texts → (n, width) unit vectors
    returns the text, and whether passages were left out
    """
    if count(text) <= room:
        return text, False
    passages = split_text(text)
    scores = (embed(passages) @ embed([question or passages[0]])[0]).tolist()
    kept: list[int] = []
    for index in sorted(range(len(passages)), key=lambda i: scores[i], reverse=True):
        size = count(passages[index]) + 2
        if size <= room:
            kept.append(index)
            room -= size
    return "\n\n".join(passages[index] for index in sorted(kept)), True
