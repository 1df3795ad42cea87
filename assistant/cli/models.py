"""`mattoni models`: hosts and embedders."""

import json
from typing import Annotated

import typer

from assistant.cli.options import AsJson
from assistant.cli.terminal import show_table

app = typer.Typer(help="Hosts and embedders: list them, fetch them.", no_args_is_help=True)


@app.command("list")
def models_list(as_json: AsJson = False) -> None:
    """The hosts and embedders of the catalogue. Any Hub id, folder or GGUF file works as a host too."""
    from assistant.host.catalogue import catalogue, imported_hosts, is_fetched

    rows = [{"name": n, **e.model_dump(mode="json"), "fetched": is_fetched(n)} for n, e in catalogue().items()]
    rows += [
        {"name": n, "use": "host", "summary": f"Of {i.source}, with its brick.", "licence": i.licence, "fetched": True}
        for n, i in imported_hosts().items()
    ]
    if as_json:
        print(json.dumps(rows))
        return
    cells = [[r["name"], r["use"], "here" if r["fetched"] else "", r["licence"], r["summary"]] for r in rows]
    show_table(["name", "use", "fetched", "licence", "what"], cells)


@app.command("pull")
def models_pull(
    names: Annotated[list[str] | None, typer.Argument(help="Default: what the assistant needs.")] = None,
) -> None:
    """Fetch models into the cache and verify them; what is there already is left alone, without the network."""
    from assistant.host.catalogue import BUILTIN_EMBEDDER, BUILTIN_HOST, fetch, is_fetched

    for name in names or (BUILTIN_HOST, BUILTIN_EMBEDDER):
        already = is_fetched(name)
        folder = fetch(name)
        print(f"{name} is {'already in' if already else 'now in'} {folder}")
