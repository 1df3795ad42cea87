"""`mattoni bricks export`, `merge`, `conflicts`, `gate` and `rollback`: what is done with skills that are here. Part of the group `bricks`."""

import json
import math
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from assistant.cli.given import given_path
from assistant.cli.opening import scanned
from assistant.cli.options import AsJson, HostName
from assistant.cli.terminal import printable, show_table, with_progress
from mattoni.errors import MattoniError

if TYPE_CHECKING:
    from assistant.bricks.conflicts import Conflict
    from task_bricks.merging import Part

app = typer.Typer()


@app.command("export")
def bricks_export(
    name: Annotated[str, typer.Argument(help="A brick.")],
    place: Annotated[
        Path, typer.Argument(help="A new file that ends in .zip; or, for a skill or a cartridge, a new folder.")
    ],
) -> None:
    """Write a brick as one file that `bricks add` takes again; or a skill or cartridge as PEFT's own, for other tools too."""
    from assistant.bricks.cartridges import export_cartridge
    from assistant.bricks.lifecycle import SUFFIX, pack_brick
    from task_bricks.exporting import export_skill

    brick, target = scanned().get(name), place.expanduser()
    if target.suffix.lower() == SUFFIX:
        pack_brick(brick, target)
        print(f"{place} is all of {name}: mattoni bricks add {place}")
        return
    if brick.parts.method == "cartridge":
        export_cartridge(brick.folder, brick.card, target)
        print(f'{place} is a PEFT cartridge: PeftModel.from_pretrained(host, "{place}") loads it.')
        return
    export_skill(brick.folder, brick.card, target)
    print(f'{place} is a PEFT LoRA: PeftModel.from_pretrained(host, "{place}") loads it.')


@app.command("merge")
def bricks_merge(
    names: Annotated[list[str], typer.Argument(help="Two skills or more.")],
    out: Annotated[str, typer.Option(help="What to call the new skill.")],
    method: Annotated[
        Literal["cat", "linear", "ties", "dare", "svd", "learned"],
        typer.Option(
            help="cat: the exact weighted sum, its rank the sum of the ranks; svd: the nearest to it of --rank; linear, ties, dare: "
            "as peft has them, of equal ranks; learned: cat with weights that are learned on --rows."
        ),
    ] = "cat",
    weights: Annotated[str | None, typer.Option(help="One for each, as in 1,0.5. Default: 1 each.")] = None,
    rows: Annotated[str | None, typer.Option(help="For learned: a few examples, as those of training.")] = None,
    density: Annotated[float, typer.Option(help="For ties and dare: the share that is kept.")] = 0.5,
    rank: Annotated[int | None, typer.Option(min=1, help="For svd. Default: the largest of the ranks.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="For dare, which drops at random.")] = 0,
    host: HostName = "builtin",
) -> None:
    """Make one skill of several, by peft's own add_weighted_adapter."""
    from mattoni.paths import data_folder
    from task_bricks.merging import How, merge_skills, read_parts

    bricks = scanned()
    if out in {brick.name for brick in (*bricks.usable, *bricks.refused)}:
        raise MattoniError(f"There is already a brick called '{out}': remove it first or give another --out.")
    if (method == "learned") != (rows is not None):
        raise MattoniError("--rows and --method learned go together: give both, or neither.")
    if method == "learned" and weights is not None:
        raise MattoniError("--method learned finds the weights itself: leave out --weights.")
    if rank is not None and method != "svd":
        raise MattoniError(f"--rank is for --method svd: {method} has the rank that it has.")
    parts = read_parts([(brick.folder, brick.card) for brick in map(bricks.get, names)])
    learned = _learned(parts, rows, host) if rows is not None else None
    given = tuple(learned["weights"]) if learned else _numbers(weights, len(parts))
    how = How("cat" if method == "learned" else method, given, density, rank, seed)
    told = {key: value for key, value in learned.items() if key != "weights"} if learned else None
    card, notes = merge_skills(parts, how, data_folder() / "bricks" / out, told)
    for note in notes:
        print(printable(note))
    if card.routes is not None:
        print(f"Auto leaves it alone until it has passed `mattoni bricks gate {card.name}`.")
    print(f'{card.name} is here, of rank {getattr(card.parts, "rank", 0)}: mattoni ask --skill {card.name} "…"')


def _numbers(text: str | None, count: int) -> tuple[float, ...]:
    """--weights as numbers; 1 for each where there is none."""
    if text is None:
        return (1.0,) * count
    try:
        numbers = tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        numbers = ()
    if not numbers or not all(map(math.isfinite, numbers)):
        raise MattoniError(f"--weights {text}: write a number for each skill, as in 1,0.5.")
    return numbers


def _learned(parts: "list[Part]", rows: str, host: str) -> dict[str, Any]:
    """Weights learned on rows, and how, as the card has it."""
    from assistant.host.host import load_host
    from task_bricks.training.learned import learn_weights, rows_loss
    from task_bricks.training.rows import read_rows

    read = read_rows(given_path(rows), lambda line: print(printable(line)))
    loaded = load_host(host)
    loras = [part.lora for part in parts]
    for part in parts:
        if part.card.host is not None and part.card.host.fingerprint != loaded.identity.fingerprint:
            raise MattoniError(
                f"'{part.card.name}' was made for another host than {loaded.name}: choose its with --host."
            )
    learned = learn_weights(rows_loss(loaded, loras, read), len(parts))
    alone = ", ".join(f"{p.card.name} {loss:.3f}" for p, loss in zip(parts, learned.alone, strict=True))
    print(
        f"loss of {len(read)} rows: {learned.loss:.3f} with weights {', '.join(f'{w:g}' for w in learned.weights)} "
        f"(alone: {alone}; bare host {learned.bare:.3f})"
    )
    return {
        "weights": learned.weights,
        "rows": len(read),
        "loss on them": round(learned.loss, 4),
        "evaluations": learned.evaluations,
    }


@app.command("conflicts")
def bricks_conflicts(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Two skills, or a skill and a function of the host. Default: all pairs of skills."),
    ] = None,
    rows_a: Annotated[str | None, typer.Option(help="Rows of the first, as for `mattoni eval`: measure it.")] = None,
    rows_b: Annotated[str | None, typer.Option(help="Rows of the second.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows.")] = None,
    as_json: AsJson = False,
    host: HostName = "builtin",
) -> None:
    """How skills get into each other's way: directions, signs, cosine of their ΔW, and measured on rows.

    For a skill and a function of the host: the neurons that it moves and, on rows of the skill, whether it repeats the function.
    """
    from assistant.bricks.conflicts import conflict_of

    if names and len(names) != 2:
        raise MattoniError("Name two bricks, or none for all pairs of skills.")
    if (rows_a or rows_b) and not names:
        raise MattoniError("--rows-a and --rows-b are for two named bricks: name them.")
    bricks = scanned()
    skills = [brick for brick in bricks.usable if brick.parts.method == "lora"]
    pairs = [(bricks.get(names[0]), bricks.get(names[1]))] if names else list(combinations(skills, 2))
    if not pairs:
        raise MattoniError("There are no two skills here: add one with `mattoni bricks add`.")
    found = [conflict_of(one, other) for one, other in with_progress(iter(pairs), len(pairs))]
    measured = _effects(names, (rows_a, rows_b), limit, host) if names and (rows_a or rows_b) else []
    if as_json:
        print(json.dumps({"pairs": [conflict.told for conflict in found], "measured": measured}, ensure_ascii=False))
        return
    beside = [c for c in found if c.together is not None]
    if beside:
        show_table(
            ["skills", "cosine", "reads (chance)", "writes (chance)", "opposite signs", "sizes"],
            [_cells(conflict) for conflict in beside],
        )
    for conflict in found:
        for sentence in conflict.sentences:
            print(printable(sentence))
    for effect in measured:
        if "function" in effect:
            print(printable(_repeats(effect)))
            continue
        print(
            f"{effect['skill']}: {effect['metric']} {effect['alone']:.3f} alone, {effect['together']:.3f} with "
            f"{effect['beside']} on ({effect['difference']:+.3f}, 95 % {effect['low']:+.3f} to {effect['high']:+.3f}, n = {effect['n']})"
        )


def _repeats(effect: dict[str, Any]) -> str:
    """Whether a skill repeats a function, in a sentence."""
    means = (
        "repeats it"
        if effect["low"] > 0
        else "needs it"
        if effect["high"] < 0
        else "neither repeats nor needs it for sure"
    )
    return (
        f"{effect['skill']} gains {effect['gain']:+.3f} {effect['metric']}, and {effect['gain with the function off']:+.3f} with "
        f"{effect['function']} off: it {means} ({effect['difference']:+.3f}, 95 % {effect['low']:+.3f} to {effect['high']:+.3f}, "
        f"n = {effect['n']})."
    )


def _cells(conflict: "Conflict") -> list[str]:
    met = conflict.together
    assert met is not None
    return [
        " + ".join(conflict.names),
        f"{met.cosine:+.3f}",
        f"{met.reads:.2f} ({met.reads_by_chance:.2f})",
        f"{met.writes:.2f} ({met.writes_by_chance:.2f})",
        f"{met.signs:.0%}",
        f"{met.sizes[0]:.0f}, {met.sizes[1]:.0f}",
    ]


def _effects(
    names: list[str], rows: tuple[str | None, str | None], limit: int | None, host: str
) -> list[dict[str, Any]]:
    """What each of two bricks loses beside the other, where there are rows of it."""
    from assistant.cli.opening import opened
    from assistant.evaluation.asking import read_rows
    from assistant.evaluation.crossing import measured_effect, redundancy

    given = [(name, given_path(path)) for name, path in zip(names, rows, strict=True) if path is not None]
    read = [(name, path, read_rows(path, limit)) for name, path in given]
    with opened(host) as assistant:
        functions = {brick.name for brick in assistant.bricks().usable if brick.parts.method == "gates"}
        if functions & {name for name, *_ in read}:
            raise MattoniError("A function of the host has no rows of its own: give the rows of the skill.")
        return [
            (redundancy if other in functions else measured_effect)(assistant, name, other, asked, path.parent)
            for name, path, asked in read
            for other in names
            if other != name
        ]


@app.command("gate")
def bricks_gate(
    name: Annotated[str, typer.Argument(help="A skill with routing keys.")],
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Let Auto choose it whatever is measured; shown all the same.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Whether Auto may choose a skill: routes of the other skills' messages and of plain chat with and without it.

    At most 0.5 % of all may move, and of each group 0.5 % or one. What came out is kept for this state of the skill; shipped ones have passed.
    """
    from assistant.bricks.gate import pass_gate
    from assistant.host.catalogue import BUILTIN_EMBEDDER, fetch
    from assistant.host.embedder import Embedder

    bricks = scanned()
    brick = bricks.get(name)
    embedder = Embedder(fetch(BUILTIN_EMBEDDER))
    gate = pass_gate(brick, bricks, embedder.embed, embedder.digest, anyway)
    if as_json:
        print(json.dumps(gate.told | {"by_hand": anyway}, ensure_ascii=False))
        return
    cells = [
        [
            line.group,
            str(line.n),
            str(line.moved),
            f"{line.share:.1%}",
            "; ".join(line.examples[:2]).replace("\n", " ")[:80],
        ]
        for line in gate.lines
    ]
    show_table(["messages of", "n", "moved", "share", "such as"], cells)
    print(printable(f"{name}: Auto may choose it, since you say so." if anyway else gate.sentence))


@app.command("rollback")
def bricks_rollback(
    name: Annotated[str, typer.Argument(help="A brick of yours that was replaced.")],
    to: Annotated[int | None, typer.Option(min=1, help="A version. Default: the one before.")] = None,
) -> None:
    """Go back to an older version of a brick; the one in use is kept too."""
    from mattoni.paths import data_folder
    from mattoni.versions import roll_back

    brick = scanned().get(name)
    if not brick.folder.is_relative_to(data_folder()):
        raise MattoniError(f"'{name}' came with Mattoni and has no other version.")
    print(f"{name} is version {roll_back(brick.folder, to)} again (it was {brick.card.version}).")
