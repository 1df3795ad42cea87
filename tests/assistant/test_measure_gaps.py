"""Gaps between tokens while another conversation's scan is read."""

import threading

from assistant.evaluation.measure_gaps import measure, scan
from modality_bricks.methods.reader import ReaderRuntime


def test_gaps_are_measured_alone_and_while_a_scan_is_read(assistant, monkeypatch):
    go_on = threading.Event()
    monkeypatch.setattr(ReaderRuntime, "lines", lambda self, picture: go_on.wait(0.1) and [] or [])
    found = measure(assistant, pages=100, tokens=40)
    assert found["alone_ms"]["n"] >= 2 and found["beside_ms"]["n"] >= 2
    assert found["p95_ratio"] > 0 and scan(1).name == "scan.pdf"
