"""The sidebar: conversations, bricks, generation settings, host and memory. Returns what the user set."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import streamlit as st

from assistant.conversations.records import Conversation
from assistant.conversations.store import ConversationStore
from mattoni.errors import MattoniError
from mattoni.inputs import Attachment
from mattoni.paths import data_folder
from ui import views
from ui.explain import icon
from ui.facts import draw_facts
from ui.skills import Scores, draw_skills
from ui.style import ICON
from ui.text import plain

if TYPE_CHECKING:
    from streamlit.runtime.uploaded_file_manager import UploadedFile

    from assistant.assistant import Assistant
    from assistant.host.sampling import Sampling
    from assistant.registry import Brick, Bricks
    from assistant.turn.route import Choice, Choices
    from mattoni.card import BrickCard

_SHOWN = 25  # conversations in the list
OTHER_ANSWER = 0.5  # the temperature of "Answer again" where the chosen one is 0
_STATES: tuple[Literal["auto", "on", "off"], ...] = ("auto", "on", "off")


@dataclass(frozen=True)
class Asking:
    """How a question is asked: what the user set beside it. Nothing where the host is not there yet."""

    choices: "Choices | None" = None
    sampling: "Sampling | None" = None

    def anew(self) -> "Asking":
        """The same, but with some chance: the likeliest answer to the same question is the one that was not wanted."""
        if self.sampling is None or self.sampling.temperature:
            return self
        return replace(self, sampling=self.sampling.model_copy(update={"temperature": OTHER_ANSWER}))

    def without(self, name: str) -> "Choices":
        """The choices with one brick off."""
        from assistant.turn.route import Choice, Choices

        choices = self.choices or Choices()
        return replace(choices, bricks={**choices.bricks, name: Choice("off")})


def say(sentence: str) -> None:
    """Keep a sentence for the next drawing of the page: what went wrong with what the user just did."""
    st.session_state["sentence"] = sentence


def guarded(action: Callable[[], object]) -> Callable[[], None]:
    """An action whose failure becomes its sentence on the page."""

    def run() -> None:
        try:
            action()
        except MattoniError as problem:
            say(str(problem))

    return run


# ---------------------------------------------------------------- conversations


def draw_conversations(
    store: ConversationStore, current: str | None, go: Callable[[str | None], None], delete: Callable[[str], None]
) -> None:
    """New, search, the list, and what can be done with the open one.

    go       opens a conversation (None: an empty one)
    delete   deletes a conversation, on disk and in memory
    """
    st.button("New conversation", icon=":material/add:", width="stretch", on_click=go, args=(None,), key="new")
    wanted = st.text_input(
        "Search conversations", key="search", type="search", placeholder="Search conversations", live=True,
        label_visibility="collapsed",
    )  # fmt: skip
    found = store.conversations(wanted or "")
    with st.container(gap=None, key="talks"):
        for conversation in found[:_SHOWN]:
            _draw_conversation(store, conversation, conversation.id == current, go, delete)
    if len(found) > _SHOWN:
        st.caption(f"{len(found) - _SHOWN} older ones: search for them.")
    elif wanted and not found:
        st.caption("Nothing found.")


def _draw_conversation(
    store: ConversationStore,
    conversation: Conversation,
    is_current: bool,
    go: Callable[[str | None], None],
    delete: Callable[[str], None],
) -> None:
    with st.container(
        horizontal=True, gap=None, wrap=False, vertical_alignment="center", key=f"talk-{conversation.id}"
    ):
        st.button(
            plain(conversation.title),
            key=f"open-{conversation.id}",
            type="secondary" if is_current else "tertiary",
            width="stretch",
            wrap=False,
            on_click=go,
            args=(conversation.id,),
        )
        if is_current:
            menu = st.popover(
                "", icon=":material/more_horiz:", type="tertiary", key=f"more-{conversation.id}", on_change="rerun"
            )
            # Only while it is open: its exports are made when it is drawn. Made at the click they are gone (404) when
            # another run of the page comes between the click and the download.
            if menu.open:
                with menu:
                    _draw_conversation_menu(store, conversation, go, delete)


def _draw_conversation_menu(
    store: ConversationStore,
    conversation: Conversation,
    go: Callable[[str | None], None],
    delete: Callable[[str], None],
) -> None:
    identity = conversation.id
    title_key = f"title-{identity}"

    def rename() -> None:
        if st.session_state[title_key].strip():
            store.rename(identity, st.session_state[title_key])

    def delete_and_leave() -> None:
        delete(identity)
        go(None)

    st.text_input("Title", value=conversation.title, key=title_key, on_change=guarded(rename), max_chars=200)
    name = "".join(c if c.isalnum() else "-" for c in conversation.title).strip("-")[:40] or "conversation"
    st.download_button(
        "Export as Markdown", store.export_markdown(identity), f"{name}.md", "text/markdown",
        key=f"markdown-{identity}", icon=":material/download:", on_click="ignore", width="stretch",
    )  # fmt: skip
    st.download_button(
        "Export as JSON", store.export_json(identity), f"{name}.json", "application/json",
        key=f"json-{identity}", icon=":material/download:", on_click="ignore", width="stretch",
    )  # fmt: skip
    st.button(
        "Delete for good", key=f"delete-{identity}", icon=":material/delete:", on_click=guarded(delete_and_leave),
        width="stretch",
    )  # fmt: skip


# ---------------------------------------------------------------- bricks


def draw_bricks(assistant: "Assistant", scores: Scores) -> "Choices":
    """Bricks by kind with the user's choices; refused ones with their sentence.

    scores   how near the conversation's last message came to each
    """
    from assistant.turn.route import Choice, Choices  # with the host, see ui.backend

    bricks = assistant.bricks()
    by_kind: dict[str, list[Brick]] = {}
    for brick in bricks.usable:
        by_kind.setdefault(brick.card.kind, []).append(brick)
    draw_heading("Bricks")
    with st.expander("Pictures", icon=icon("modality"), expanded=True, key="pictures"):
        vision = _draw_vision(assistant, [b for b in by_kind.get("modality", []) if b.accepts("picture")])
    choices: dict[str, Choice] = {}
    if listening := [b for b in by_kind.get("modality", []) if b.accepts("sound")]:
        with st.expander("Recordings", icon=":material/mic:", key="recordings"):
            for brick in listening:
                choices[brick.name] = _draw_choice(assistant, brick)
    with st.expander("Skills", icon=icon("task"), expanded=True, key="skills"):
        switched = [brick for brick in by_kind.get("emergent", []) if brick.parts.neutral is None]
        choices |= draw_skills(
            [*by_kind.get("task", []), *switched],
            scores,
            lambda brick: _draw_remove(assistant, brick.name, brick.folder),
        )
        _draw_fights(by_kind.get("task", []), choices)
        _draw_add_skill(assistant)
        views.draw_way_to("teach", "Teach a skill", ":material/model_training:")
    if turned := [brick for brick in by_kind.get("emergent", []) if brick.parts.neutral is not None]:
        with st.expander("Inside the host", icon=icon("emergent"), expanded=False, key="inside"):
            for brick in turned:
                choices[brick.name] = _draw_dial(assistant, brick)
            views.draw_way_to("inside", "Look inside", ":material/grid_on:")
    with st.expander("Knowledge", icon=icon("knowledge"), expanded=True, key="knowledge"):
        for brick in by_kind.get("knowledge", []):
            choices[brick.name] = _draw_choice(assistant, brick)
        _draw_add_knowledge(assistant)
        draw_facts(assistant, told=_told)
    if bricks.refused:
        with st.expander(f"Set aside ({len(bricks.refused)})", icon=":material/block:", key="refused"):
            for refused in bricks.refused:
                st.caption(plain(refused.sentence, 400))
                if refused.is_off:
                    st.button(
                        f"Switch {plain(refused.name)} on", key=f"on-{refused.name}", width="stretch",
                        on_click=guarded(partial(assistant.switch_brick, refused.name, True)),
                    )  # fmt: skip
                _draw_remove(assistant, refused.name, refused.folder)
    return Choices(vision=vision, bricks={name: choice for name, choice in choices.items() if choice != Choice()})


def _draw_vision(assistant: "Assistant", bricks: "list[Brick]") -> str | None:
    titles = {"auto": "Auto: the router chooses", **{brick.name: brick.card.title for brick in bricks}}
    chosen = st.selectbox(
        "Pictures are read by", list(titles), key="vision", bind="query-params", format_func=titles.__getitem__,
        label_visibility="collapsed",
    )  # fmt: skip
    for brick in bricks:
        if brick.warning:
            st.caption(f":material/warning: {plain(brick.warning, 300)}")
        _draw_examples(assistant, brick)
        _draw_remove(assistant, brick.name, brick.folder)
    return None if chosen in (None, "auto") else chosen


def _draw_examples(assistant: "Assistant", brick: "Brick") -> None:
    """Example pictures by which the router finds an image brick of the user's."""
    if not brick.folder.is_relative_to(data_folder()):
        return
    name = brick.name
    with st.popover(f"Show {plain(name)} examples", icon=":material/add_photo_alternate:", key=f"examples-{name}"):
        st.caption("About 20 pictures of what it is for: Auto then chooses it for such pictures. Nothing is trained.")
        with st.form(f"examples-form-{name}", clear_on_submit=True, border=False):
            uploads = st.file_uploader("Pictures", accept_multiple_files=True, key=f"example-files-{name}")
            if st.form_submit_button("Use them", type="primary"):
                with st.spinner("Looking at them…"):
                    sent = [Attachment(upload.name, upload.getvalue()) for upload in uploads]
                    _told(lambda: assistant.add_examples(name, sent).sentence)


def _draw_choice(assistant: "Assistant", brick: "Brick") -> "Choice":
    from assistant.turn.route import Choice

    card = brick.card
    state = st.segmented_control(
        plain(card.title),
        _STATES,
        key=f"use-{card.name}",
        default="auto",
        required=True,
        bind="query-params",
        format_func=str.capitalize,
        help=plain(f"{card.summary} {card.limits}".strip(), 500),
        width="stretch",
    )
    if brick.warning:
        st.caption(f":material/warning: {plain(brick.warning, 300)}")
    _draw_manage(assistant, brick)
    return Choice(state=state or "auto")


def _draw_fights(skills: "Sequence[Brick]", choices: "Mapping[str, Choice]") -> None:
    """A warning for every two skills that are switched on and would disturb each other."""
    from assistant.bricks.conflicts import fight

    on = [brick for brick in skills if choices[brick.name].state == "on"]
    for one, other in combinations(on, 2):
        try:
            sentence = fight(one, other, (choices[one.name].strength, choices[other.name].strength))
        except MattoniError:
            continue  # a skill that cannot be read says so itself, in the turn
        if sentence:
            st.caption(f":material/warning: {plain(sentence, 300)}")


def _draw_dial(assistant: "Assistant", brick: "Brick") -> "Choice":
    """A brick of the host's own neurons: turned, and left alone where the dial rests."""
    from assistant.turn.route import Choice

    card, rest = brick.card, brick.parts.neutral
    assert rest is not None
    value = st.slider(
        plain(card.title), 0.0, 2.0, rest, 0.05, key=f"dial-{card.name}", bind="query-params",
        help=plain(f"{card.summary} {card.limits} At {rest:g} it changes nothing.", 500),
    )  # fmt: skip
    if brick.warning:
        st.caption(f":material/warning: {plain(brick.warning, 300)}")
    _draw_remove(assistant, card.name, brick.folder)
    return Choice() if value == rest else Choice("on", value)


def _draw_manage(assistant: "Assistant", brick: "Brick") -> None:
    """What a brick costs, and what can be done with it; a shipped one can only be switched off."""
    from assistant.bricks.lifecycle import costs
    from mattoni.versions import kept_versions

    name, is_own = brick.name, brick.folder.is_relative_to(data_folder())
    st.caption(plain(costs(brick)))
    menu = st.popover(
        f"Manage {plain(name)}", icon=":material/tune:", type="tertiary", key=f"manage-{name}", on_change="rerun"
    )
    if not menu.open:
        return
    with menu:
        st.button(
            "Switch off everywhere", key=f"off-{name}", icon=":material/power_settings_new:", width="stretch",
            on_click=guarded(partial(assistant.switch_brick, name, False)),
        )  # fmt: skip
        st.download_button(
            "Save as one file", _packed(assistant, name), f"{name}.zip", "application/zip",
            key=f"pack-{name}", icon=":material/download:", on_click="ignore", width="stretch",
        )  # fmt: skip
        if not is_own:
            return
        for version in reversed(kept_versions(brick.folder)):
            st.button(
                f"Go back to version {version}", key=f"back-{name}-{version}", icon=":material/history:", width="stretch",
                on_click=guarded(partial(assistant.roll_back, name, version)),
            )  # fmt: skip
        st.text_input(
            "Name", value=name, key=f"rename-{name}", max_chars=64,
            on_change=guarded(lambda: assistant.rename_brick(name, st.session_state[f"rename-{name}"].strip())),
        )  # fmt: skip
        st.button(
            "Remove every byte of it", key=f"removed-{name}", icon=":material/delete:", width="stretch",
            on_click=guarded(lambda: assistant.remove_brick(name)),
        )  # fmt: skip


def _packed(assistant: "Assistant", name: str) -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        return assistant.pack_brick(name, Path(scratch) / f"{name}.zip").read_bytes()


def _draw_remove(assistant: "Assistant", name: str, folder: Path) -> None:
    """A user's own brick can be removed here; a shipped one belongs to the program."""
    if folder.is_relative_to(data_folder()):
        with st.popover(f"Remove {plain(name)}", icon=":material/delete:", type="tertiary", key=f"remove-{name}"):
            st.write("Every byte of it is deleted.")
            st.button("Remove", key=f"removed-{name}", on_click=guarded(lambda: assistant.remove_brick(name)))


_SKILL_FILES = ["zip", "tar", "gz", "tgz", "xz", "bz2", "safetensors", "bin", "json"]


def _draw_add_skill(assistant: "Assistant") -> None:
    with st.popover("Add a skill", icon=":material/add:", width="stretch", key="add-skill"):
        st.caption(
            "A PEFT LoRA: a zip or .tar.gz of its folder, its two files, or its id on the Hub; or a brick saved as one file."
        )
        with st.form("skill-form", clear_on_submit=True, border=False):
            uploads = st.file_uploader("Files", type=_SKILL_FILES, accept_multiple_files=True, key="skill-files")
            identity = st.text_input("Hub id or folder", key="skill-id", placeholder="owner/name")
            if st.form_submit_button("Add", type="primary"):
                with st.spinner("Bringing it in…"):
                    _added(lambda: _add_skill(assistant, uploads, identity))


def _add_skill(assistant: "Assistant", uploads: Sequence["UploadedFile"], identity: str) -> "BrickCard":
    if uploads:
        sent = [Attachment(upload.name, upload.getvalue()) for upload in uploads]
        sent.sort(key=lambda file: file.name.endswith(".json"))  # what goes with the weights is not what is brought in
        return assistant.add_skill_file(sent[0], beside=sent[1:])
    if identity.strip():
        return assistant.add_skill_named(identity.strip())
    raise MattoniError("There is nothing to add: choose a file or name a Hub id.")


def _draw_add_knowledge(assistant: "Assistant") -> None:
    with st.popover("Add knowledge", icon=":material/add:", width="stretch", key="add-knowledge"):
        st.caption(
            "PDF, office files, web pages, mails, e-books, text, scans: answers can then cite their passages. Or a brick saved as one file."
        )
        with st.form("knowledge-form", clear_on_submit=True, border=False):
            name = st.text_input("Name", key="knowledge-name", placeholder="user-manual")
            uploads = st.file_uploader("Files", accept_multiple_files=True, key="knowledge-files")
            if st.form_submit_button("Add", type="primary"):
                with st.spinner("Reading…"):
                    sent = [Attachment(upload.name, upload.getvalue()) for upload in uploads]
                    _added(lambda: _add_knowledge(assistant, name.strip(), sent))


def _add_knowledge(assistant: "Assistant", name: str, sent: Sequence[Attachment]) -> "BrickCard":
    if len(sent) == 1 and sent[0].name.endswith(".zip"):
        return assistant.add_skill_file(sent[0], name or None)
    return assistant.add_knowledge(name, sent)


def _added(action: Callable[[], "BrickCard"]) -> None:
    """Run it, say that the brick was added, and draw the page again with it."""

    def tell() -> str:
        card = action()
        return " ".join([f"{card.title} was added.", *card.notes])

    _told(tell)


def _told(action: Callable[[], str]) -> None:
    """Run it, show its sentence, and draw the page again."""

    def tell() -> None:
        st.session_state["news"] = action()

    guarded(tell)()
    st.rerun()


# ---------------------------------------------------------------- settings and host


def draw_sampling() -> "Sampling":
    """Temperature, top-p, length and seed."""
    from assistant.host.sampling import Sampling  # with the host, see ui.backend

    usual = Sampling()
    draw_heading("Settings")
    with st.expander("Generation", icon=":material/tune:", key="generation"):
        temperature = st.slider(
            "Temperature", 0.0, 2.0, usual.temperature, 0.05, key="temperature", bind="query-params",
            help="0: always the likeliest word. Higher: more variety, more mistakes.",
        )  # fmt: skip
        top_p = st.slider(
            "Top-p", 0.05, 1.0, usual.top_p, 0.05, key="top-p", bind="query-params",
            help="Words are drawn among the likeliest ones that make up this share.",
        )  # fmt: skip
        max_tokens = st.number_input(
            "Longest answer (tokens)", 1, 4096, usual.max_tokens, key="max-tokens", bind="query-params"
        )
        seed = st.number_input(
            "Seed", 0, 2**31 - 1, None, key="seed", bind="query-params", placeholder="a new one each time",
            help="The same seed gives the same answer to the same question.",
        )  # fmt: skip
    return Sampling(temperature=temperature, top_p=top_p, max_tokens=int(max_tokens), seed=seed)


def draw_host(assistant: "Assistant", bricks: "Bricks") -> None:
    """Which model answers, where, and the memory it holds."""
    host, borrowed = assistant.host, sum(brick.borrowed for brick in bricks.usable)
    with st.expander("Host and memory", icon=":material/memory:", key="host"):
        facts = (
            f"**{plain(host.name)}**",
            f"on {str(host.device).upper()} in {str(host.dtype).removeprefix('torch.')}",
            f"reads {host.context:,} tokens at once",
            f"{assistant.memory_bytes / 1e9:.1f} GB of memory in use",
        )
        st.caption("  \n".join(facts))
        if borrowed:
            st.caption(f"{borrowed} bricks were trained with a smaller host, which answers when one of them is wanted.")
        if host.reason:
            st.caption(plain(host.reason))


def draw_heading(words: str) -> None:
    """A heading of the sidebar."""
    with st.container(key=f"heading-{words.lower()}"):
        st.markdown(words)


def draw_head() -> None:
    """The sign of the product; its name stands beside it (ui.style)."""
    st.logo(str(ICON), size="large")
