"""How two skills meet, computed from factors: the same as from the whole ΔW."""

import math
from dataclasses import replace

import pytest
import torch

from mattoni.injections import LowRank
from task_bricks.overlap import meet, moved_neurons, touches

Q, DOWN, GATE = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj", "model.layers.1.mlp.gate_proj"
SHAPES = {Q: (12, 10), DOWN: (10, 20), GATE: (20, 10)}


def skill(seed: int, rank: int = 2, layers=tuple(SHAPES), scale: float = 0.5) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    factors = {
        name: (
            torch.randn(rank, SHAPES[name][1], generator=generator),
            torch.randn(SHAPES[name][0], rank, generator=generator),
        )
        for name in layers
    }
    return LowRank(f"skill{seed}", str(seed), factors, dict.fromkeys(layers, scale))


def whole(lora: LowRank, name: str) -> torch.Tensor:
    a, b = lora.factors[name]
    return lora.scales[name] * lora.weight * (b @ a)


def test_cosine_and_sizes_are_those_of_the_whole_deltas():
    one, other = skill(0), replace(skill(1, rank=3, layers=(Q, DOWN)), weight=-2.0)
    together, layers = meet(one, other)
    assert together is not None and set(layers) == {Q, DOWN}
    for name, met in layers.items():
        x, y = whole(one, name).flatten(), whole(other, name).flatten()
        assert met.cosine == pytest.approx(float(torch.cosine_similarity(x, y, dim=0)), abs=1e-5)
        assert met.sizes == pytest.approx((float(x.norm()), float(y.norm())), rel=1e-5)
    vectors = [
        torch.cat([(whole(lora, n) if n in lora.factors else torch.zeros(SHAPES[n])).flatten() for n in SHAPES])
        for lora in (one, other)
    ]
    assert together.cosine == pytest.approx(float(torch.cosine_similarity(*vectors, dim=0)), abs=1e-5)


def test_a_skill_meets_itself_and_its_opposite():
    one = skill(0)
    same, opposite = meet(one, one)[0], meet(one, replace(one, weight=-1.0))[0]
    assert (same.cosine, same.reads, same.writes, same.signs) == pytest.approx((1, 1, 1, 0), abs=1e-4)
    assert (opposite.cosine, opposite.reads, opposite.signs) == pytest.approx((-1, 1, 1), abs=1e-4)
    assert same.angle < 1


def test_the_same_inputs_and_other_outputs_are_told_apart():
    """Two skills that began with the same A, as the same seed gives it."""
    one, other = skill(0, layers=(Q,)), skill(1, layers=(Q,))
    (a, _), (_, b) = one.factors[Q], other.factors[Q]
    met = meet(one, replace(other, factors={Q: (a, b)}))[0]
    assert met.reads == pytest.approx(1, abs=1e-4) and met.writes < 0.9
    assert met.reads_by_chance == pytest.approx(2 / 10) and met.writes_by_chance == pytest.approx(2 / 12)


def test_principal_angles_are_those_of_the_column_spaces():
    one, other = skill(0, layers=(Q,)), skill(1, layers=(Q,))
    bases = [torch.linalg.svd(whole(lora, Q), full_matrices=False)[0][:, :2] for lora in (one, other)]
    cosines = torch.linalg.svdvals(bases[0].T @ bases[1])
    met = meet(one, other)[0]
    assert met.writes == pytest.approx(float(cosines.square().mean()), abs=1e-4)
    assert met.angle == pytest.approx(math.degrees(math.acos(float(cosines.max()))), abs=0.1)


def test_directions_that_carry_nothing_do_not_count():
    one = skill(0, layers=(Q,))
    a, b = one.factors[Q]
    padded = replace(one, factors={Q: (torch.cat([a, torch.randn(2, 10)]), torch.cat([b, torch.zeros(12, 2)], dim=1))})
    met = meet(one, padded)[0]
    assert (met.cosine, met.reads, met.writes) == pytest.approx((1, 1, 1), abs=1e-4)
    assert met.reads_by_chance == pytest.approx(2 / 10)


def test_an_empty_delta_and_other_layers_are_no_error():
    one = skill(0, layers=(Q,))
    a, b = one.factors[Q]
    nothing = replace(one, factors={Q: (a, torch.zeros_like(b))})
    met = meet(one, nothing)[0]
    assert (met.cosine, met.reads, met.signs) == (0, 0, 0.5)
    assert meet(one, skill(1, layers=(DOWN,))) == (None, {})


def test_neurons_are_moved_by_their_rows_and_columns():
    one = skill(0)
    expected = (whole(one, GATE).square().sum(1) + whole(one, DOWN).square().sum(0)).sqrt()
    torch.testing.assert_close(moved_neurons(one)[1], expected, rtol=1e-4, atol=1e-5)
    assert moved_neurons(skill(0, layers=(Q,))) == {}


def test_a_function_is_touched_where_the_skill_moves_its_neurons_most():
    one = skill(0)
    far = moved_neurons(one)[1]
    top, least = torch.zeros(20), torch.zeros(20)
    top[far.topk(4).indices], least[(-far).topk(4).indices] = 1, -1
    hit, missed = touches(one, {1: top, 5: top}), touches(one, {1: least})
    assert (hit.neurons, hit.hit, hit.by_chance, hit.even) == (4, 4, 4 * 4 / 20, 4 / 20)
    assert hit.share > hit.even > missed.share and missed.hit == 0
    assert hit.most[0] == (1, int(far.argmax()), pytest.approx(float(far.max())))
    assert touches(one, {7: top}) is None
