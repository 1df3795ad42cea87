"""Passages that bricks found for a message: the best of them all, and how they are put to the host. Pure."""

from collections.abc import Sequence

from mattoni.runtime import Injected
from mattoni.trace import Citation

PASSAGES_PER_TURN = 3


def best_passages(found: Sequence[Injected], most: int = PASSAGES_PER_TURN) -> list[Citation]:
    """The passages that answer the message best, whichever brick they are of, best first."""
    citations = [citation for injected in found for citation in injected.citations]
    return sorted(citations, key=lambda citation: citation.score, reverse=True)[:most]


def found_reason(citations: Sequence[Citation]) -> str:
    """Why a brick took part."""
    return "found " + ", ".join(f"{c.document} ({c.place})" for c in citations)


def knowledge_block(citations: Sequence[Citation]) -> str:
    """The passages as they stand before the question, numbered as they are cited; empty when there are none.

    The best one stands last and the instruction behind it: a small host uses what is nearest to the question.
    Chosen on 100 questions of reading-dev; docs/experiments.md, "How passages are put to the host".
    """
    if not citations:
        return ""
    passages = [f"[{n}] {c.document}, {c.place}:\n{c.text}" for n, c in enumerate(citations, start=1)]
    return "\n\n".join([*reversed(passages), "Answer this question from the passages above, in a few words:", ""])
