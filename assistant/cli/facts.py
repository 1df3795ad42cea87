"""`mattoni facts`: teach the assistant facts in a sentence each, and take them out again."""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from assistant.cli.options import AsJson, Device, Dtype, HostName
from mattoni.errors import MattoniError

app = typer.Typer(help="Facts that were taught in a sentence each.", no_args_is_help=True)


Numbers = Annotated[list[int], typer.Argument(min=1, help="Of facts, as `facts list` has them.")]
Subject = Annotated[str | None, typer.Option(help="Of what the sentence speaks, in its own words.")]
Object = Annotated[str | None, typer.Option(help="What it says of it: the end of the sentence.")]


@app.command("add")
def facts_add(
    sentences: Annotated[list[str] | None, typer.Argument(help="Such as “The capital of X is Y.”")] = None,
    subject: Subject = None,
    object: Object = None,
    file: Annotated[Path | None, typer.Option("--file", help="A text file with a sentence a line.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Take out facts that say otherwise.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what is found in the sentences.")] = False,
    host: HostName = "builtin",
    device: Device = "auto",
) -> None:
    """Teach facts, a sentence each. What was found is shown: correct it with --subject and --object, and --replace."""
    from assistant.bricks.facts import teach
    from assistant.cli.terminal import printable
    from knowledge_bricks.sentences import parse
    from mattoni.lines import read_text
    from mattoni.paths import data_folder

    lines = [line for line in read_text(file).splitlines() if line.strip()] if file is not None else []
    given = [*(sentences or ()), *lines]
    if not given:
        raise MattoniError("There is nothing to teach: write a sentence such as “The capital of X is Y.”")
    if len(given) > 1 and (subject or object):
        raise MattoniError("--subject and --object are for one sentence: teach this one alone.")
    said = [parse(sentence, subject, object) for sentence in given]
    for one in said:
        print(printable(f"{one.subject} | {one.relation} | {one.object}"), file=sys.stderr)
    if dry_run:
        return
    from assistant.host.host import load_host

    # Gradients of many steps: in fp32, whatever the turns are computed in.
    loaded = load_host(host, device, "float32")
    taught = teach(
        loaded,
        said,
        data_folder() / "bricks",
        replace=replace,
        progress=lambda done: _progress(f"{done} of {len(said)} taught"),
    )
    print(file=sys.stderr)
    for fact in taught.known:
        print(printable(f"{fact.id}  known already: {fact.sentence}"))
    for fact in taught.new:
        print(printable(f"{fact.id}  {fact.sentence}"))


@app.command("list")
def facts_list(as_json: AsJson = False) -> None:
    """The facts, with their numbers."""
    from dataclasses import asdict

    from assistant.bricks.facts import facts_in
    from assistant.cli.terminal import show_table
    from mattoni.paths import data_folder

    facts = facts_in(data_folder() / "bricks")
    learned = facts.learned if facts else ()
    if as_json:
        print(json.dumps({"facts": [asdict(x.fact) for x in learned]}, ensure_ascii=False))
        return
    cells = [[str(x.fact.id), "on" if x.fact.is_on else "off", x.fact.sentence, x.fact.subject] for x in learned]
    show_table(["number", "is", "fact", "about"], cells)


@app.command("show")
def facts_show(number: Annotated[int, typer.Argument(min=1)], as_json: AsJson = False) -> None:
    """A fact: its words, and what was computed for it."""
    from dataclasses import asdict

    from assistant.bricks.facts import the_facts
    from assistant.cli.terminal import printable
    from mattoni.paths import data_folder

    facts = the_facts(data_folder() / "bricks")
    one = facts.get(number)
    values = asdict(one.fact) | {
        "layer": facts.layer,
        "threshold": round(one.threshold, 3),
        "keys": len(one.keys),
        "residual_length": round(float(one.residual.norm()), 2),
        "bytes": one.keys.nbytes + one.residual.nbytes,
    }
    print(
        json.dumps(values, ensure_ascii=False)
        if as_json
        else "\n".join(printable(f"{k}: {v}") for k, v in values.items())
    )


@app.command("on")
def facts_on(numbers: Numbers) -> None:
    """Switch facts on."""
    _switch(numbers, True)


@app.command("off")
def facts_off(numbers: Numbers) -> None:
    """Switch facts off: what the host knew itself comes back, and they are kept."""
    _switch(numbers, False)


def _switch(numbers: list[int], is_on: bool) -> None:
    from assistant.bricks.facts import switch
    from mattoni.paths import data_folder

    switch(data_folder() / "bricks", numbers, is_on)
    print(f"{', '.join(map(str, numbers))}: {'on' if is_on else 'off'}.")


@app.command("remove")
def facts_remove(numbers: Numbers) -> None:
    """Delete facts with every number that was computed for them."""
    from assistant.bricks.facts import remove
    from mattoni.paths import data_folder

    remove(data_folder() / "bricks", numbers)
    print(f"{', '.join(map(str, numbers))}: gone.")


@app.command("export")
def facts_export(
    folder: Annotated[Path, typer.Argument(help="A new folder, for a PEFT LoRA.")],
    host: HostName = "builtin",
    device: Device = "auto",
) -> None:
    """Write the facts that are on as a PEFT LoRA that other tools load. As weights they also act where no key is met."""
    from assistant.bricks.fact_export import MEMIT, as_low_rank, second_moment, write_peft
    from assistant.bricks.facts import the_facts
    from assistant.host.host import load_host
    from mattoni.paths import data_folder

    facts = the_facts(data_folder() / "bricks")
    loaded = load_host(host, device, "float32")
    delta = as_low_rank(loaded, facts, second_moment(loaded, facts.layer), MEMIT)
    write_peft(delta, folder, loaded.name)
    print(f"{folder} is a PEFT LoRA of rank {sum(x.fact.is_on for x in facts.learned)} for {loaded.name}.")


@app.command("eval")
def facts_eval(
    rows: Annotated[Path, typer.Argument(help="JSON lines in the format of CounterFact.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows.")] = None,
    at_once: Annotated[bool, typer.Option("--at-once", help="All facts are on in every prompt.")] = False,
    method: Annotated[
        Literal["keyed", "prompt", "rome", "memit"],
        typer.Option(help="prompt: the fact stands before the question; rome, memit: as a change of weights."),
    ] = "keyed",
    unrelated: Annotated[
        Path | None, typer.Option(help="JSON lines with `text`: 200 messages in which no fact should act.")
    ] = None,
    work: Annotated[Path | None, typer.Option(help="Keep what was computed here, and go on with it.")] = None,
    layer: Annotated[
        int | None, typer.Option(min=0, help="Of the FFN; default: derived from the host's depth.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(min=0, max=1, help="Cosine from which a key is met.")] = None,
    skill: Annotated[
        list[str] | None, typer.Option(help="A skill that is on in every prompt, those of the bare host too.")
    ] = None,
    as_json: AsJson = False,
    host: HostName = "builtin",
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> None:
    """Teach the facts of a file, one at a time or all at once, and print how well they hold and what else moved."""
    import tempfile
    from dataclasses import replace
    from itertools import islice

    from assistant.bricks.fact_solving import THRESHOLD, settings_for
    from assistant.bricks.skills_on import skills_on
    from assistant.evaluation.measure_facts import measure, read_rows
    from assistant.host.host import load_host
    from mattoni.lines import json_rows

    asked = read_rows(rows, limit)
    loaded = load_host(host, device, dtype)
    settings = settings_for(loaded)
    if layer is not None:
        settings = replace(settings, layer=layer)
    with tempfile.TemporaryDirectory() as scratch:
        report = measure(
            loaded,
            asked,
            method,
            settings,
            THRESHOLD if threshold is None else threshold,
            at_once,
            work or Path(scratch),
            others=skills_on(skill or [], loaded),
            unrelated=[row.value["text"] for row in islice(json_rows(unrelated), 200)] if unrelated else [],
            progress=_progress,
        )
    print(file=sys.stderr)
    report |= {"host": loaded.name, "dtype": dtype, "skills": skill or []}
    print(json.dumps(report) if as_json else "\n".join(f"{name}: {value}" for name, value in report.items()))


def _progress(stage: str) -> None:
    print(f"\r{stage:<50}", end="", file=sys.stderr, flush=True)
