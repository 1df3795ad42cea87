"""What the sidebar is set to, conversation by conversation: kept with it, and there again after a reload or in another tab.

A conversation that is new takes over what the page was set to when its first question was asked; an empty one begins with nothing set.
"""

from typing import TYPE_CHECKING, Any

import streamlit as st

from assistant.conversations.store import ConversationStore

if TYPE_CHECKING:
    from assistant.registry import Bricks

_OF = "choices-of"  # the conversation whose choices the controls show


def show_choices(store: ConversationStore, conversation: str | None, bricks: "Bricks") -> None:
    """Set the controls to a conversation's choices where another one's were shown. Before they are drawn."""
    is_first = _OF not in st.session_state
    if st.session_state.get(_OF) == conversation and not is_first:
        return
    st.session_state[_OF] = conversation
    kept = store.choices(conversation) if conversation is not None else None
    if kept is None and (is_first or conversation is not None):
        return  # as the address says, or as the page was set when the conversation began
    for key, rest in _resting(bricks).items():
        st.session_state[key] = (kept or {}).get(key, rest)


def keep_choices(store: ConversationStore, conversation: str | None, bricks: "Bricks") -> None:
    """Keep what the controls are set to, where it changed. After they were drawn."""
    if conversation is None:
        return
    shown = {key: st.session_state.get(key, rest) for key, rest in _resting(bricks).items()}
    changed = {key: shown[key] for key, rest in _resting(bricks).items() if shown[key] != rest}
    if changed != (store.choices(conversation) or {}):
        store.keep_choices(conversation, changed)


def _resting(bricks: "Bricks") -> dict[str, Any]:
    """The controls of bricks by key, with what each shows where nothing is set."""
    resting: dict[str, Any] = {"vision": "auto"}
    for brick in bricks.usable:
        if brick.parts.neutral is not None:
            resting[f"dial-{brick.name}"] = brick.parts.neutral
            continue
        resting[f"use-{brick.name}"] = "auto"
        if brick.card.kind in ("task", "emergent"):
            resting[f"strength-{brick.name}"] = 1.0
    return resting
