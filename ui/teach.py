"""The page "Teach a skill": a table of examples comes in, a training runs beside the chat, a skill comes out."""

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import streamlit as st

from mattoni.card import BrickName
from mattoni.errors import MattoniError
from mattoni.files import remove_folder
from ui import views
from ui.backend import Desk
from ui.sidebar import guarded, say
from ui.text import plain

if TYPE_CHECKING:
    from assistant.registry import Brick
    from brick_training.background import RunView
    from task_bricks.training.examples import Examples

VIEW = "teach"
_EVERY_S = 2.0
_SHOWN = 3  # examples
_LABELS = {"quick": "Quick", "usual": "Usual", "thorough": "Thorough"}
_MEASURES = {"accuracy": "the share of right labels", "exact": "the share of right answers", "chrf": "chrF, of 100"}
_EXAMPLE = "question,answer\nOrder: 3 boxes of nails,QTY=3; ITEM=nails\n"


def draw_teach(back: Desk) -> None:
    """Draw the page for the host that answers."""
    views.draw_way_back()
    st.header("Teach a skill", anchor=False)
    st.caption(
        "Examples of what you would ask and how it should be answered: a CSV with the columns *question* and *answer*, or JSON lines. "
        "Two hundred rows are good. The training runs on this machine while you go on; some rows are held back to measure it."
    )
    _draw_new(back)
    _draw_runs(back, str(_runs(back)))


def _runs(back: Desk) -> list[Path]:
    folder = back.folder / "training"
    return [run for run in sorted(folder.glob("*")) if (run / "recipe.yaml").is_file()]


def _draw_new(back: Desk) -> None:
    with st.container(border=True, key="teach-new"):
        upload = st.file_uploader(
            "Examples", type=["csv", "tsv", "jsonl", "json", "gz"], key="teach-file", label_visibility="collapsed"
        )
        if upload is None:
            st.code(_EXAMPLE, language="csv")
            return
        try:
            examples = _read(upload.name, upload.getvalue())
        except MattoniError as problem:
            st.error(plain(str(problem), 400), icon=":material/error:")
            return
        st.markdown(
            f"**{len(examples.rows)}** to learn from, **{len(examples.dev)}** held back; measured by "
            f"{_MEASURES[examples.metric]}."
        )
        st.table([{"asked": row.message, "answered": row.answers[0]} for row in examples.rows[:_SHOWN]])
        name = st.text_input("Name", key="teach-name", placeholder="order-slips", max_chars=64)
        effort = st.segmented_control(
            "How long", list(_LABELS), default="usual", required=True, format_func=_LABELS.__getitem__, key="teach-effort"
        )  # fmt: skip
        if st.button("Train", type="primary", icon=":material/model_training:", key="teach-train", disabled=not name):
            guarded(lambda: _begin(back, name.strip(), examples, str(effort)))()
            st.rerun()


@st.cache_data(show_spinner="Reading…", max_entries=4)
def _read(name: str, content: bytes) -> "Examples":
    from task_bricks.training.examples import read_examples

    with tempfile.TemporaryDirectory() as scratch:
        # Only the endings: the rest of the name is the user's, and may be anything.
        path = Path(scratch) / ("examples" + "".join(Path(name).suffixes[-2:]).casefold())
        path.write_bytes(content)
        return read_examples(path)


def _begin(back: Desk, name: str, examples: "Examples", effort: str) -> None:
    """Write the recipe and start its process. Raises MattoniError for a name that is bad or taken."""
    from pydantic import TypeAdapter, ValidationError

    from task_bricks.training.examples import Effort, write_run

    assert back.assistant is not None and effort in get_args(Effort)
    try:
        TypeAdapter(BrickName).validate_python(name)
    except ValidationError as problem:
        raise MattoniError(f"'{name}' is no name for a skill: use small letters, digits and dashes.") from problem
    folder = back.folder / "training" / name
    if folder.exists() or any(brick.name == name for brick in back.assistant.bricks().usable):
        raise MattoniError(f"There is a '{name}' already: choose another name, or remove that one first.")
    write_run(folder, name, examples, back.assistant.host.name, effort=effort)  # type: ignore[arg-type]
    _start(back, folder)


def _start(back: Desk, run: Path) -> None:
    from brick_training import background

    out = back.folder / "bricks"
    arguments = [str(run / "recipe.yaml"), "--out", str(out), "--work", str(run), "--host", back.host_source]
    background.start("task_bricks.train", arguments, run)


@st.fragment(run_every=_EVERY_S)
def _draw_runs(back: Desk, drawn: str) -> None:
    """Every run, drawn again while one works. `drawn` is what the page was drawn with."""
    from brick_training.background import view

    assert back.assistant is not None
    runs = _runs(back)
    if str(runs) != drawn:
        st.rerun()
    bricks = {brick.name: brick for brick in back.assistant.bricks().usable}
    for run in runs:
        seen = view(run)
        before = st.session_state.get(f"teach-state-{run.name}")
        st.session_state[f"teach-state-{run.name}"] = seen.state
        if before in ("starting", "running", "measuring") and not seen.is_alive:
            st.rerun()  # the sidebar has a new skill, or does not
        with st.container(border=True, key=f"teach-run-{run.name}"):
            _draw_run(back, run, seen, bricks.get(run.name))


def _draw_run(back: Desk, run: Path, seen: "RunView", brick: "Brick | None") -> None:
    st.markdown(f"**{plain(run.name)}**")
    if seen.is_alive:
        st.progress(seen.step / seen.steps if seen.steps else 0.0, text=_progress(seen))
    elif seen.state == "finished" and brick is not None:
        st.markdown(f":material/check: {_score(brick)} {_found(brick)}")
    else:
        st.markdown(f":material/pause: {plain(_ended(seen), 400)}")
    if len(seen.losses) > 1:
        st.line_chart(
            {"step": [step for step, _ in seen.losses], "loss": [loss for _, loss in seen.losses]},
            x="step", y="loss", height=160,
        )  # fmt: skip
    if seen.samples:
        with st.expander("Answers to rows that were held back"):
            for sample in seen.samples:
                st.text(sample)
    _draw_actions(back, run, seen)


def _progress(seen: "RunView") -> str:
    if seen.state == "starting":
        return "Starting: the host is loaded…"
    if seen.state == "measuring":
        return "Measuring it on the rows that were held back…"
    left = max(1, round(seen.seconds_left / 60))
    return f"Step {seen.step} of {seen.steps}, about {left} min left"


def _ended(seen: "RunView") -> str:
    if seen.state == "stopped":
        return f"Stopped after step {seen.step} of {seen.steps}: it goes on from its last checkpoint."
    return seen.sentence if seen.state == "failed" else "The skill was removed; its training is still here."


def _score(brick: "Brick") -> str:
    """What the card says of the rows that were held back."""
    if not brick.card.metrics:
        return "Trained."
    metric = brick.card.metrics[0]
    bare = metric.beside.get("bare host")
    beside = f", the host alone {bare:g}" if bare is not None else ""
    return f"{metric.name} {metric.value:g}{beside}, on {metric.n} rows that were held back."


def _found(brick: "Brick") -> str:
    """Whether Auto chooses it."""
    from assistant.turn.admission import admitted

    if admitted(brick):
        return "It is in the sidebar, and Auto finds it."
    return (
        "It is in the sidebar; Auto leaves it alone, since it took messages of other skills or plain chat "
        f"(`mattoni bricks gate {brick.name}`)."
    )


def _draw_actions(back: Desk, run: Path, seen: "RunView") -> None:
    from brick_training import background

    with st.container(horizontal=True, gap="small"):
        if seen.is_alive:
            st.button(
                "Stop", icon=":material/stop:", key=f"teach-stop-{run.name}", on_click=background.stop, args=(run,)
            )
            return
        if seen.state != "finished":
            st.button(
                "Go on", icon=":material/play_arrow:", key=f"teach-on-{run.name}", on_click=guarded(partial(_start, back, run))
            )  # fmt: skip
        st.button(
            "Forget the training", icon=":material/delete:", key=f"teach-forget-{run.name}", on_click=_forget, args=(run,),
            help="Its rows and checkpoints are deleted; a finished skill stays, and is removed in the sidebar.",
        )  # fmt: skip


def _forget(run: Path) -> None:
    try:
        remove_folder(run)
    except (MattoniError, OSError) as problem:
        say(str(problem))
