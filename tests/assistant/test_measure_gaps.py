"""Gaps between tokens while another conversation's scan is read."""

import threading

from assistant.evaluation.measure_gaps import measure, scan
from assistant.turn.ticket import Ticket
from modality_bricks.methods.reader import ReaderRuntime

PATIENCE_S = 60


def test_gaps_are_measured_alone_and_while_a_scan_is_read(assistant, monkeypatch):
    # The first page takes until the measurement has its gaps, however slow or fast this machine is.
    stopped = threading.Event()
    stop = Ticket.stop
    monkeypatch.setattr(ReaderRuntime, "lines", lambda self, picture: stopped.wait(PATIENCE_S) and [] or [])
    monkeypatch.setattr(Ticket, "stop", lambda self: (stopped.set(), stop(self)))
    found = measure(assistant, pages=3, tokens=40)
    assert found["alone_ms"]["n"] >= 2 and found["beside_ms"]["n"] >= 2
    assert found["p95_ratio"] > 0 and scan(1).name == "scan.pdf"
