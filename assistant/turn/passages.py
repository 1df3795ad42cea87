"""Passages that bricks found for a message: the best of them all, and how they are put to the host. Pure."""

from collections.abc import Sequence

from assistant.host.prompt import ASK_PASSAGES
from mattoni.injections import Passage, Text
from mattoni.runtime import Injected
from mattoni.trace import Candidate, Citation

PASSAGES_PER_TURN = 3
# Letters; what is shorter is read sooner than looked up, in a pass of its own.
_WORTH_KEEPING = 200


def best_passages(found: Sequence[Injected], most: int = PASSAGES_PER_TURN) -> list[Citation]:
    """The passages that answer the message best, whichever brick they are of, best first."""
    citations = [citation for injected in found for citation in injected.citations]
    return sorted(citations, key=lambda citation: citation.score, reverse=True)[:most]


# Beyond its threshold: of 200 questions about pictures and 100 follow-ups none that sounds but a little like one comes so near to
# 934 passages (docs/experiments.md).
_CLEARLY = 0.3


def answers_clearly(score: Candidate | None) -> bool:
    """Whether a brick's passages are so near to a message that it is theirs, by how near the nearest is."""
    return score is not None and score.score >= score.threshold + _CLEARLY


def found_reason(citations: Sequence[Citation]) -> str:
    """Why a brick took part."""
    return "found " + ", ".join(f"{c.document} ({c.place})" for c in citations)


def knowledge_segments(citations: Sequence[Citation]) -> tuple[Passage | Text, ...]:
    """The passages as they stand before the question; none when there are none.

    The best one stands last and the instruction behind it: a small host uses what is nearest to the question.
    Chosen on 100 questions of reading-dev; docs/experiments.md, "How passages are put to the host". A passage does not say
    its number, so that it is the same text, read once, wherever it stands among others.
    """
    if not citations:
        return ()
    texts = [f"{c.document}, {c.place}:\n{c.text}\n\n" for c in reversed(citations)]
    return (*(Passage(t) if len(t) >= _WORTH_KEEPING else Text(t) for t in texts), Text(ASK_PASSAGES))
