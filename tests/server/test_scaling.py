"""The simulation of many replicas: what must hold whatever the figures are."""

import pytest

from mattoni.errors import MattoniError
from server.scaling import Crowd, Machine, machine_of, simulate

MACHINE = Machine(step_s=0.02, row_s=0.007, prefill_tokens_s=400.0, prepare_s=0.05)
TURN = {"picture": {"ms": {"total": 50}}, "ours": {"prefill_tokens_s": 400}}
BATCH = {"bare_tokens_s": 40.0, "speedup": 2.0, "rows": 8, "overhead": {"1": 1.0}}


def test_a_machine_is_what_was_measured():
    machine = machine_of(TURN, BATCH)
    assert machine.step_s + machine.row_s == pytest.approx(1 / 40)
    assert machine.step_s + 8 * machine.row_s == pytest.approx(8 / 80)
    with pytest.raises(MattoniError, match="'ours' is missing"):
        machine_of({"picture": TURN["picture"]}, BATCH)


def test_a_replica_with_little_to_do_takes_what_a_turn_takes_and_equal_seeds_give_equal_hours():
    crowd = Crowd(turns=1.0, skill_share=0.0)
    found = simulate(MACHINE, crowd, "any", 0.001, replicas=2, hours=20)
    assert found == simulate(MACHINE, crowd, "any", 0.001, replicas=2, hours=20)
    assert 0.05 < found.first_s["p50"] < 0.3 and found.read_again == 0.0


def test_who_stays_at_a_replica_has_less_read_again_and_who_is_many_waits_longer():
    one, other = (simulate(MACHINE, Crowd(), policy, 0.1, replicas=4, hours=0.5) for policy in ("any", "sticky"))
    assert other.read_again < one.read_again and other.turn_s["p95"] < one.turn_s["p95"]
    crowded = simulate(MACHINE, Crowd(), "sticky", 0.4, replicas=4, hours=0.5)
    assert crowded.turn_s["p95"] > other.turn_s["p95"] and crowded.busy > other.busy
