"""The pages of those who signed in: what is theirs, to take away or to delete, and how much everybody uses."""

import tempfile
import time
from functools import partial
from pathlib import Path

import streamlit as st

from assistant.people.figures import Figures, figures_of
from assistant.people.taking_away import export_to
from mattoni.errors import MattoniError
from ui import views
from ui.people import PersonDesk
from ui.sidebar import say
from ui.text import plain

VIEW, EVERYBODY = "yours", "people"
_ASKED = "deleting"
_WORD = "DELETE"
_MOST_BYTES = 500_000_000  # of an export that goes through this process's memory to a browser
_FRESH_S = 60


def draw_account(desk: PersonDesk) -> None:
    """Who is here, in a line of the sidebar, and the ways from there."""
    with st.container(horizontal=True, wrap=False, gap="small", vertical_alignment="center", key="account"):
        st.text(desk.person.name, width="stretch")
        _draw_way(VIEW, ":material/folder_shared:", "Your data: take it away, or delete it.")
        if desk.is_administrator:
            _draw_way(EVERYBODY, ":material/group:", "People, and how much they use.")
        if st.button("", icon=":material/logout:", type="tertiary", key="sign-out", help="Sign out."):
            st.logout()


def _draw_way(view: str, symbol: str, told: str) -> None:
    st.button("", icon=symbol, type="tertiary", key=f"view-{view}", help=told, on_click=partial(views.open_view, view))


def draw_view(desk: PersonDesk) -> bool:
    """Draw the page that the address asks for, where it is one of these; False where it is not, or not for them."""
    if views.current() == VIEW:
        _draw_yours(desk)
    elif views.current() == EVERYBODY and desk.is_administrator:
        _draw_everybody(desk)
    else:
        return False
    return True


def _draw_yours(desk: PersonDesk) -> None:
    """How much there is of somebody's, the export and the deletion."""
    views.draw_way_back()
    st.header("Your data", anchor=False)
    figures = figures_of(desk.store)
    st.caption(
        f"{plain(desk.person.name)} {plain(desk.person.email)}  \n{figures.conversations} conversations, {figures.messages} "
        f"messages, {figures.own} bricks of your own, {figures.bytes / 1e6:.1f} MB"
    )
    _draw_export(desk, figures)
    _draw_deletion(desk)


def _draw_export(desk: PersonDesk, figures: Figures) -> None:
    st.subheader("Take it away", anchor=False)
    st.caption(
        "One zip: a JSON file for each conversation, what you attached, and the bricks that you made or brought."
    )
    if figures.bytes > _MOST_BYTES:
        st.info(
            f"It is more than {_MOST_BYTES / 1e6:.0f} MB: ask whoever runs this for `mattoni people export {desk.person.id[:12]}`."
        )
        return
    if not st.button("Make the file", icon=":material/folder_zip:", key="make-export"):
        return
    try:
        with st.spinner("Packing…"), tempfile.TemporaryDirectory() as scratch:
            packed = Path(scratch) / "export.zip"
            export_to(desk.store, packed)
            content = packed.read_bytes()
    except MattoniError as problem:
        st.error(plain(str(problem), 400), icon=":material/error:")
        return
    st.download_button(
        "Save it",
        content,
        "mattoni.zip",
        "application/zip",
        icon=":material/download:",
        key="save-export",
        on_click="ignore",
    )


def _draw_deletion(desk: PersonDesk) -> None:
    """Asked twice: by a button that asks, and by a word."""
    st.subheader("Delete it", anchor=False)
    st.caption("Every conversation, attachment, brick and training of yours. What is being answered is stopped.")
    if not st.session_state.get(_ASKED):
        st.button("Delete everything", icon=":material/delete_forever:", key="delete-all", on_click=_ask)
        return
    st.warning("It cannot be brought back, by nobody. Take it away first if you may want it again.")
    word = st.text_input(f"Write {_WORD} to delete everything", key="delete-word")
    with st.container(horizontal=True, gap="small"):
        is_sure = st.button("Delete for good", type="primary", key="delete-sure", disabled=word.strip() != _WORD)
        st.button("Keep it", key="delete-not", on_click=_ask_not)
    if is_sure:
        try:
            with st.spinner("Deleting…"):
                desk.people.delete(desk.person.id)
        except MattoniError as problem:
            say(str(problem))
            st.rerun()
        st.cache_data.clear()  # pictures and tables that were drawn
        _ask_not()
        st.logout()
        st.stop()


def _ask() -> None:
    st.session_state[_ASKED] = True


def _ask_not() -> None:
    st.session_state.pop(_ASKED, None)


def _draw_everybody(desk: PersonDesk) -> None:
    """How much each of those who signed in uses. Figures only."""
    views.draw_way_back()
    st.header("People", anchor=False)
    st.caption("How much everybody uses; what they say and send, and what they call their bricks, is theirs alone.")
    rows = _everybody(desk)
    st.table(rows)
    st.caption(f"Counted within the last {_FRESH_S} seconds. Export and deletion: `mattoni people`.")


@st.cache_data(ttl=_FRESH_S, show_spinner="Counting…", max_entries=1)
def _everybody(_desk: PersonDesk) -> list[dict[str, str]]:
    return [
        {
            "who": plain(known.name),
            "address": plain(known.email),
            "id": known.id[:12],
            "conversations": f"{figures.conversations:,}",
            "messages": f"{figures.messages:,}",
            "MB": f"{figures.bytes / 1e6:.1f}",
            "bricks in answers": ", ".join(f"{plain(name)} {count}" for name, count in figures.bricks.items()),
            "bricks of their own": str(figures.own),
            "last seen": time.strftime("%Y-%m-%d %H:%M", time.localtime(known.last_seen)),
        }
        for known, figures in _desk.people.figures()
    ]
