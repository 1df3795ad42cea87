"""Makes a knowledge brick of triples. Knows nothing of turns."""

from collections.abc import Callable
from pathlib import Path

from knowledge_bricks.graph import TRIPLES, read_triples, write_triples
from knowledge_bricks.methods.graph import GraphParts
from mattoni.card import BrickCard, check_name, describe_files, read_card, write_card
from mattoni.errors import MattoniError
from mattoni.files import replace_folder, write_text
from mattoni.lines import read_text
from mattoni.paths import brick_folders, data_around


def add_graph(
    name: str,
    file: Path,
    folder: Path,
    update: bool = False,
    publish: Callable[[Callable[[], None]], object] = lambda swap: swap(),
) -> BrickCard:
    """Make the graph brick `name` in `folder` of a file of triples; all of it or nothing.

    update   the brick is there already and becomes what the file says now; the version goes up
    publish  calls the last step, which puts the brick in its place, at a time when no turn reads it

    Raises MattoniError for a bad or taken name, and for a file that holds no triples.
    """
    check_name(name)
    target, version = folder / name, 1
    if update:
        previous = read_card(target) if target.is_dir() else None
        if previous is None or not isinstance(previous.parts, GraphParts):
            raise MattoniError(f"There is no graph of yours called '{name}' to update: add it first.")
        version = previous.version + 1
    elif any((parent / name).exists() for parent in (folder, *brick_folders(data_around(folder)))):
        raise MattoniError(f"There is a brick called '{name}' already: choose another name, or add --update.")
    triples = read_triples(read_text(file), file.name)

    def fill(fresh: Path) -> None:
        write_text(fresh / TRIPLES, write_triples(triples))
        heads = len({triple.head for triple in triples})
        card = BrickCard(
            schema=1,
            name=name,
            version=version,
            kind="knowledge",
            title=name.replace("-", " ").capitalize(),
            summary=f"Knows {len(triples):,} things about {heads:,} entities, from {file.name}.",
            injects=("sequence",),
            files=describe_files(fresh),
            parts=GraphParts(method="graph", triples=len(triples), source=file.name),
            licence="that of the file",
            limits="Finds entities as they are written in the file; it does not count or compare.",
        )
        write_card(card, fresh)

    replace_folder(target, fill, publish)
    return read_card(target)
