"""The skills of the sidebar: a line each, switched in one click; all else about one stands behind its name."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Literal

import streamlit as st

from mattoni.paths import data_folder
from ui.text import plain

if TYPE_CHECKING:
    from assistant.registry import Brick
    from assistant.turn.route import Choice

_STATES: tuple[Literal["auto", "on", "off"], ...] = ("auto", "on", "off")
_MANY = 8  # skills: from there on they can be searched

# How near the last message came to a brick, and what it needs: (score, threshold) by name.
Scores = Mapping[str, tuple[float, float]]


def draw_skills(
    bricks: "Sequence[Brick]", scores: Scores, draw_remove: "Callable[[Brick], None]"
) -> "dict[str, Choice]":
    """A line per skill, the user's own first. Returns what was chosen for each."""
    own = [brick for brick in bricks if brick.folder.is_relative_to(data_folder())]
    shipped = [brick for brick in bricks if brick not in own]
    wanted = ""
    if len(bricks) >= _MANY:
        wanted = st.text_input(
            "Search skills", key="search-skills", type="search", placeholder=f"Search {len(bricks)} skills", live=True,
            label_visibility="collapsed",
        ) or ""  # fmt: skip
    _hide([brick for brick in bricks if not _is_meant(brick, wanted)])
    choices: dict[str, Choice] = {}
    for title, group in (("Yours", own), ("Shipped", shipped)):
        if own and group and not wanted:
            st.caption(title)
        choices |= {brick.name: _draw_skill(brick, scores.get(brick.name), draw_remove) for brick in group}
    if wanted and not any(_is_meant(brick, wanted) for brick in bricks):
        st.caption("No skill is called or described like that.")
    return choices


def _is_meant(brick: "Brick", wanted: str) -> bool:
    """Whether every word of the search stands in its name, title or summary."""
    text = f"{brick.name} {brick.card.title} {brick.card.summary}".casefold()
    return all(word in text for word in wanted.casefold().split())


def _hide(bricks: "Sequence[Brick]") -> None:
    """Keep lines out of sight: drawn all the same, as a control that is not drawn forgets what was chosen."""
    if bricks:
        rows = ", ".join(f".st-key-skill-{escape(brick.name)}" for brick in bricks)
        st.html(f"<style>{rows} {{ display: none; }}</style>")


def _draw_skill(brick: "Brick", score: tuple[float, float] | None, draw_remove: "Callable[[Brick], None]") -> "Choice":
    from assistant.turn.route import Choice

    card = brick.card
    with st.container(horizontal=True, wrap=False, gap="xsmall", vertical_alignment="center", key=f"skill-{card.name}"):
        more = st.popover(
            plain(card.title), type="tertiary", width="stretch", key=f"about-{card.name}",
            icon=":material/warning:" if brick.warning else None,
        )  # fmt: skip
        state = st.segmented_control(
            plain(card.title), _STATES, key=f"use-{card.name}", default="auto", required=True, bind="query-params",
            format_func=str.capitalize, label_visibility="collapsed", width="content",
        )  # fmt: skip
    with more:
        st.caption(plain(f"{card.summary} {card.limits}".strip(), 500))
        if brick.warning:
            st.caption(f":material/warning: {plain(brick.warning, 300)}")
        strength = st.slider(
            f"Strength of {plain(card.title)}", 0.0, 2.0, 1.0, 0.05, key=f"strength-{card.name}", bind="query-params",
            label_visibility="collapsed", format="strength %.2f", disabled=state == "off",
        )  # fmt: skip
        st.caption("  \n".join(_facts(brick, score)))
        draw_remove(brick)
    return Choice(state=state or "auto", strength=strength if state != "off" else 1.0)


def _facts(brick: "Brick", score: tuple[float, float] | None) -> list[str]:
    """Last score, measured quality, size."""
    from assistant.turn.admission import admitted

    card = brick.card
    facts = []
    if not admitted(brick):
        facts.append(f"Auto leaves it alone: it has not passed `mattoni bricks gate {card.name}`")
    if score is not None:
        near, needed = score
        facts.append(f"Last message: {near:.2f}, Auto takes it from {needed:.2f}")
    elif card.parts.needs.passages:
        facts.append("Auto takes it where passages were found or a text is asked about")
    elif card.routes is None:
        facts.append("Auto never takes it: it has no routing keys")
    if card.metrics:
        metric = card.metrics[0]
        facts.append(f"{plain(metric.name)} {metric.value:g} of {metric.n} {plain(metric.split)} rows")
    facts.append(f"Version {card.version}, {sum(file.bytes for file in card.files.values()) / 1e6:.1f} MB")
    return facts
