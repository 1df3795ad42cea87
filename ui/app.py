"""The chat page: draws, forwards what the user does, shows errors. Streamlit runs this file for every session."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import streamlit as st
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.scriptrunner import get_script_run_ctx

from assistant.conversations.database import Closed, DatabaseAway
from assistant.conversations.records import StoredMessage
from assistant.conversations.store import ConversationStore
from mattoni.errors import MattoniError
from mattoni.inputs import Attachment
from ui import account, document, inside, sidebar, teach, views
from ui.backend import Desk, HostChoice, backend
from ui.chat import follow
from ui.choices import keep_choices, show_choices
from ui.examples import EXAMPLES, OFFERS, Example
from ui.messages import draw_answer, draw_beside, draw_question, forget_pictures, spoken_message
from ui.people import PersonDesk, SignedOut, people
from ui.sidebar import Asking
from ui.signing_in import SignIn, draw_sign_in, who_is_here
from ui.skills import Scores
from ui.style import ICON, apply_style
from ui.text import plain

if TYPE_CHECKING:
    from streamlit.runtime.uploaded_file_manager import UploadedFile

    from assistant.turn.minus_one import MinusOne  # it brings the host's libraries, see ui.backend


@dataclass(frozen=True)
class Beside:
    """An answer that was given again without a skill: the question's number, the skill, and what was said with it."""

    question: int
    name: str
    before: str


_ADDRESS = "c"  # the query parameter that names the open conversation: a reload and a second tab find it again


def main() -> None:
    """Draw the page once."""
    st.set_page_config("Mattoni", str(ICON), layout="centered", menu_items={"About": "Mattoni: a modular assistant."})
    apply_style()
    choice = HostChoice.from_arguments(sys.argv[1:])
    try:
        sign_in = SignIn.from_arguments(sys.argv[2:])
    except MattoniError as problem:
        st.error(plain(str(problem), 600), icon=":material/error:")
        return
    back: Desk = backend(choice)
    try:
        if sign_in is None:
            _draw(back)
        else:
            _draw_for_one(choice, sign_in)
    except DatabaseAway as problem:  # nothing that was said can be drawn
        st.error(plain(str(problem), 600), icon=":material/error:")
        _await_database(back)


def _draw_for_one(choice: HostChoice, sign_in: SignIn) -> None:
    """The page of whoever has signed in, or the one where they do."""
    try:
        person = who_is_here(sign_in)
    except MattoniError as problem:
        draw_sign_in(sign_in, plain(str(problem), 400))
        return
    if person is None:
        draw_sign_in(sign_in, None)
        return
    try:
        _draw(people(choice).enter(person, sign_in.is_administrator(person)))
    except SignedOut as problem:
        draw_sign_in(sign_in, plain(str(problem)))
    except DatabaseAway:
        raise
    except MattoniError as problem:  # their store cannot be opened
        st.error(plain(str(problem), 600), icon=":material/error:")
        st.button("Try again", icon=":material/refresh:", key="try-again")


def _draw(back: Desk) -> None:
    conversation = _open_conversation(back.store)
    asking = _draw_sidebar(back, conversation)
    if isinstance(back, PersonDesk) and account.draw_view(back):
        return
    if back.assistant is not None and views.current() in (inside.VIEW, teach.VIEW, document.VIEW):
        _draw_sentences(back)
        if views.current() == inside.VIEW:
            inside.draw_inside(back.assistant)
        elif views.current() == document.VIEW:
            document.draw_document(back.assistant)
        else:
            teach.draw_teach(back)
        return
    running = back.assistant.running(conversation) if back.assistant and conversation else None
    if (refused := st.session_state.pop("refused", None)) is not None:
        st.session_state["ask"] = refused
    sent = st.chat_input(
        "Ask, paste or drop something" if back.assistant else "Starting the host…",
        key="ask",
        accept_file="multiple",
        accept_audio=True,
        submit_mode="disable",
        disabled=back.assistant is None or running is not None,
    )
    if sent and back.assistant and (sent.text.strip() or sent.files or sent.audio):
        uploads = [*sent.files, *([sent.audio] if sent.audio else [])]
        attachments = [Attachment(file.name, file.getvalue()) for file in uploads]
        _drop_uploads(uploads)
        conversation = _ask(back, conversation, sent.text.strip(), attachments, asking)
    elif chosen := st.session_state.pop("example", None):
        conversation = _ask(back, conversation, chosen.question, _attached(chosen), asking)
    _draw_sentences(back)
    _draw_conversation(back, conversation, asking)
    if back.assistant is None and not back.problem:
        _await_host(back)


def _open_conversation(store: ConversationStore) -> str | None:
    """The conversation of the page's address, if it is still there."""
    wanted = st.query_params.get(_ADDRESS)
    if wanted and store.conversation(wanted) is None:
        del st.query_params[_ADDRESS]
        return None
    return wanted


def _go(conversation: str | None) -> None:
    """Make another conversation the page's (None: an empty one)."""
    if conversation is not None:
        st.query_params[_ADDRESS] = conversation
    elif _ADDRESS in st.query_params:
        del st.query_params[_ADDRESS]


def _draw_sidebar(back: Desk, conversation: str | None) -> Asking:
    """Draw it and return how the next question is asked."""
    sidebar.draw_head()
    with st.sidebar:
        if isinstance(back, PersonDesk):
            account.draw_account(back)
        sidebar.draw_conversations(back.store, conversation, _go, lambda identity: _delete(back, identity))
        if back.assistant is None:
            return Asking()
        bricks = back.assistant.bricks()
        show_choices(back.store, conversation, bricks)
        choices = sidebar.draw_bricks(back.assistant, _last_scores(back.store, conversation))
        keep_choices(back.store, conversation, bricks)
        sampling = sidebar.draw_sampling()
        sidebar.draw_host(back.assistant, bricks)
    return Asking(choices, sampling)


def _last_scores(store: ConversationStore, conversation: str | None) -> Scores:
    """How near the last message came to each brick that was weighed for it, by the last trace."""
    messages = store.messages(conversation) if conversation else []
    trace = next((message.trace for message in reversed(messages) if message.trace), {})
    weighed = [candidate for candidate in trace.get("candidates", ()) if candidate["subject"] == "message"]
    return {candidate["name"]: (candidate["score"], candidate["threshold"]) for candidate in weighed}


def _delete(back: Desk, conversation: str) -> None:
    """Delete a conversation for good: on disk, in the assistant's memory and in the page's."""
    back.delete_conversation(conversation)
    forget_pictures()


def _ask(back: Desk, conversation: str | None, question: str, attachments: Sequence[Attachment], asking: Asking) -> str:
    """Put the question to the assistant; the address then names its conversation.

    Refused, it stands in the box again below a sentence that says why.
    """
    assert back.assistant is not None
    try:
        place = conversation or back.store.new()
        back.assistant.ask(question, attachments, asking.choices, asking.sampling, place)
    except MattoniError as problem:
        sidebar.say(str(problem))
        st.session_state["refused"] = question
        st.rerun()
    _go(place)
    return place


def _attached(example: Example) -> list[Attachment]:
    content = example.content()
    return [Attachment(str(example.picture), content)] if content is not None else []


def _drop_uploads(files: "Sequence[UploadedFile]") -> None:
    """Forget the uploaded bytes; Streamlit would hold them until the session ends (streamlit #12607)."""
    context = get_script_run_ctx(suppress_warning=True)
    if context is not None and isinstance(context.uploaded_file_mgr, MemoryUploadedFileManager):
        for file in files:
            context.uploaded_file_mgr.remove_file(context.session_id, file.file_id)


def _draw_sentences(back: Desk) -> None:
    """What went wrong or was done, one sentence each; the page goes on."""
    if news := st.session_state.pop("news", None):
        st.toast(plain(news, 300), icon=":material/check:")
    if sentence := st.session_state.pop("sentence", None):
        st.error(plain(sentence, 600), icon=":material/error:")
    if back.store.problem:
        st.warning(plain(back.store.problem, 600), icon=":material/save:")
    if back.problem:
        st.error(plain(back.problem, 600), icon=":material/error:")
        st.button("Start the host again", on_click=back.start, icon=":material/refresh:")


def _await_host(back: Desk) -> None:
    """A line while the host loads; the page is drawn again when it is there.

    The script waits, instead of a fragment that runs anew twice a second: a busy page makes the imports of the thread that
    loads the host queue for the interpreter's lock, and the start takes minutes on a busy machine.
    """
    line = st.empty()
    started = time.monotonic()
    while not back.wait(1.0):
        line.caption(f":material/progress_activity: Starting the host… {time.monotonic() - started:.0f} s")
    st.rerun()


@st.fragment(run_every=1.5)
def _await_database(back: Desk) -> None:
    """Draw the page again when what was said can be read again."""
    if back.store.problem is None:
        st.rerun()


def _draw_conversation(back: Desk, conversation: str | None, asking: Asking) -> None:
    messages = back.store.messages(conversation) if conversation else []
    # A place of its own: the examples leave the page the moment the first question is there.
    welcome = st.empty()
    if not messages:
        with welcome.container():
            _draw_welcome(back)
        return
    assert conversation is not None
    ticket = back.assistant.running(conversation) if back.assistant else None
    last_question = max((m.id for m in messages if m.role == "user"), default=0)

    def again() -> None:
        assert back.assistant is not None
        assistant = back.assistant
        how = asking.anew() if messages[-1].text and messages[-1].role == "assistant" else asking
        sidebar.guarded(lambda: assistant.answer_again(conversation, how.choices, how.sampling))()

    def without(name: str) -> None:
        assert back.assistant is not None
        assistant, choices = back.assistant, asking.without(name)
        st.session_state["beside"] = Beside(last_question, name, messages[-1].text)
        sidebar.guarded(lambda: assistant.answer_again(conversation, choices, asking.sampling))()

    def without_each() -> "MinusOne":
        assert back.assistant is not None
        return back.assistant.minus_one_of_last(conversation, asking.choices, asking.sampling)

    def edit(message: int) -> None:
        st.session_state["editing"] = message

    can_change = ticket is None and back.assistant is not None
    place = None
    for message in messages:
        if message.role == "user":
            draw_question(back.store, message, edit if can_change else None)
            if can_change and st.session_state.get("editing") == message.id:
                _edit_dialog(back, message, asking)
        elif message.status == "running":
            # Where the finished answer will stand: it then takes this one's place instead of appearing beside it.
            place = st.container()
        else:
            is_last = can_change and message.id > last_question
            offered = (again, without, without_each) if is_last else (None, None, None)
            draw_answer(back.store, message, *offered)
            beside = st.session_state.get("beside")
            if is_last and beside is not None and beside.question == last_question:
                draw_beside(beside.name, beside.before, message.text)
    if can_change and messages[-1].role == "user":
        st.button("Answer", icon=":material/refresh:", on_click=again, key="answer-missing")
    elif can_change:
        _draw_offers(messages)
    _watch(back, conversation, back.store.stamp(conversation))
    if ticket is not None:
        with place or st.container():
            follow(ticket)


def _draw_offers(messages: Sequence[StoredMessage]) -> None:
    """Below the answer to a file that came without a question: what one can ask about it, to click."""
    question = next((message for message in reversed(messages) if message.role == "user"), None)
    if question is None or question.text or not question.attachments or spoken_message(question):
        return
    with st.container(horizontal=True, gap="small", key=f"offers-{question.id}"):
        for number, words in enumerate(OFFERS[question.attachments[0].kind]):
            example = Example(f"offer-{number}", words)
            st.button(words, key=f"{example.key}-{question.id}", on_click=_choose, args=(example,))


def _choose(example: Example) -> None:
    """Ask this when the page is drawn next."""
    st.session_state["example"] = example


@st.fragment(run_every=1.5)
def _watch(back: Desk, conversation: str, drawn: str) -> None:
    """Draw the page again when another tab, or a stopped script, left it behind the conversation."""
    try:
        is_behind = back.store.stamp(conversation) != drawn
    except DatabaseAway as problem:  # the page stays, and what is being said goes on
        st.warning(plain(str(problem), 600), icon=":material/save:")
        return
    except (SignedOut, Closed):  # deleted in another tab
        is_behind = True
    if is_behind:
        st.rerun()


def _stop_editing() -> None:
    st.session_state.pop("editing", None)


@st.dialog("Edit the question", icon=":material/edit:", on_dismiss=_stop_editing)
def _edit_dialog(back: Desk, message: StoredMessage, asking: Asking) -> None:
    changed = st.text_area("Question", value=message.text, key=f"edited-{message.id}", label_visibility="collapsed")
    st.caption("What follows this question is dropped, and it is answered anew.")
    if st.button("Ask again", type="primary", disabled=not changed.strip() and not message.attachments):
        assert back.assistant is not None
        try:
            back.assistant.edit_question(
                message.conversation, message.id, changed.strip(), asking.choices, asking.sampling
            )
            forget_pictures()
        except MattoniError as problem:
            sidebar.say(str(problem))
        _stop_editing()
        st.rerun()


def _draw_welcome(back: Desk) -> None:
    """What an empty conversation offers: pictures and questions to click."""
    st.header("What would you like to look at?", anchor=False)
    st.caption(
        "Drop a photo, a receipt, a document or a recording into the box below and ask about it, or speak. Or begin with one of these:"
    )

    # Row by row, so that a phone, which stacks the columns, keeps the order.
    for first in range(0, len(EXAMPLES), 2):
        for column, example in zip(st.columns(2), EXAMPLES[first : first + 2], strict=False):
            with column:
                _draw_example(example, disabled=back.assistant is None)


def _draw_example(example: Example, disabled: bool) -> None:
    with st.container(
        border=True, horizontal=True, vertical_alignment="center", wrap=False, key=f"example-{example.key}"
    ):
        if content := example.content():
            st.image(content, width=56, alt="")
        st.button(
            example.question,
            key=f"try-{example.key}",
            type="tertiary",
            width="stretch",
            wrap=True,
            disabled=disabled,
            on_click=_choose,
            args=(example,),
        )


main()
