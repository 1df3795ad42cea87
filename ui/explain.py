"""Shows what a turn really used: chips, notices, sources, scores, milliseconds. Knows only a trace's JSON."""

from typing import Any, Literal

import altair as alt
import pandas as pd
import streamlit as st

from ui.text import plain

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
    bricks, citations = trace.get("bricks", []), trace.get("citations", [])
    with st.container(horizontal=True, gap="small", vertical_alignment="center", key=f"chips-{key}"):
        for brick in bricks:
            weight = "" if brick["weight"] == 1 else f" × {brick['weight']:.2g}"
            st.badge(
                plain(brick["name"]) + weight,
                icon=icon(brick["kind"]),
                color=_COLOURS.get(brick["kind"], "gray"),
                help=plain(brick["reason"], 300),
            )
        if not bricks:
            st.badge("host alone", icon=":material/deployed_code:", color="gray", help="No brick took part.")
        for number, citation in enumerate(citations, start=1):
            place = f"{citation['document']}, {citation['place']}"
            with st.popover(f"{number} · {plain(place, 40)}", type="tertiary", icon=":material/format_quote:"):
                st.caption(f"{plain(place, 200)} — brick {plain(citation['brick'])}, score {citation['score']:.2f}")
                st.text(citation["text"])


def draw_notices(trace: dict[str, Any]) -> None:
    """What the user should know about the turn, a sentence each."""
    for notice in trace.get("notices", []):
        st.caption(f":material/info: {plain(notice['text'], 400)}")


def draw_trace(trace: dict[str, Any], key: str) -> None:
    """The whole trace, drawn only while it is open: a long conversation must not hold a hundred charts."""
    panel = st.expander("How this answer came about", key=f"trace-{key}", icon=":material/insights:", on_change="rerun")
    if not panel.open:
        return
    with panel:
        for brick in trace.get("bricks", []):
            st.markdown(
                f"{icon(brick['kind'])} **{plain(brick['name'])}** version {brick['version']}, "
                f"weight {brick['weight']:.2g}: {plain(brick['reason'], 300)}"
            )
        if trace.get("candidates"):
            st.caption("How near each brick came. It may be used from the mark, its threshold, on.")
            st.altair_chart(_scores(trace["candidates"]))
        if trace.get("ms"):
            st.caption("Milliseconds per stage")
            st.altair_chart(_stages(trace["ms"]))
        for line in _figures(trace):
            st.caption(line)


def _scores(candidates: list[dict[str, Any]]) -> alt.LayerChart | alt.FacetChart:
    """Bars of scores with a mark at each threshold; one row per brick and what it was weighed for."""
    rows = pd.DataFrame(
        [
            {
                "brick": candidate["name"],
                "row": f"{candidate['name']} · {candidate['subject'][:24]}",
                "score": candidate["score"],
                "threshold": candidate["threshold"],
                "reached": "yes" if candidate["score"] >= candidate["threshold"] else "no",
            }
            for candidate in candidates
        ]
    )
    order = list(dict.fromkeys(rows.sort_values("score", ascending=False)["row"]))
    rows_axis = alt.Y("row:N", title=None, sort=order, axis=alt.Axis(labelLimit=170, labelOverlap=False))
    scores_axis = alt.X("score:Q", title=None)
    colours = alt.Color("reached:N", legend=None, scale=alt.Scale(domain=["yes", "no"], range=["#d9694a", "#b9a99f"]))
    tooltip = ["brick:N", alt.Tooltip("score:Q", format=".3f"), alt.Tooltip("threshold:Q", format=".3f")]
    bars = alt.Chart(rows).mark_bar(height=10, cornerRadius=2).encode(scores_axis, rows_axis, colours, tooltip=tooltip)
    marks = alt.Chart(rows).mark_tick(thickness=2, size=18, color="#8a7468").encode(x="threshold:Q", y=rows_axis)
    return alt.layer(bars, marks).properties(height=alt.Step(24))


def _stages(ms: dict[str, float]) -> alt.LayerChart | alt.FacetChart:
    rows = pd.DataFrame([{"stage": stage, "ms": round(value, 1)} for stage, value in ms.items()])
    base = alt.Chart(rows).encode(
        y=alt.Y("stage:N", title=None, sort=None, axis=alt.Axis(labelOverlap=False)),
        x=alt.X("ms:Q", title=None),
        tooltip=["stage:N", "ms:Q"],
    )
    bars = base.mark_bar(height=10, cornerRadius=2, color="#d9694a")
    labels = base.mark_text(align="left", dx=4, color="#8a7468").encode(text="ms:Q")
    return alt.layer(bars, labels).properties(height=alt.Step(24))


def _figures(trace: dict[str, Any]) -> list[str]:
    """Tokens, speed, host and seed in words."""
    tokens, ms = trace.get("tokens", {}), trace.get("ms", {})
    lines = [
        f"{tokens.get('prompt', 0)} tokens of prompt ({tokens.get('reused', 0)} of them reused), "
        f"{tokens.get('new', 0)} new{_speed(tokens, ms)} · seed {trace.get('seed', 0)}",
        f"{plain(str(trace.get('host', '')))} on {plain(str(trace.get('device', '')))}",
    ]
    if trace.get("injections"):
        lines.append("Injections: " + ", ".join(plain(injection) for injection in trace["injections"]))
    return lines


def _speed(tokens: dict[str, int], ms: dict[str, float]) -> str:
    spent = ms.get("decode", ms.get("generate", 0.0))
    return f" at {1000 * tokens['new'] / spent:.0f} tokens/s" if spent and tokens.get("new") else ""
