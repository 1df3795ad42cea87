"""Decides which bricks a turn uses, and says why. Pure: vectors, keys and the user's choices in, a plan out.

Knows nothing of pictures, models or files: whoever calls it has embedded the pictures in the `glance` space and the
message in the `text` space. Routing is maximum inner product search (MIPS) over the bricks' keys: a brick's score is
the largest inner product of its keys with the vector. Of image bricks the best score wins, and its threshold says whether
that is worth a notice; a skill is chosen only when its score reaches the threshold. A brick may bring counter-keys, which say
what is near and not for it (`mattoni.keys`).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from mattoni.errors import MattoniError
from mattoni.keys import scores
from mattoni.methods import ChosenBy, Needs, Reads
from mattoni.runtime import Accepts
from mattoni.trace import Candidate, Notice


@dataclass(frozen=True)
class KeyedBrick:
    """What the router knows of a brick. Without keys only the user can choose it."""

    name: str
    kind: str  # modality, task, knowledge or emergent
    space: Literal["glance", "text"] | None = None
    keys: Tensor | None = None  # (n, width), unit rows
    threshold: float = 1.0
    counter: Tensor | None = None  # (m, width), unit rows: what lies near and is not for the brick
    accepts: frozenset[Accepts] = frozenset()
    chosen_by: ChosenBy = "keys"
    needs: Needs = Needs()  # of the conversation's pictures, for a skill to be chosen by its keys
    on_answer: str = ""  # how a skill is asked to go on from an answer; empty: it cannot
    is_stitched: bool = False  # it belongs to one host, and gives soft tokens where others give words
    is_in_front: bool = False  # it puts keys and values in front of the prompt, where there is room for one brick

    def score(self, vectors: Tensor) -> float:
        """The best score of `vectors` (n, width); negative when counter-keys are nearer to all of them."""
        assert self.keys is not None
        return float(scores(vectors.to(self.keys), self.keys, self.counter).max())


# Skills beside those that are near or on that a route looks at and puts on the trace, the best first.
_WEIGHED = 50
# Skills that make way for another are looked at once more, so many of the nearest: each costs as much as a message.
_UNLOCKED = 8


@dataclass(frozen=True, eq=False)
class KeyIndex:
    """The keys of many bricks in one matrix, so that a message is compared with all of them at once (exact MIPS).

    keys, counter                (n, width), (m, width): of all bricks, one after the other
    of_key, of_counter           (n,), (m,): whose they are
    thresholds, is_always        (bricks,): bool where a brick is looked at whatever its score
    """

    bricks: tuple[KeyedBrick, ...]
    keys: Tensor
    of_key: Tensor
    counter: Tensor
    of_counter: Tensor
    thresholds: Tensor
    is_always: Tensor

    @classmethod
    def of(cls, bricks: Sequence[KeyedBrick]) -> "KeyIndex | None":
        """That of bricks with keys in the `text` space; None where there are none."""
        found = tuple(brick for brick in bricks if brick.keys is not None and brick.space == "text")
        if not found:
            return None
        keys = [brick.keys for brick in found if brick.keys is not None]
        counters = [
            keys[0].new_zeros(0, keys[0].shape[1]) if b.counter is None else b.counter.to(keys[0]) for b in found
        ]
        return cls(
            found,
            torch.cat([own.to(keys[0]) for own in keys]),
            _owners(keys),
            torch.cat(counters),
            _owners(counters),
            torch.tensor([brick.threshold for brick in found]),
            torch.tensor([bool(brick.needs.pictures) for brick in found]),
        )

    def scores(self, vectors: Tensor) -> Tensor:
        """(pieces, width) -> (bricks,): each brick's best score, as `KeyedBrick.score` gives it."""
        vectors = vectors.to(self.keys)
        # Keys first: of a few vectors the other way round takes seven times as long.
        own = self._largest((self.keys @ vectors.T).T, self.of_key)
        if not len(self.counter):
            return own.amax(dim=0)
        lead = own - self._largest((self.counter @ vectors.T).T, self.of_counter)
        return torch.where(lead >= 0, own, lead).amax(dim=0)

    def _largest(self, products: Tensor, owners: Tensor) -> Tensor:
        """(pieces, keys) -> (pieces, bricks): of each brick the largest; minus infinity where it has none."""
        found = products.new_full((len(products), len(self.bricks)), -torch.inf)
        return found.scatter_reduce(1, owners.expand(len(products), -1), products, "amax")

    def worth(self, vectors: Tensor, names: Collection[str]) -> dict[str, float]:
        """{brick: score} of those that a route has to look at: near ones, the best, and those of these names."""
        scores = self._unlocked(vectors.to(self.keys), self.scores(vectors))
        is_worth = (scores >= self.thresholds) | self.is_always
        is_worth[scores.topk(min(_WEIGHED, len(scores))).indices] = True
        near = {self.bricks[i].name: float(scores[i]) for i in is_worth.nonzero().flatten().tolist()}
        if not names:
            return near
        return near | {brick.name: float(scores[i]) for i, brick in enumerate(self.bricks) if brick.name in names}

    def _unlocked(self, vectors: Tensor, scores: Tensor) -> Tensor:
        """The scores, where several skills each make way for another of them: then none of these does.

        Counter-keys stand for the messages of others and are finer than keys, so what lies between two skills may be nearer to the
        counter-keys of both, and nobody answered it. A counter-key stands for a skill where that one takes it.
        """
        if not len(self.counter) or (scores >= self.thresholds).any():
            return scores
        own = self._largest((self.keys @ vectors.T).T, self.of_key)
        near = own >= self.thresholds
        free = scores.clone()
        nearest_first = sorted(near.nonzero().tolist(), key=lambda at: -float(own[at[0], at[1]]))
        for piece, brick in nearest_first[:_UNLOCKED]:
            counter = self.counter[self.of_counter == brick]
            nearest = counter[(counter @ vectors[piece]).argmax()].unsqueeze(0)
            takers = self.scores(nearest) >= self.thresholds
            takers[brick] = False
            if (takers & near[piece]).any():
                free[brick] = max(free[brick], own[piece, brick])
        return free


def _owners(parts: Sequence[Tensor]) -> Tensor:
    """Of rows one below the other, the number of the part that each came from."""
    return torch.arange(len(parts)).repeat_interleave(torch.tensor([len(part) for part in parts]))


@dataclass(frozen=True, eq=False)
class Keyring:
    """All bricks that can be chosen. What is made of them is made once."""

    bricks: tuple[KeyedBrick, ...] = ()

    @cached_property
    def by_name(self) -> Mapping[str, KeyedBrick]:
        return {brick.name: brick for brick in self.bricks}

    @cached_property
    def text_index(self) -> KeyIndex | None:
        """What a message is compared with."""
        return KeyIndex.of(self.for_message)

    @cached_property
    def _by_input(self) -> Mapping[Accepts, tuple[KeyedBrick, ...]]:
        kinds: set[Accepts] = {what for brick in self.bricks for what in brick.accepts}
        return {what: tuple(brick for brick in self.bricks if what in brick.accepts) for what in kinds}

    def for_input(self, what: Accepts) -> tuple[KeyedBrick, ...]:
        """The bricks that can be given a picture, a page or a sound."""
        return self._by_input.get(what, ())

    @cached_property
    def going_on(self) -> tuple[KeyedBrick, ...]:
        """The skills that can go on from an answer."""
        return tuple(brick for brick in self.for_message if brick.on_answer)

    @cached_property
    def needing_text(self) -> tuple[KeyedBrick, ...]:
        """The bricks for a message that need a text which was read."""
        return tuple(brick for brick in self.for_message if brick.needs.text)

    @cached_property
    def for_passages(self) -> tuple[KeyedBrick, ...]:
        """The skills that answer from passages."""
        return tuple(brick for brick in self.for_message if brick.needs.passages)

    @cached_property
    def needing_number(self) -> tuple[KeyedBrick, ...]:
        """The skills that compute with the numbers of a message."""
        return tuple(brick for brick in self.for_message if brick.needs.number)

    @cached_property
    def for_message(self) -> tuple[KeyedBrick, ...]:
        """The bricks that a message is compared with, or that the user switches on in its stead."""
        return tuple(b for b in self.bricks if "text" in b.accepts and b.chosen_by == "keys")

    @cached_property
    def for_user(self) -> tuple[KeyedBrick, ...]:
        """The bricks that only the user switches on."""
        return tuple(b for b in self.bricks if "text" in b.accepts and b.chosen_by == "user")

    @cached_property
    def asked_always(self) -> tuple[KeyedBrick, ...]:
        """The bricks that find out themselves whether they have something to say to a message."""
        return tuple(b for b in self.bricks if "text" in b.accepts and b.chosen_by == "itself")

    @cached_property
    def in_every_turn(self) -> tuple[KeyedBrick, ...]:
        """The bricks whose injections themselves act only where they are needed."""
        return tuple(b for b in self.bricks if b.chosen_by == "always")


@dataclass(frozen=True)
class SeenPicture:
    """A picture of the message: its file name and its vector in the `glance` space."""

    name: str
    vector: Tensor  # (width,), unit length


@dataclass(frozen=True)
class Question:
    """A message as the router sees it."""

    pictures: tuple[SeenPicture, ...] = ()
    texts: Tensor | None = None  # (pieces, width): the message and its parts in the `text` space; None: it has no text
    asks_about_picture: bool = False  # what `assistant.turn.recogniser` says of the message
    goes_on: bool = True  # with what was said or shown; nothing is known of a message without text
    about_several: bool = False  # it compares pictures, or points back to one before the latest
    picture: str = ""  # digest of the one of several pictures that it names by its place and is about alone
    picture_at: int | None = None  # where that one is, of `pictures` and `earlier_pictures` together
    wants_words: bool = False  # it asks for the words in a picture
    has_past: bool = False  # something was said before in this conversation
    has_documents: bool = False  # a document came with the message
    history_has_pictures: bool = False  # an earlier message brought a picture or a document that this one may be about
    earlier_pictures: tuple[str, ...] = ()  # of each picture of an earlier message the brick that looked at it
    earlier_text: bool = False  # a document, or a picture of text, of an earlier message was read
    holds_number: bool = True  # or brings a text that may hold one

    @property
    def may_be_about_earlier(self) -> bool:
        """Whether it goes on with something that was shown, or asks about a picture where there was one."""
        return self.history_has_pictures and (self.goes_on or self.asks_about_picture)

    def about_nothing_earlier(self) -> "Question":
        """The same message as one that is about nothing that was said or shown before it."""
        return replace(
            self,
            asks_about_picture=False,
            goes_on=False,
            history_has_pictures=False,
            earlier_pictures=(),
            earlier_text=False,
        )


@dataclass(frozen=True)
class Choice:
    """What the user set for one brick."""

    state: Literal["auto", "on", "off"] = "auto"
    strength: float = 1.0


@dataclass(frozen=True)
class Choices:
    """What the user set by hand for this message; it is never undone."""

    vision: str | None = None  # the image brick for every picture; None: the router chooses
    bricks: Mapping[str, Choice] = field(default_factory=dict)
    others: Literal["auto", "off"] = "auto"  # what is not named in `bricks`
    no_bricks: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """All bricks that are named here."""
        return (*([self.vision] if self.vision else []), *self.bricks)

    def of(self, name: str) -> Choice:
        return self.bricks.get(name, Choice(self.others))

    def among(self, names: Collection[str]) -> "Choices":
        """What of it is about these bricks."""
        vision = self.vision if self.vision in names else None
        return replace(self, vision=vision, bricks={name: c for name, c in self.bricks.items() if name in names})


@dataclass(frozen=True)
class Chosen:
    """A brick that the turn uses. `score` and `threshold` are None when nothing was compared."""

    name: str
    weight: float
    score: float | None
    threshold: float | None
    reason: str


@dataclass(frozen=True)
class Plan:
    """The router's decision."""

    pictures: tuple[Chosen | None, ...] = ()  # one per picture, in order; None: nobody looks, a notice says why
    runners_up: tuple[tuple[Chosen, ...], ...] = ()  # per picture, who looks if the first finds nothing; none by hand
    reader: Chosen | None = None  # who reads documents, and what is written on a picture for a brick that cannot
    skills: tuple[Chosen, ...] = ()  # bricks for the message
    by_user: tuple[Chosen, ...] = ()  # only the user switches them on; they tell nothing of the message
    for_passages: Chosen | None = (
        None  # who answers from passages and texts, where there are any and no other skill does
    )
    knowledge: tuple[str, ...] = ()  # bricks that are asked whether they have something to say
    needs_seen: bool = True  # False: the message stands alone, and earlier exchanges about pictures stay out
    needs_several: bool = False  # the message is about several pictures, or an earlier one than the latest
    reads: Reads = "conversation"  # what of the conversation the skills of this turn were trained to read
    reads_words: bool = False  # the reader is asked too, beside the brick that sees
    waiting: tuple[str, ...] = ()  # of those, who is asked only where what came with the message says nothing
    always: tuple[str, ...] = ()  # bricks of every turn
    notices: tuple[Notice, ...] = ()
    candidates: tuple[Candidate, ...] = ()  # every brick that was scored, for the trace's chart


NO_PICTURE = Notice("no-picture", "This seems to ask about a picture, but none is attached: add one and ask again.")


def route(question: Question, keyring: Keyring, choices: Choices) -> Plan:
    """Choose the bricks of one turn.

    Per picture the best image brick, per message the best skill on Auto and every skill that is On, and all knowledge
    that is not Off. Raises MattoniError when the user names a brick that is not there.
    """
    _check_names(keyring, choices)
    notices: list[Notice] = []
    if choices.no_bricks:
        notices += [NO_PICTURE] if _misses_its_picture(question) else []
        notices += [Notice("refused", f"{p.name} was not looked at: bricks are off.") for p in question.pictures]
        nobody = len(question.pictures)
        return Plan(pictures=(None,) * nobody, runners_up=((),) * nobody, notices=tuple(notices))
    looked = [_route_picture(picture, keyring.for_input("picture"), choices) for picture in question.pictures]
    if question.about_several:
        looked = [(_seen_alike(chosen, keyring, choices), told, scored) for chosen, told, scored in looked]
    seen_by = (*(chosen[0].name for chosen, _, _ in looked if chosen), *question.earlier_pictures)
    readers = {brick.name for brick in keyring.for_input("page")}
    is_read = question.has_documents or question.earlier_text or any(name in readers for name in seen_by)
    lacking = frozenset() if is_read else frozenset(brick.name for brick in keyring.needing_text)
    # "How many days does a week have?" is near a word problem, and gives nothing to compute.
    lacking |= frozenset() if question.holds_number else frozenset(brick.name for brick in keyring.needing_number)
    skills, weighed = _route_message(question, seen_by, keyring, choices, lacking)
    # What is clearly for a skill may sound like a question about a picture: "the cat sits on the table".
    if _misses_its_picture(question) and not skills:
        notices.append(NO_PICTURE)
    knowledge, waiting = _route_knowledge(question, keyring, choices)
    return Plan(
        pictures=tuple(chosen[0] if chosen else None for chosen, _, _ in looked),
        runners_up=tuple(chosen[1:] for chosen, _, _ in looked),
        reader=_reader(keyring, choices),
        skills=skills,
        by_user=_by_user(keyring, choices),
        for_passages=_for_passages(keyring, choices),
        knowledge=knowledge,
        waiting=waiting,
        always=tuple(brick.name for brick in keyring.in_every_turn if choices.of(brick.name).state != "off"),
        reads_words=question.wants_words and choices.vision is None,
        needs_seen=_needs_seen(question, keyring, skills),
        needs_several=_needs_several(question, keyring, skills),
        reads=_least_read(_brick(keyring, chosen.name).needs.reads for chosen in skills),
        notices=(*notices, *(notice for _, found, _ in looked for notice in found)),
        candidates=(*(candidate for _, _, scored in looked for candidate in scored), *weighed),
    )


def _by_user(keyring: Keyring, choices: Choices) -> tuple[Chosen, ...]:
    """The bricks that the user switched on and that nothing else could have."""
    able = (brick.name for brick in keyring.for_user if choices.of(brick.name).state == "on")
    return tuple(_chosen(name, choices, [], "switched on by hand") for name in able)


def _for_passages(keyring: Keyring, choices: Choices) -> Chosen | None:
    """The first skill on Auto that answers from passages; whether there are any is known when the turn is prepared."""
    able = (brick.name for brick in keyring.for_passages if choices.of(brick.name).state == "auto")
    return next((Chosen(name, 1.0, None, None, "answers from passages") for name in able), None)


def listeners(keyring: Keyring, choices: Choices, for_words: bool = False) -> tuple[Chosen, ...]:
    """Who listens to recordings, in this order: the bricks that are On, else those that are not Off, of which those that go with
    any host stand first, as they give words. Asked before `route`, since what is said may be the message.

    for_words  of these only those that give words
    """
    able = [b for b in keyring.for_input("sound") if not choices.no_bricks and choices.of(b.name).state != "off"]
    on = [brick for brick in able if choices.of(brick.name).state == "on"]
    reason = "switched on by hand" if on else "listens to recordings"
    ordered = sorted(on or able, key=lambda brick: brick.is_stitched)
    return tuple(
        Chosen(brick.name, 1.0, None, None, reason) for brick in ordered if not (for_words and brick.is_stitched)
    )


def _reader(keyring: Keyring, choices: Choices) -> Chosen | None:
    """The first brick that reads pages and is not switched off."""
    able = (brick.name for brick in keyring.for_input("page") if choices.of(brick.name).state != "off")
    return next((Chosen(name, 1.0, None, None, "reads documents") for name in able), None)


def _misses_its_picture(question: Question) -> bool:
    has_something = bool(question.pictures) or question.has_documents or question.history_has_pictures
    # "It is white" goes on with what was said, and asks nothing of a picture.
    goes_on = question.has_past and question.goes_on
    return question.asks_about_picture and not has_something and not goes_on


def _needs_seen(question: Question, keyring: Keyring, skills: Sequence[Chosen]) -> bool:
    """Whether pictures of earlier messages matter to this one. What it brings itself is what it is about."""
    if _needs_several(question, keyring, skills):
        return True
    brings_its_own = bool(question.pictures) or question.has_documents
    return not brings_its_own and (question.asks_about_picture or question.goes_on)


def _needs_several(question: Question, keyring: Keyring, skills: Sequence[Chosen]) -> bool:
    return question.about_several or any(_brick(keyring, chosen.name).needs.pictures > 1 for chosen in skills)


def _least_read(reads: Iterable[Reads]) -> Reads:
    """What all of them can read: a skill that was trained on less is shown no more."""
    order: tuple[Reads, ...] = ("message", "last", "conversation")
    return min(reads, key=order.index, default="conversation")


def _brick(keyring: Keyring, name: str) -> KeyedBrick:
    return keyring.by_name[name]


def _route_knowledge(question: Question, keyring: Keyring, choices: Choices) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Who is asked at once, and who only where what came with the message, or with what it goes on with, says nothing."""
    able = [brick.name for brick in keyring.asked_always if choices.of(brick.name).state != "off"]
    if not (question.pictures or question.has_documents or question.may_be_about_earlier):
        return tuple(able), ()
    by_hand = tuple(name for name in able if choices.of(name).state == "on")
    return by_hand, tuple(name for name in able if name not in by_hand)


def _check_names(keyring: Keyring, choices: Choices) -> None:
    images = [brick.name for brick in keyring.for_input("picture")]
    if choices.vision is not None and choices.vision not in images:
        raise MattoniError(
            f"There is no image brick '{choices.vision}' (there are: {_listed(images)}); choose one of them."
        )
    for name in choices.bricks:
        if name not in keyring.by_name:
            raise MattoniError(
                f"There is no brick '{name}' (there are: {_listed(keyring.by_name)}): choose one of them."
            )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _scores(bricks: Iterable[KeyedBrick], space: str, vectors: Tensor, subject: str) -> list[Candidate]:
    """Every brick with keys in the space, best score first."""
    scored = [
        Candidate(brick.name, brick.kind, brick.score(vectors), brick.threshold, subject)
        for brick in bricks
        if brick.keys is not None and brick.space == space
    ]
    return sorted(scored, key=lambda candidate: candidate.score, reverse=True)


def _has_its_pictures(brick: KeyedBrick, question: Question, seen_by: Sequence[str]) -> bool:
    """Whether the conversation has the pictures that a skill needs, and the message is about so many of them."""
    wanted = brick.needs.pictures
    if not wanted:
        return True
    if wanted == 1:
        # It was trained on one picture: its own, the one that is named by its place, or the latest that is asked about.
        if len(question.pictures) > 1 and not question.picture:
            return False
        if question.picture_at is not None:
            seen = seen_by[question.picture_at : question.picture_at + 1]
        else:
            seen = seen_by[:1] if question.pictures else seen_by[-1:] if question.asks_about_picture else ()
        return bool(seen) and brick.needs.vision in ("", *seen) and not question.about_several
    if question.picture:
        return False
    of_its_own = len(question.pictures) >= wanted
    return (of_its_own or question.about_several) and wanted <= sum(brick.needs.vision in ("", n) for n in seen_by)


def _nearness(candidate: Candidate) -> str:
    return f"nearest key {candidate.score:.2f}, threshold {candidate.threshold:.2f}"


def _route_picture(
    picture: SeenPicture, bricks: tuple[KeyedBrick, ...], choices: Choices
) -> tuple[tuple[Chosen, ...], list[Notice], list[Candidate]]:
    """The bricks that look at one picture, the best first. One that is On by hand comes before all that are on Auto."""
    by_hand = choices.vision
    allowed = [brick for brick in bricks if choices.of(brick.name).state != "off"]
    switched_on = [brick for brick in allowed if choices.of(brick.name).state == "on"]
    scored = _scores(switched_on or allowed, "glance", picture.vector.unsqueeze(0), picture.name)
    if by_hand is None and len(switched_on) == 1:
        by_hand = switched_on[0].name
    if by_hand is not None:
        return (_chosen(by_hand, choices, scored, "chosen by hand"),), [], scored
    if not allowed:
        text = f"{picture.name} was not looked at: no image brick is installed and switched on."
        return (), [Notice("refused", text)], scored
    name = scored[0].name if scored else allowed[0].name
    reason = _nearness(scored[0]) if scored else "no image brick has keys"
    notices: list[Notice] = []
    # The nearest key wins, whatever the thresholds: a brick that is added cannot take pictures that are nearer to another's.
    if not scored or scored[0].score < scored[0].threshold:
        if switched_on and scored:
            reason = f"switched on; {reason}"
        else:
            reason = f"fallback: {reason}"
            text = f"{picture.name} is like nothing that an image brick knows; '{name}' looked at it all the same."
            notices = [Notice("fallback", text)]
    runners_up = (_chosen(c.name, choices, scored, f"next best; {_nearness(c)}") for c in scored[1:])
    return (_chosen(name, choices, scored, reason), *runners_up), notices, scored


# So much nearer a picture may be to another brick than the one that a comparison needs.
_LITTLE = 0.05


def _seen_alike(chosen: tuple[Chosen, ...], keyring: Keyring, choices: Choices) -> tuple[Chosen, ...]:
    """The bricks that look at a picture of a message about several, the best first.

    A skill that compares needs all of them seen by one brick. So that one looks first wherever it is near enough, though another is
    a little nearer: a photograph with a shop front, beside one of a beach.
    """
    comparing = {brick.needs.vision for brick in keyring.for_message if brick.needs.pictures > 1}
    first = chosen[:1]
    if not first or choices.vision is not None or choices.of(first[0].name).state == "on":
        return chosen
    least = (first[0].score or 0) - _LITTLE
    better = [c for c in chosen[1:] if c.name in comparing and (c.score or 0) >= max(c.threshold or 0, least)]
    if first[0].name in comparing or not better:
        return chosen
    own = replace(better[0], reason=f"the message is about several pictures; {better[0].reason}")
    return (own, *(c for c in chosen if c.name != own.name))


def _in_front(keyring: Keyring, on: Sequence[str]) -> str | None:
    """The brick that the user wants in front of the prompt. Raises MattoniError where there are two.

    Keys and values that were trained apart stand at the same positions and do not answer together (arXiv:2606.04557).
    """
    found = [name for name in on if _brick(keyring, name).is_in_front]
    if len(found) > 1:
        raise MattoniError(
            f"'{found[0]}' and '{found[1]}' are both cartridges, and a turn has room for one: switch one of them off."
        )
    return found[0] if found else None


def _chosen(name: str, choices: Choices, scored: list[Candidate], reason: str) -> Chosen:
    found = next((candidate for candidate in scored if candidate.name == name), None)
    strength = choices.of(name).strength
    return Chosen(name, strength, found.score if found else None, found.threshold if found else None, reason)


# A message that sounds like a question about a picture must come so much nearer to a skill that needs none.
_CLEARLY = 0.1


def _route_message(
    question: Question,
    seen_by: Sequence[str],
    keyring: Keyring,
    choices: Choices,
    lacking: frozenset[str],
) -> tuple[tuple[Chosen, ...], list[Candidate]]:
    """Every skill that is On, and the one on Auto that comes nearest, if it is near enough and has the pictures it needs.

    lacking  skills that need a text which nothing of the conversation has, or a number

    One, because low-rank deltas of several skills disturb one another: asking for more than one is left to the user.
    """
    by_hand = {name for name, choice in choices.bricks.items() if choice.state == "on"}
    on = [brick.name for brick in keyring.for_message if brick.name in by_hand] if by_hand else []
    front = _in_front(keyring, on)
    index = keyring.text_index
    found = index.worth(question.texts, on) if index is not None and question.texts is not None else {}
    able = [keyring.by_name[name] for name in found if choices.of(name).state != "off"]
    fitting = [b for b in able if _has_its_pictures(b, question, seen_by) and b.name not in lacking]
    candidates = [Candidate(b.name, b.kind, found[b.name], b.threshold, "message") for b in fitting]
    scored = sorted(candidates, key=lambda candidate: candidate.score, reverse=True)
    chosen = [_chosen(name, choices, scored, "switched on by hand") for name in on]
    pictures = {brick.name: brick.needs.pictures for brick in fitting}

    def is_near(candidate: Candidate) -> bool:
        if not pictures[candidate.name]:
            return candidate.score >= candidate.threshold + _CLEARLY * question.asks_about_picture
        # That a message is about several pictures is told apart better than by keys ("what do these two have in common").
        compares = question.about_several and pictures[candidate.name] > 1
        return compares or candidate.score >= candidate.threshold

    automatic = [
        c for c in scored if c.name not in on and is_near(c) and not (front and _brick(keyring, c.name).is_in_front)
    ]
    # Where the message is for a skill that is on, a second one would disturb it: `arithmetic` beside `maths`.
    is_served = any(candidate.name in on and is_near(candidate) for candidate in scored)
    if automatic and not is_served:
        best = automatic[0]
        near = best.score >= best.threshold
        reason = _nearness(best) if near else f"the message is about several pictures; {_nearness(best)}"
        chosen.append(_chosen(best.name, choices, scored, reason))
    return tuple(chosen), scored
