"""Draws questions and answers. Knows nothing of how answers are made; gets them from the store."""

import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import streamlit as st

from assistant.conversations.records import Attached, StoredMessage
from assistant.conversations.store import ConversationStore
from assistant.turn.look import look
from mattoni.errors import MattoniError
from mattoni.inputs import Attachment, Picture
from mattoni.kinds import Format, format_of
from mattoni.records import from_json, spoken_words
from ui import text
from ui.copy_button import copy_button
from ui.explain import draw_attention, draw_chips, draw_notices, draw_trace, heat_map_picture
from ui.style import ICON

if TYPE_CHECKING:
    from assistant.turn.minus_one import MinusOne  # it brings the host's libraries, see ui.backend

_THUMBNAIL = 640


@st.cache_data(max_entries=200, show_spinner=False)
def thumbnail(digest: str, _read: Callable[[str], bytes]) -> bytes | None:
    """A small JPEG of a stored picture, opened as the assistant opens it; None when it is no picture."""
    looked = look([Attachment(name="picture", content=_read(digest))])
    pictures = [item for item in looked.items if isinstance(item, Picture)]
    if not pictures:
        return None
    small = pictures[0].image.copy()
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def forget_pictures() -> None:
    """Drop what was drawn of pictures: after something was deleted. What is still there is drawn anew."""
    thumbnail.clear()
    heat_map_picture.clear()


def draw_attachments(store: ConversationStore, attachments: tuple[Attached, ...]) -> None:
    """Pictures as pictures, smaller when there are several; everything else as a chip with its name."""
    width = 280 if len(attachments) == 1 else 150
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        for attached in attachments:
            try:
                picture = thumbnail(attached.digest, store.content) if attached.kind == "picture" else None
            except MattoniError as problem:
                st.caption(f":material/broken_image: {text.plain(str(problem), 300)}")
                continue
            if picture is not None:
                st.image(picture, width=width, alt=attached.name)
            elif attached.kind in ("sound", "film"):
                _draw_player(store, attached)
            else:
                st.badge(text.plain(attached.name, 60), icon=":material/description:", color="gray")


# What browsers play.
_PLAYED: dict[Format, str] = {
    "wav": "audio/wav", "mp3": "audio/mpeg", "flac": "audio/flac", "ogg": "audio/ogg", "m4a": "audio/mp4",
    "aac": "audio/aac", "webm-sound": "audio/webm",
}  # fmt: skip


def _draw_player(store: ConversationStore, attached: Attached) -> None:
    """A recording to be heard again; what no browser plays as a chip."""
    try:
        content = store.content(attached.digest)
    except MattoniError as problem:
        st.caption(f":material/broken_image: {text.plain(str(problem), 300)}")
        return
    played = _PLAYED.get(format_of(content))
    if played is not None:
        st.audio(content, played, width=280, alt=attached.name)
    elif attached.kind == "film":
        st.video(content, width=280)
    else:
        st.badge(text.plain(attached.name, 60), icon=":material/mic:", color="gray")


def spoken_message(message: StoredMessage) -> str:
    """What was said in a message's recordings, where that is the message; empty until it was heard."""
    try:
        return spoken_words(map(from_json, message.segments or ()))
    except MattoniError:
        return ""


def draw_question(store: ConversationStore, message: StoredMessage, edit: Callable[[int], None] | None) -> None:
    """A question with its attachments, and a button to change it while nothing is being answered."""
    with st.container(key=f"question-{message.id}", gap=None):
        with st.chat_message("user"):
            if message.attachments:
                draw_attachments(store, message.attachments)
            if words := message.text or spoken_message(message):
                with st.container(key=f"words-{message.id}"):
                    st.text(words)
        if edit is not None:
            with st.container(horizontal=True, horizontal_alignment="right", gap=None):
                key = f"edit-{message.id}"
                st.button("Edit", key=key, icon=":material/edit:", type="tertiary", on_click=edit, args=(message.id,))


def draw_answer(
    store: ConversationStore,
    message: StoredMessage,
    again: Callable[[], None] | None,
    without: Callable[[str], None] | None = None,
    without_each: "Callable[[], MinusOne] | None" = None,
) -> None:
    """An answer that has ended: its words, how it ended, its bricks, and what can be done with it.

    again         asks once more
    without       asks once more with a skill off, by its name
    without_each  asks once more without each brick, and tells what changes
    """
    key = str(message.id)
    trace = message.trace or {}
    with st.container(key=f"answer-{key}"), st.chat_message("assistant", avatar=str(ICON)), st.container(gap="xsmall"):
        if message.text:
            st.markdown(text.answer(message.text))
        if message.status == "stopped":
            st.caption(":material/stop_circle: Stopped. What had been said is kept.")
        elif message.status == "failed":
            st.error(text.plain(message.error or "This answer failed: ask again.", 500), icon=":material/error:")
        # The host was not asked: what the user should know is all there is to say.
        is_notice_only = message.status == "done" and not message.text and bool(trace.get("notices"))
        draw_notices(trace, aloud=is_notice_only)
        if trace and not is_notice_only:
            draw_chips(trace, key)
        with st.container(horizontal=True, gap="small", vertical_alignment="center", key=f"actions-{key}"):
            if message.text:
                copy_button(message.text, key=f"copy-{key}")
            if again is not None:
                label = "Answer anyway" if is_notice_only else "Answer again"
                st.button(label, key=f"again-{key}", icon=":material/refresh:", type="tertiary", on_click=again)
            for name in _skills_of(trace) if without is not None else ():
                st.button(
                    f"Without {text.plain(name, 40)}", key=f"without-{name}-{key}", icon=":material/remove_circle:",
                    type="tertiary", on_click=without, args=(name,), help="Answer again with this skill off.",
                )  # fmt: skip
        if trace:
            draw_attention(trace, key, store.content)
            draw_trace(trace, key, without_each)


def draw_beside(name: str, before: str, now: str) -> None:
    """Two answers to one question side by side: the one that a skill took part in, and the one without it."""
    with st.container(key="beside", border=True):
        for column, title, said in zip(
            st.columns(2),
            (f"With {text.plain(name, 40)}", f"Without {text.plain(name, 40)}"),
            (before, now),
            strict=True,
        ):
            with column:
                st.caption(title)
                st.markdown(text.answer(said or "(no answer)"))


def _skills_of(trace: Mapping[str, Any]) -> list[str]:
    """The skills that took part, each once."""
    return list(dict.fromkeys(brick["name"] for brick in trace.get("bricks", ()) if brick["kind"] == "task"))
