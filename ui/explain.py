"""Shows what a turn really used: chips, notices, sources, scores, milliseconds. Knows only a trace's JSON."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import streamlit as st

from assistant.turn.heat_map import SCALE, heat_map, in_words, scale_stops
from assistant.turn.look import look
from mattoni.errors import MattoniError
from mattoni.inputs import Attachment, Picture
from mattoni.trace import Attention
from ui.document import open_document
from ui.text import plain

if TYPE_CHECKING:
    from assistant.turn.minus_one import MinusOne  # it brings the host's libraries, see ui.backend

_ICONS = {
    "modality": ":material/image:",
    "task": ":material/extension:",
    "knowledge": ":material/menu_book:",
    "emergent": ":material/tune:",
}
_COLOURS: dict[str, Literal["orange", "violet", "blue", "green"]] = {
    "modality": "orange",
    "task": "violet",
    "knowledge": "blue",
    "emergent": "green",
}


def icon(kind: str) -> str:
    """The icon of a kind of brick."""
    return _ICONS.get(kind, ":material/deployed_code:")


def draw_chips(trace: dict[str, Any], key: str) -> None:
    """One chip per brick that took part, with its weight where it is not 1, and the passages the answer was given."""
    citations = trace.get("citations", [])
    with st.container(horizontal=True, gap="small", vertical_alignment="center", key=f"chips-{key}"):
        for brick, reasons in _uses(trace.get("bricks", [])):
            weight = "" if brick["weight"] == 1 else f" × {brick['weight']:.2g}"
            st.badge(
                plain(brick["name"]) + weight,
                icon=icon(brick["kind"]),
                color=_COLOURS.get(brick["kind"], "gray"),
                help=plain("; ".join(reasons), 400),
            )
        if not trace.get("bricks"):
            st.badge("host alone", icon=":material/deployed_code:", color="gray", help="No brick took part.")
        for number, citation in enumerate(citations, start=1):
            place = f"{citation['document']}, {citation['place']}"
            with st.popover(f"{number} · {plain(place, 40)}", type="tertiary", icon=":material/format_quote:"):
                st.caption(f"{plain(place, 200)} — brick {plain(citation['brick'])}, score {citation['score']:.2f}")
                st.text(citation["text"] or "This document was removed since.")
                if citation["text"] and citation.get("passage_id"):
                    st.button(
                        "Open the document there", icon=":material/open_in_new:", key=f"cited-{key}-{number}",
                        on_click=open_document, args=(citation,),
                    )  # fmt: skip


def _uses(bricks: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], list[str]]]:
    """Each brick once, with all its reasons: one that read three pictures is still one brick."""
    uses: dict[tuple[str, int, float], tuple[dict[str, Any], list[str]]] = {}
    for brick in bricks:
        _, reasons = uses.setdefault((brick["name"], brick["version"], brick["weight"]), (brick, []))
        reasons.append(brick["reason"])
    return list(uses.values())


def draw_notices(trace: dict[str, Any], aloud: bool) -> None:
    """What the user should know about the turn, a sentence each; `aloud` in the size of an answer."""
    for notice in trace.get("notices", []):
        (st.markdown if aloud else st.caption)(f":material/info: {plain(notice['text'], 400)}")


def draw_attention(trace: dict[str, Any], key: str, read: Callable[[str], bytes]) -> None:
    """What of each picture its brick's stitch attended to, drawn only while it is open.

    read  the bytes of a picture by its digest
    """
    found = [Attention(**values) for values in trace.get("attention", [])]
    if not found:
        return
    panel = st.expander("Where it looked", key=f"looked-{key}", type="compact", on_change="rerun")
    if not panel.open:
        return
    with panel, st.container(border=True, gap="small"):
        for attention in found:
            if attention.grid:
                try:
                    st.image(heat_map_picture(attention, read), width=400, alt=in_words(attention))
                except MattoniError as problem:
                    st.caption(f":material/broken_image: {plain(str(problem), 300)}")
                    continue
            st.caption(plain(in_words(attention), 400))
        if any(attention.grid for attention in found):
            colours, ends = ", ".join(scale_stops()), "".join(f"<span>{words}</span>" for words in SCALE)
            st.html(
                f'<div class="mattoni-scale"><i style="background: linear-gradient(90deg, {colours})"></i>{ends}</div>'
            )


@st.cache_data(max_entries=50, show_spinner=False)
def heat_map_picture(attention: Attention, _read: Callable[[str], bytes]) -> bytes:
    """The map over its stored picture, opened as the assistant opened it (upright), as a JPEG."""
    (picture,) = look([Attachment(attention.name, _read(attention.picture))]).items
    assert isinstance(picture, Picture)
    buffer = io.BytesIO()
    heat_map(picture.image, attention).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def draw_trace(trace: dict[str, Any], key: str, without_each: "Callable[[], MinusOne] | None" = None) -> None:
    """The whole trace, drawn only while it is open: a long conversation must not carry a hundred of them.

    without_each  answers once more without each brick; None where that is not offered
    """
    panel = st.expander("How this answer came about", key=f"trace-{key}", type="compact", on_change="rerun")
    if not panel.open:
        return
    with panel, st.container(border=True, gap="small"):
        for brick in trace.get("bricks", []):
            st.caption(
                f"{icon(brick['kind'])} **{plain(brick['name'])}** version {brick['version']}, "
                f"weight {brick['weight']:.2g}: {plain(brick['reason'], 300)}"
            )
        if trace.get("candidates"):
            st.caption("How near each brick came; the mark is its threshold.")
            st.html(_chart(_scores(trace["candidates"])))
        if trace.get("ms"):
            st.caption(f"Milliseconds per stage, {sum(trace['ms'].values()):,.0f} together")
            st.html(_chart(_stages(trace["ms"])))
        st.caption("  \n".join(_figures(trace)))
        if without_each is not None and trace.get("bricks"):
            _draw_without_each(without_each, key)
        st.download_button(
            "Save as JSON", json.dumps(trace, ensure_ascii=False, indent=1), f"trace-{key}.json", "application/json",
            key=f"save-{key}", icon=":material/download:", type="tertiary", on_click="ignore",
        )  # fmt: skip


def _draw_without_each(without_each: "Callable[[], MinusOne]", key: str) -> None:
    """A button that asks once more without each brick, and the table of what then changed."""
    if st.button("Answer without each brick", key=f"each-{key}", icon=":material/rule:", type="tertiary"):
        try:
            with st.spinner("Answering once more for each brick…"):
                st.session_state[f"each-{key}-found"] = without_each()
        except MattoniError as problem:
            st.error(plain(str(problem), 400))
    found: MinusOne | None = st.session_state.get(f"each-{key}-found")
    if found is None:
        return
    for one in found.without:
        moved = "" if one.moved is None else f", {one.moved:+.2f} in ln p of the answer a token"
        said = f"“{plain(one.answer, 200)}”" if one.is_changed else "the same answer"
        st.caption(f"{icon(one.kind)} without **{plain(one.brick)}**: {said}{moved}")


@dataclass(frozen=True)
class Bar:
    """A row of a small chart; `share` and `mark` are parts of its width, from 0 to 1."""

    name: str
    value: str
    share: float
    mark: float | None = None
    is_quiet: bool = False


def _scores(candidates: Sequence[dict[str, Any]]) -> list[Bar]:
    """The best first, the threshold as the mark; grey where it was not reached."""
    subjects = {candidate["subject"] for candidate in candidates}
    values = [c[key] for c in candidates for key in ("score", "threshold")]
    low, high = min(0.0, *values), max(1.0, *values)
    return [
        Bar(
            name=c["name"] if len(subjects) == 1 else f"{c['name']} · {c['subject']}",
            value=f"{c['score']:.2f} {'≥' if c['score'] >= c['threshold'] else '<'} {c['threshold']:.2f}",
            share=(c["score"] - low) / (high - low),
            mark=(c["threshold"] - low) / (high - low),
            is_quiet=c["score"] < c["threshold"],
        )
        for c in sorted(candidates, key=lambda c: -c["score"])
    ]


def _stages(ms: dict[str, float]) -> list[Bar]:
    longest = max(ms.values()) or 1.0
    return [
        Bar(stage, f"{value:,.0f}" if value >= 10 else f"{value:.1f}", value / longest) for stage, value in ms.items()
    ]


def _chart(bars: Sequence[Bar]) -> str:
    """Bars as plain markup: there at once and in the page's colours, where a chart library takes seconds to load."""
    rows = []
    for bar in bars:
        quiet = "mattoni-quiet" if bar.is_quiet else ""
        mark = f'<b style="left:{bar.mark:.1%}"></b>' if bar.mark is not None else ""
        rows.append(
            f'<span title="{escape(bar.name)}">{escape(bar.name)}</span>'
            f'<i><u class="{quiet}" style="width:{bar.share:.1%}"></u>{mark}</i>'
            f"<span>{escape(bar.value)}</span>"
        )
    return f'<div class="mattoni-bars">{"".join(rows)}</div>'


def _figures(trace: dict[str, Any]) -> list[str]:
    """Tokens, speed, host and seed in words."""
    tokens, ms = trace.get("tokens", {}), trace.get("ms", {})
    engine = str(trace.get("engine") or "local")
    decoded = f", decoded by {plain(engine)}" if engine != "local" else ""
    lines = [
        f"{tokens.get('prompt', 0):,} tokens of prompt, {tokens.get('reused', 0):,} of them reused · "
        f"{tokens.get('new', 0):,} new{_speed(tokens, ms)}",
        f"{plain(str(trace.get('host', '')))} on {plain(str(trace.get('device', '')))}{decoded} · seed {trace.get('seed', 0)}",
    ]
    if counted := trace.get("parameters"):
        used, everything = (counted["host"] + counted[key] for key in ("bricks", "installed"))
        lines.append(
            f"{used / 1e6:,.0f} of {everything / 1e6:,.0f} million parameters took part ({used / everything:.0%}): the host's "
            f"{counted['host'] / 1e6:,.0f} and {counted['bricks'] / 1e6:,.1f} of the bricks' {counted['installed'] / 1e6:,.1f}"
        )
    if trace.get("injections"):
        lines.append("Injected: " + "; ".join(plain(injection) for injection in trace["injections"]))
    if trace.get("finished"):
        lines.append("Behind the host's words: " + "; ".join(plain(what) for what in trace["finished"]))
    if trace.get("left_out"):
        lines.append("Left out: " + "; ".join(plain(what) for what in trace["left_out"]))
    return lines


def _speed(tokens: dict[str, int], ms: dict[str, float]) -> str:
    """The pace of decoding; the first token's time is the prompt's."""
    after_first = tokens.get("new", 0) - 1
    spent = ms.get("generate", 0.0)
    return f" at {1000 * after_first / spent:.0f} tokens/s" if spent and after_first > 0 else ""
