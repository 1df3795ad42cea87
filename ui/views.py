"""Pages beside the conversation, by the page's address. Knows nothing of what they show."""

from functools import partial

import streamlit as st

_ADDRESS = "view"  # the query parameter that names the page; without it the conversation is shown


def current() -> str | None:
    """The page that the address asks for; None: the conversation."""
    return st.query_params.get(_ADDRESS)


def open_view(name: str) -> None:
    """Make the address that page's."""
    st.query_params[_ADDRESS] = name


def close_view() -> None:
    """Back to the conversation."""
    st.query_params.pop(_ADDRESS, None)


def draw_way_back() -> None:
    """The button that leads back."""
    st.button(
        "Back to the conversation", icon=":material/arrow_back:", type="tertiary", on_click=close_view, key="leave"
    )


def draw_way_to(name: str, words: str, symbol: str) -> None:
    """A button that leads to a page."""
    st.button(words, icon=symbol, key=f"view-{name}", width="stretch", on_click=partial(open_view, name))
