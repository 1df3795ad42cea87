"""The page "Inside the host": where a brick's neurons are, what it cost others to turn them, an answer with and without."""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import streamlit as st

from mattoni.errors import MattoniError
from ui import views
from ui.sidebar import say
from ui.text import plain

if TYPE_CHECKING:
    from assistant.assistant import Assistant
    from assistant.registry import Brick
    from mattoni.card import BrickCard

VIEW = "inside"
_GROUPS = 32  # of neighbouring neurons, the columns of the map
_TOKENS = 60  # of the two answers
_KEPT = "inside-answers"


def draw_inside(assistant: "Assistant") -> None:
    """Draw the page for the host that answers."""
    views.draw_way_back()
    st.header("Inside the host", anchor=False)
    found = [brick for brick in assistant.bricks().usable if brick.parts.neutral is not None]
    # What the host can do comes before what only turns it down: a function lies in every layer.
    bricks = sorted(found, key=lambda brick: (brick.parts.neutral == 0, brick.name))
    if not bricks:
        st.info(
            f"No brick was made of the neurons of {plain(assistant.host.name)} yet: "
            "`mattoni xray brick NAME --texts FOR.jsonl --against OTHERS.jsonl` makes one."
        )
        return
    titles = {brick.name: brick.card.title for brick in bricks}
    chosen = st.segmented_control(
        "Function", list(titles), default=bricks[0].name, required=True, format_func=titles.__getitem__, key="inside-brick",
        label_visibility="collapsed",
    )  # fmt: skip
    brick = next((b for b in bricks if b.name == chosen), bricks[0])
    st.caption(plain(f"{brick.card.summary} {brick.card.limits}", 500))
    _draw_map(brick)
    _draw_effects(brick.card)
    _draw_trial(assistant, brick)


def _draw_map(brick: "Brick") -> None:
    from emergent_bricks.gates import load_gates

    try:
        gates = load_gates(brick.host_folder)
    except MattoniError as problem:
        st.error(plain(str(problem), 400))
        return
    counts = {layer: group_counts(row.ne(0).tolist()) for layer, row in gates.items()}
    st.html(heat_map(counts))


def group_counts(is_own: Sequence[bool], groups: int = _GROUPS) -> list[int]:
    """How many of a layer's neurons are the brick's, in each of so many runs of neighbours."""
    edges = [round(place * len(is_own) / groups) for place in range(groups + 1)]
    return [sum(is_own[begin:end]) for begin, end in zip(edges, edges[1:], strict=False)]


def heat_map(counts: dict[int, list[int]]) -> str:
    """A row per layer, a cell per group of neurons, the darker the more of them are the brick's; as plain markup."""
    most = max((count for row in counts.values() for count in row), default=0) or 1
    rows = []
    for layer, row in counts.items():
        cells = "".join(
            f'<i style="opacity:{count / most:.2f}" title="layer {layer}, group {group}: {count} neurons"></i>'
            for group, count in enumerate(row)
        )
        rows.append(f"<span>{layer}</span><div>{cells}</div>")
    label = f"Neurons of each layer, in {_GROUPS} groups of neighbours; the darkest cell holds {most}."
    return (
        f'<div class="mattoni-neurons" role="img" aria-label="{escape(label)}">{"".join(rows)}</div>'
        f'<p class="mattoni-legend">Layers from the top down. {escape(label)}</p>'
    )


def _draw_effects(card: "BrickCard") -> None:
    """What the card says it measured."""
    if card.metrics:
        st.table(
            [
                {
                    "measured": m.name,
                    "n": str(m.n),
                    "this brick": f"{m.value:g}",
                    **{k: f"{v:g}" for k, v in m.beside.items()},
                }
                for m in card.metrics
            ]
        )


def _draw_trial(assistant: "Assistant", brick: "Brick") -> None:
    """The same question with and without."""
    rest = brick.parts.neutral
    assert rest is not None
    with st.form("inside-form", border=False):
        question = st.text_input(
            "Question", key="inside-question", placeholder="Write a function that adds two numbers."
        )
        value = st.slider(
            "Turned to", 0.0, 2.0, 1.0 - rest, 0.05, key=f"inside-{brick.name}", help=f"{rest:g}: as it is."
        )
        asked = st.form_submit_button("Answer with and without", type="primary")
    if asked and question.strip():
        with st.spinner("Answering twice…"):
            try:
                st.session_state[_KEPT] = (brick.name, value, *_answers(assistant, brick.name, question.strip(), value))
            except MattoniError as problem:
                say(str(problem))
                st.rerun()
    kept = st.session_state.get(_KEPT)
    if kept and kept[0] == brick.name:
        _, at, without, turned = kept
        left, right = st.columns(2)
        for column, name, text in ((left, "As it is", without), (right, f"At {at:g}", turned)):
            with column.container(border=True):
                st.caption(name)
                st.text(text or "(nothing)")


def _answers(assistant: "Assistant", name: str, question: str, value: float) -> tuple[str, str]:
    """The likeliest answer of the host as it is, and with the brick; neither is kept in a conversation."""
    from assistant.host.sampling import Sampling
    from assistant.turn.route import Choice, Choices

    sampling = Sampling(temperature=0, max_tokens=_TOKENS)
    # The host alone on both sides: what else the router might choose would be what one looks at.
    off = {b.name: Choice("off") for b in assistant.bricks().usable if b.parts.neutral is None and b.accepts("text")}
    both = []
    for choices in (Choices(bricks=off), Choices(bricks={**off, name: Choice("on", value)})):
        ticket = assistant.ask(question, (), choices, sampling)
        ticket.wait()
        if ticket.error is not None:
            raise MattoniError(ticket.error)
        both.append(ticket.text)
    return both[0], both[1]
