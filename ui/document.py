"""The page of a document that an answer cites: opened at the place, with the passage marked."""

from html import escape
from typing import TYPE_CHECKING, Any

import streamlit as st

from mattoni.errors import MattoniError
from mattoni.trace import passage_id
from ui import views
from ui.text import plain

if TYPE_CHECKING:
    from assistant.assistant import Assistant

VIEW = "document"
_ASKED = ("brick", "document", "passage")  # the query parameters that name the place
_SHOWN = 6_000  # characters before and behind the passage, of a page that is longer


def open_document(citation: dict[str, Any]) -> None:
    """Make the address that of the document, at the passage."""
    views.open_view(VIEW)
    st.query_params.update(
        dict(zip(_ASKED, (citation["brick"], citation["document"], citation["passage_id"]), strict=True))
    )


def _close() -> None:
    views.close_view()
    for name in _ASKED:
        st.query_params.pop(name, None)


def draw_document(assistant: "Assistant") -> None:
    """Draw the page of the document on which the passage stands."""
    from knowledge_bricks.passages import around

    st.button("Back to the conversation", icon=":material/arrow_back:", type="tertiary", on_click=_close, key="leave")
    brick, document, wanted = (st.query_params.get(name, "") for name in _ASKED)
    st.header(plain(document, 200), anchor=False)
    try:
        passages = assistant.passages(brick, document)
    except MattoniError as problem:
        st.info(plain(str(problem), 400))
        return
    cited = next((passage for passage in passages if passage_id(passage.text) == wanted), None)
    if cited is None:
        st.info(f"This passage is not in {plain(brick)} any more: what it cited was changed or removed since.")
        return
    st.caption(f"{plain(cited.place)} of {plain(document, 200)}, as {plain(brick)} holds it")
    page = around(passages, cited)
    before, after = page.before[-_SHOWN:], page.after[:_SHOWN]
    cut = ("…" if len(before) < len(page.before) else "", "…" if len(after) < len(page.after) else "")
    st.html(
        f'<div class="mattoni-page">{cut[0]}{escape(before)}\n\n<mark>{escape(page.text)}</mark>\n\n{escape(after)}{cut[1]}</div>'
    )
