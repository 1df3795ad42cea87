"""Follows an answer that the engine is writing. Knows nothing of how it is written."""

import time
from typing import Any

import streamlit as st
from streamlit.runtime import Runtime, get_instance
from streamlit.runtime.scriptrunner import StopException, get_script_run_ctx

from ui import text
from ui.style import ICON

_TICK_S = 0.1


def stop_means_stop() -> bool:
    """Whether a stopped script can only mean the stop button. With Streamlit's fast reruns any click stops the script
    as well (streamlit #11746), so the chat input offers its stop mode only without them, as `mattoni ui` starts it."""
    return not st.get_option("runner.fastReruns")


def follow(ticket: Any, has_stop: bool) -> None:
    """Draw the answer as it grows and rerun the page at its end. A rerun or a closed page leaves the ticket alone.

    has_stop   the chat input shows its stop button (it does only in the run in which the question was sent)
    """
    with st.container(key="answer-running"), st.chat_message("assistant", avatar=str(ICON)):
        words, line = st.empty(), st.empty()
        if not has_stop:
            st.button("Stop", key="stop", icon=":material/stop_circle:", type="tertiary", on_click=ticket.stop)
        try:
            drawn, progress, due = "", "", 0.0
            while not ticket.wait(_TICK_S):
                _notice_a_stop()
                if progress != (now := _progress(ticket)):
                    progress = now
                    line.caption(progress)
                if drawn != ticket.text and time.monotonic() >= due:
                    drawn = ticket.text
                    words.markdown(text.answer(drawn) + " ▍")
                    due = time.monotonic() + _pause(len(drawn))
        except StopException:
            if stop_means_stop() and _page_is_open():
                ticket.stop()
            raise
    st.rerun()


def _pause(length: int) -> float:
    """Seconds until so many characters are drawn anew: the browser lays out all of an answer each time."""
    return 0.2 + length / 5000


def _notice_a_stop() -> None:
    """Raise StopException when this script is to stop: Streamlit looks at every use of the session's state."""
    "stop" in st.session_state  # noqa: B015


def _progress(ticket: Any) -> str:
    if ticket.status == "waiting":
        return f":material/hourglass_top: Waiting: place {ticket.place} in the queue" if ticket.place else "Waiting"
    return f":material/progress_activity: {text.plain(ticket.stage, 120)}…"


def _page_is_open() -> bool:
    """Whether this session still has its browser. Closing or reloading a page stops its script too."""
    context = get_script_run_ctx(suppress_warning=True)
    if context is None or not Runtime.exists():
        return False
    # A closing session first stops its script and leaves the list of active ones right after.
    time.sleep(0.15)
    return get_instance().is_active_session(context.session_id)
