"""What commands print, and how. Knows nothing of what they do."""

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mattoni.errors import MattoniError

if TYPE_CHECKING:
    from rich.table import Table

    from assistant.turn.ticket import Ticket


def printable(text: str) -> str:
    """Text without the control characters that could take a terminal over; line breaks and tabs stay."""
    return "".join(c for c in text if c in "\n\t" or (c >= " " and not "\x7f" <= c <= "\x9f"))


def stream(ticket: "Ticket") -> None:
    """Print the answer as it comes. Ctrl-C stops the answer, and what was said stays."""
    shown = 0
    try:
        for piece in ticket.changes():
            print(printable(piece), end="", flush=True)
            shown += len(piece)
    except KeyboardInterrupt:
        ticket.stop()
        ticket.wait()
    print(printable(ticket.text[shown:]))
    finish(ticket)


def finish(ticket: "Ticket") -> None:
    """Wait for the end. Raises MattoniError with the ticket's sentence when the turn failed."""
    try:
        ticket.wait()
    except KeyboardInterrupt:
        ticket.stop()
        ticket.wait()
    if ticket.error is not None:
        raise MattoniError(ticket.error)


def trace_of(ticket: "Ticket") -> dict[str, Any]:
    """The turn's trace as plain values."""
    return ticket.trace.to_json() if ticket.trace is not None else {}


def explain(ticket: "Ticket") -> None:
    """Which bricks answered and why, and what the user should know: on stderr, so that an answer can be piped."""
    trace = ticket.trace
    if trace is None:
        return
    for notice in trace.notices:
        print(printable(f"! {notice.text}"), file=sys.stderr)
    for heard in trace.heard:
        print(printable(f"  {heard.name}: {heard.text}"), file=sys.stderr)
    for brick in trace.bricks:
        print(printable(f"  [{brick.name}] {brick.reason}"), file=sys.stderr)
    for number, citation in enumerate(trace.citations, 1):
        print(printable(f"  ({number}) {citation.document}, {citation.place}"), file=sys.stderr)


def read_line() -> str | None:
    """The next line that is not empty; None at the end of the input. Ctrl-C begins a new line."""
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return None
        except KeyboardInterrupt:
            print("\n/quit or Ctrl-D ends.")
            continue
        if line:
            return line


def with_progress(items: Iterator[Any], total: int) -> Iterator[Any]:
    """Pass items on and show on stderr how far it is."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield from progress.track(items, total=total)


def show_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under headings, as wide as the terminal."""
    from rich import box
    from rich.console import Console
    from rich.text import Text

    table = new_table(headings, box.SIMPLE_HEAD)
    for row in rows:
        # Text, not str: a card's words are no markup.
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console().print(table)


def new_table(headings: Sequence[str], style: Any) -> "Table":
    from rich.table import Table

    table = Table(box=style, pad_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=heading == "name")
    return table
