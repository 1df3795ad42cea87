"""What is counted for Prometheus. No name of a person and no word of theirs is in it."""

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from assistant.turn.ticket import Ticket

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The counters of one server."""

    def __init__(self, load: Callable[[], tuple[int, int]]) -> None:
        """`load` tells how many turns run and how many wait."""
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "mattoni_requests", "Requests by endpoint and status.", ["endpoint", "status"], registry=self._registry
        )
        self._turns = Counter("mattoni_turns", "Turns by how they ended.", ["finish"], registry=self._registry)
        self._tokens = Counter(
            "mattoni_tokens", "Tokens: of prompts, of them reused, of answers.", ["kind"], registry=self._registry
        )
        self._bricks = Counter("mattoni_bricks", "Turns that a brick took part in.", ["brick"], registry=self._registry)
        self.first_token = Histogram(
            "mattoni_first_token_seconds",
            "From the request to its first words.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._whole = Histogram(
            "mattoni_turn_seconds", "From the request to the answer's end.", buckets=_SECONDS, registry=self._registry
        )
        for place, name, told in (
            (0, "mattoni_turns_running", "Turns that run."),
            (1, "mattoni_turns_waiting", "that wait."),
        ):
            Gauge(name, told, registry=self._registry).set_function(partial(_nth, load, place))

    def ended(self, ticket: Ticket, seconds: float) -> None:
        """Count a turn that has ended."""
        self._whole.observe(seconds)
        trace = ticket.trace
        self._turns.labels(
            "failed" if ticket.status == "failed" or trace is None else trace.finish or "not asked"
        ).inc()
        if trace is not None:
            for kind, count in trace.tokens.items():
                self._tokens.labels(kind).inc(count)
            for name in {used.name for used in trace.bricks}:
                self._bricks.labels(name).inc()

    def page(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)


def _nth(load: Callable[[], tuple[int, int]], place: int) -> float:
    return load()[place]
