"""`mattoni models`: hosts, embedders, encoders and speech models."""

import contextlib
import json
import os
from typing import Annotated, Any

import typer

from assistant.cli.options import AsJson
from assistant.cli.terminal import printable, show_table
from mattoni.errors import MattoniError

app = typer.Typer(help="Hosts, embedders, encoders, speech models: list them, fetch them.", no_args_is_help=True)


@app.command("list")
def models_list(as_json: AsJson = False) -> None:
    """What the catalogue holds and what it costs. Any Hub id, folder or GGUF file works as a host too.

    Memory is the running assistant's with that host; tokens a second are this machine's, read / written, measured when a host
    was pulled.
    """
    from assistant.host.catalogue import catalogue, imported_hosts, is_fetched
    from assistant.host.speed import measured

    rows: list[dict[str, Any]] = []
    for name, entry in catalogue().items():
        speeds = {device: speed.model_dump() for device, speed in measured(name).items()}
        own = {"fetched": is_fetched(name), "tokens_per_s": speeds}
        rows.append({"name": name, **entry.model_dump(mode="json"), **own})
    rows += [
        {"name": n, "use": "host", "summary": f"Of {i.source}, with its brick.", "licence": i.licence, "fetched": True}
        for n, i in imported_hosts().items()
    ]
    if as_json:
        print(json.dumps(rows))
        return
    show_table(["name", "here", "download", "disk", "memory", "tokens/s"], [_cells(row) for row in rows])
    for row in rows:
        print(printable(f"{row['name']} ({row['use']}): {row['summary']} {row['licence']}."))


def _cells(row: dict[str, Any]) -> list[str]:
    def size(key: str) -> str:
        megabytes = row.get(key)
        if megabytes is None:
            return ""
        # No-break spaces: a table of 80 columns would put the unit below its number.
        return f"{megabytes / 1000:.1f}\u00a0GB" if megabytes >= 1000 else f"{megabytes}\u00a0MB"

    speeds = row.get("tokens_per_s") or {}
    rates = ", ".join(f"{s['prefill']:.0f}/{s['decode']:.0f}\u00a0{device}" for device, s in speeds.items())
    here = "yes" if row["fetched"] else ""
    return [row["name"], here, size("download_mb"), size("disk_mb"), size("memory_mb"), rates]


@app.command("pull")
def models_pull(
    names: Annotated[list[str] | None, typer.Argument(help="Default: what the assistant needs here.")] = None,
) -> None:
    """Fetch models into the cache and verify them; what is there already is left alone, without the network."""
    from assistant.host.catalogue import entry_of, fetch, is_fetched, say

    wanted = names or needed()
    missing = [entry_of(name) for name in wanted if not is_fetched(name)]
    if len(missing) > 1:
        download, disk = sum(e.download_mb for e in missing), sum(e.disk_mb for e in missing)
        say(f"{len(missing)} models are to be fetched: {download} MB to download, {disk} MB on the disk.")
    for name in wanted:
        already = is_fetched(name)
        folder = fetch(name)
        print(f"{name} is {'already in' if already else 'now in'} {folder}")
        if entry_of(name).use == "host" and (names or not already):
            tell_speed(name)


def needed() -> list[str]:
    """What the assistant needs on this machine: the smallest host, which everything can fall back on, the embedder, the
    models that bricks name, and the host that MATTONI_HOST names."""
    from assistant.host.catalogue import BUILTIN_EMBEDDER, BUILTIN_HOST, catalogue

    named = {source.partition(":")[2] for source in model_sources() if source.startswith("catalogue:")}
    host = os.environ.get("MATTONI_HOST", "")
    return list(
        dict.fromkeys([BUILTIN_HOST, BUILTIN_EMBEDDER, *sorted(named), *([host] if host in catalogue() else [])])
    )


def model_sources() -> list[str]:
    """The models that the installed bricks' cards want at set-up; a card that cannot be read is for the registry to tell of."""
    from mattoni.card import CARD, read_card
    from mattoni.paths import brick_folders

    sources: list[str] = []
    for card in (card for parent in brick_folders() for card in sorted(parent.glob(f"*/{CARD}"))):
        with contextlib.suppress(MattoniError):
            sources += read_card(card.parent).parts.set_up
    return sources


def tell_speed(name: str) -> None:
    """Measure a host on this machine, which also shows that it loads."""
    from assistant.host.catalogue import say
    from assistant.host.host import load_host
    from assistant.host.speed import remember

    try:
        host = load_host(name)
    except MattoniError as problem:
        say(f"It is here, but cannot run now: {problem}")
        return
    speed = remember(host)
    say(
        f"{name} reads {speed.prefill:.0f} and writes {speed.decode:.0f} tokens a second on this {host.device.type.upper()}: "
        f"{speed.turn_s:.1f} s for 300 tokens read and 60 written."
    )
