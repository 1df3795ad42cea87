"""Follows an answer that the engine is writing. Knows nothing of how it is written."""

import time
from typing import TYPE_CHECKING

import streamlit as st

from ui import text
from ui.style import ICON

if TYPE_CHECKING:
    from assistant.turn.ticket import Ticket

_TICK_S = 0.1


def follow(ticket: "Ticket") -> None:
    """Draw the answer as it grows and rerun the page at its end. A rerun or a closed page leaves the ticket alone."""
    with st.container(key="answer-running"), st.chat_message("assistant", avatar=str(ICON)):
        words, line = st.empty(), st.empty()
        # A button of its own instead of the chat input's stop mode, which Streamlit 1.67 drops where the question was sent
        # while the run before it had not ended, and which stops the script as a reload and a click do as well.
        st.button("Stop", key="stop", icon=":material/stop_circle:", on_click=ticket.stop)
        drawn, progress, due = "", "", 0.0
        while not ticket.wait(_TICK_S):
            _end_if_told()
            if progress != (now := _progress(ticket)):
                progress = now
                line.caption(progress)
            if drawn != ticket.text and time.monotonic() >= due:
                drawn = ticket.text
                words.markdown(text.answer(drawn) + ("" if text.in_code(drawn) else " ▍"))
                due = time.monotonic() + _pause(len(drawn))
    st.rerun()


def _pause(length: int) -> float:
    """Seconds until so many characters are drawn anew: the browser lays out all of an answer each time."""
    return 0.2 + length / 5000


def _end_if_told() -> None:
    """Leave this script when the page is to be drawn anew or is closed: Streamlit looks at every use of its state."""
    "stop" in st.session_state  # noqa: B015


def _progress(ticket: "Ticket") -> str:
    if ticket.status == "waiting":
        return f":material/hourglass_top: Waiting: place {ticket.place} in the queue" if ticket.place else "Waiting"
    return f":material/progress_activity: {text.plain(ticket.stage, 120)}…"
