"""What of a conversation stands before a question: what the question is about, and nothing else.

A small host that reads earlier answers gives them again: asked for the capital of Portugal after a letter, the builtin one told
the letter's date, and of a receipt it answered the second question like the first. So its prompt holds what was shown and
is asked about as if it had come with this question, which is also what the bricks were trained on. Pure.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from assistant.turn.place import picture_meant
from assistant.turn.request import Exchange
from mattoni.inputs import Document, Picture, Sound
from mattoni.records import Read, Record, is_picture

MATERIAL = 300  # characters from which on a message is itself what is asked about, pasted in


@dataclass(frozen=True)
class Asking:
    """A message as far as its focus depends on it."""

    brings_its_own: bool = False  # attachments came with it
    is_question: bool = True  # not an order, which may be about what was answered: "Make it shorter."
    asks_about_picture: bool = False
    goes_on: bool = True  # with what was said or shown before
    about_several: bool = False  # pictures, or an earlier one than the latest
    document: int | None = None  # which one of the documents so far it names, from 0 or, at the end, from -1
    picture: str = ""  # digest of the one of several pictures that it names and is about alone


@dataclass(frozen=True)
class Focus:
    """The exchanges that stay as they were, and what was shown earlier and stands beside the message instead.

    picture  digest of the one picture that stands there, of those of the message too; empty: all that came with it do
    """

    past: tuple[Exchange, ...]
    shown: tuple[Record, ...] = ()
    picture: str = ""


def focus(
    asking: Asking,
    past: Sequence[Exchange],
    stands_alone: Callable[[str], bool],
    holds_answer: Callable[[Read], bool],
    answers_clearly: Callable[[Read], bool],
) -> Focus:
    """What a message is about.

    stands_alone     whether an earlier message went on with nothing before it
    holds_answer     whether an earlier document seems to answer the message
    answers_clearly  whether it does beyond doubt, so that it is asked though the message sounds like one about something later
    """
    found = _by_its_words(asking, past, stands_alone, holds_answer)
    names_it = asking.brings_its_own or asking.about_several or bool(asking.picture)
    if names_it or not asking.is_question or _has_text(found.shown) or any(_has_text(_shown(e)) for e in found.past):
        return found
    # After a letter and a photograph "When is the fee due?" sounds like a question about the photograph.
    clear = _answering([exchange for exchange in past if _shown(exchange)], answers_clearly)
    return Focus((), clear) if clear else found


def _by_its_words(
    asking: Asking,
    past: Sequence[Exchange],
    stands_alone: Callable[[str], bool],
    holds_answer: Callable[[Read], bool],
) -> Focus:
    """What a message is about by how it is put."""
    showing = [exchange for exchange in past if _shown(exchange)]
    if asking.picture:
        return Focus((), tuple(r for e in past for r in _shown(e) if r.digest == asking.picture), asking.picture)
    if not asking.brings_its_own and (named := named_document(past, asking.document)):
        return Focus((), named)
    if asking.about_several:
        # A skill that compares was trained on pictures of one message.
        return Focus((), tuple(r for e in showing for r in _shown(e))) if showing else _talk(past, stands_alone)
    if asking.brings_its_own:
        return Focus(())
    if asking.asks_about_picture and showing:
        return Focus((), _shown(showing[-1]))
    if not asking.goes_on:
        return Focus((), _answering(showing, holds_answer))
    talk = _talk(past, stands_alone)
    began_with_it = talk.past and talk.past[0] in showing and len(talk.past[0].question) < MATERIAL
    return Focus((), _shown(showing[-1])) if began_with_it and asking.is_question else talk


def named_document(past: Sequence[Exchange], place: int | None) -> tuple[Record, ...]:
    """The one of several documents that is named by its place (`document_meant`); none where there are not so many."""
    read = [record for e in past for record in _shown(e) if isinstance(record, Read) and record.is_text]
    if place is None or len(read) < 2 or not -len(read) <= place < len(read):
        return ()
    return (read[place],)


def named_picture(
    text: str, past: Sequence[Exchange], own: Sequence[Picture | Document | Sound], asks_about_picture: bool
) -> str:
    """Digest of the one of several pictures that a message names by its place and is about alone; empty where it does not.

    own                 what came with it: of several pictures among them it means one of these, else one of all so far
    asks_about_picture  or about several: else "the first one" is something that was said, and "the first photograph ever taken" of
                        the world, unless pictures came with it

    Which one is "the last picture" beside a new one, nobody knows.
    """
    brought = [record for exchange in past for record in _shown(exchange)]
    sent = list(dict.fromkeys(item.digest for item in own if isinstance(item, Picture)))
    so_far = list(dict.fromkeys(record.digest for record in brought if is_picture(record)))
    nothing_else = len(sent) == len({item.digest for item in own}) and all(is_picture(record) for record in brought)
    place = picture_meant(text, ones=asks_about_picture and nothing_else)
    unclear = bool(sent) and (place == -2 or (place == -1 and len(sent) == 1))
    if place is None or unclear or not (sent or asks_about_picture):
        return ""
    for among in (sent, list(dict.fromkeys([*so_far, *sent]))):
        if len(among) > 1 and -len(among) <= place < len(among):
            return among[place]
    return ""


def _answering(showing: Sequence[Exchange], holds_answer: Callable[[Read], bool]) -> tuple[Record, ...]:
    """The latest document that seems to hold what is asked for."""
    read = [r for e in reversed(showing) for r in reversed(_shown(e)) if isinstance(r, Read) and r.is_text]
    return tuple(record for record in read if holds_answer(record))[:1]


def _talk(past: Sequence[Exchange], stands_alone: Callable[[str], bool]) -> Focus:
    """The last exchanges, from the one on that began what they are about."""
    first = len(past)
    while first:
        first -= 1
        if _shown(past[first]) or stands_alone(past[first].asked):
            break
    return Focus(tuple(past[first:]))


def _shown(exchange: Exchange) -> tuple[Record, ...]:
    return tuple(record for record in exchange.brought if not _is_recalled(record))


def _has_text(records: Sequence[Record]) -> bool:
    return any(isinstance(record, Read) and record.is_text for record in records)


def _is_recalled(record: Record) -> bool:
    return isinstance(record, Read) and record.recalled
