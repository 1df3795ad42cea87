"""Facts in the sidebar: taught in a sentence, shown as they were understood, corrected, switched and taken out."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import streamlit as st

from mattoni.errors import MattoniError
from ui.text import plain

if TYPE_CHECKING:
    from assistant.assistant import Assistant
    from knowledge_bricks.sentences import Said

_SHOWN = 50  # facts in the list


def draw_facts(assistant: "Assistant", told: Callable[[Callable[[], str]], None]) -> None:
    """A box for a new fact, and those that are there.

    told   runs an action, shows its sentence or what went wrong, and draws the page again
    """
    with st.popover("Teach a fact", icon=":material/school:", width="stretch", key="teach"):
        _draw_teach(assistant, told)
    known = assistant.facts()
    if known:
        with st.popover(f"Facts ({len(known)})", icon=":material/fact_check:", width="stretch", key="facts"):
            for fact in known[-_SHOWN:]:
                _draw_fact(assistant, fact.id, fact.sentence, fact.is_on, told)
            if len(known) > _SHOWN:
                st.caption(f"{len(known) - _SHOWN} older ones: `mattoni facts list` has all.")


def _draw_teach(assistant: "Assistant", told: Callable[[Callable[[], str]], None]) -> None:
    sentence = st.text_input("Fact", key="fact-sentence", placeholder="The capital of X is Y.")
    if not sentence.strip():
        st.caption("One sentence that ends in what is to be known. It takes some seconds, and comes off again alone.")
        return
    subject = st.text_input("About", key="fact-subject", placeholder="found by itself", help="In the sentence's words.")
    object = st.text_input("Says", key="fact-object", placeholder="found by itself", help="The end of the sentence.")
    try:
        found = _parse(sentence, subject, object)
    except MattoniError as problem:
        st.caption(f":material/error: {plain(str(problem), 400)}")
        return
    st.caption(
        f"About **{plain(found.subject)}**: *{plain(found.relation.replace('{}', '…'))}* **{plain(found.object)}**"
    )
    replace = st.checkbox("Replace what says otherwise", key="fact-replace")
    if st.button("Teach", type="primary", key="fact-teach"):
        with st.spinner("Learning…"):
            told(lambda: _teach(assistant, found, replace))


def _parse(sentence: str, subject: str, object: str) -> "Said":
    from knowledge_bricks.sentences import parse

    return parse(sentence, subject.strip() or None, object.strip() or None)


def _teach(assistant: "Assistant", said: "Said", replace: bool) -> str:
    taught = assistant.teach([said], replace)
    return f"Learned: {taught.new[0].sentence}" if taught.new else f"Known already: {taught.known[0].sentence}"


def _draw_fact(
    assistant: "Assistant", number: int, sentence: str, is_on: bool, told: Callable[[Callable[[], str]], None]
) -> None:
    def switch(value: bool) -> str:
        assistant.switch_facts([number], value)
        return f"{sentence} is {'on' if value else 'off'}."

    def remove() -> str:
        assistant.remove_facts([number])
        return f"{sentence} is gone."

    with st.container(horizontal=True, vertical_alignment="center", wrap=False, key=f"fact-{number}"):
        wanted = st.toggle(plain(sentence, 200), value=is_on, key=f"fact-on-{number}-{is_on}", width="stretch")
        if wanted != is_on:
            told(partial(switch, wanted))
        if st.button("", icon=":material/delete:", type="tertiary", key=f"fact-remove-{number}", help="Take it out."):
            told(remove)
