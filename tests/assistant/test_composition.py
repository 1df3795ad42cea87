"""Injections: their algebra, what a host supports, and that nothing of a turn stays on the model."""

import copy

import pytest
import torch

from assistant.host.composition import compose, composed
from assistant.host.host import Host, load_host
from mattoni.errors import MattoniError
from mattoni.injections import Gate, Keyed, LowRank, Prefix


@pytest.fixture
def host(tiny_host) -> Host:
    return load_host(str(tiny_host), device="cpu", dtype="float32")


def lora(host: Host, seed: int, rank: int = 2, name: str = "skill", weight: float = 1.0) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    factors = {
        module: (
            torch.randn(rank, shape[1], generator=generator) * 0.3,
            torch.randn(shape[0], rank, generator=generator) * 0.3,
        )
        for module, shape in host.linear_shapes.items()
    }
    return LowRank(name, f"digest-{seed}", factors, dict.fromkeys(factors, 0.5), weight)


def logits(host: Host, ids: torch.Tensor, **more) -> torch.Tensor:
    with torch.inference_mode():
        return host.model(input_ids=ids, **more).logits


IDS = torch.tensor([[1, 50, 60, 70, 80]])


def with_changed_weights(host: Host, loras: list[LowRank], ids: torch.Tensor) -> torch.Tensor:
    """The reference: a copy of the model whose weights are W + Σ w s B A."""

    model = copy.deepcopy(host.model)
    modules = dict(model.named_modules())
    with torch.no_grad():
        for one in loras:
            for name, (a, b) in one.factors.items():
                modules[name].weight += one.weight * one.scales[name] * (b @ a)
        return model(input_ids=ids).logits


def test_two_loras_with_strengths_equal_the_sum_of_their_deltas(host):
    loras = [lora(host, 1, rank=2, weight=0.7), lora(host, 2, rank=3, weight=-0.4)]
    with composed(host, compose(host, loras)):
        ours = logits(host, IDS)
    # Two orders of the same fp32 sums.
    torch.testing.assert_close(ours, with_changed_weights(host, loras, IDS), rtol=0, atol=1e-4)
    assert (ours - logits(host, IDS)).abs().max() > 0.1, "a LoRA that is loaded must be applied"


def test_after_a_turn_the_host_is_bare_bit_for_bit(host):
    def hooks():
        return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in host.model.modules()]

    before, bytes_before, hooks_before = logits(host, IDS), host.weights_digest(), hooks()
    with composed(host, compose(host, [lora(host, 1)])):
        assert hooks() != hooks_before
        logits(host, IDS)
    with pytest.raises(RuntimeError, match="in the middle"), composed(host, compose(host, [lora(host, 2)])):
        raise RuntimeError("in the middle of a turn")
    assert torch.equal(logits(host, IDS), before)
    assert host.weights_digest() == bytes_before
    assert hooks() == hooks_before


def test_no_brick_is_the_bare_host_bit_for_bit(host):
    bare = logits(host, IDS)
    with composed(host, compose(host, [])):
        assert torch.equal(logits(host, IDS), bare)


def test_the_key_hashes_contents_and_strength_never_names(host):
    same_name = [compose(host, [lora(host, seed, name="skill")]).key for seed in (1, 2)]
    assert same_name[0] != same_name[1], "another adapter under the same name must not find the old one's cache"
    assert compose(host, [lora(host, 1, name="other")]).key == same_name[0]
    assert compose(host, [lora(host, 1, weight=0.5)]).key != same_name[0]
    assert compose(host, []).key != same_name[0]


def test_a_prefix_made_of_a_text_acts_like_the_text(host):
    ids = torch.tensor([[1, 40, 41, 42, 90, 91]])
    with torch.inference_mode():
        cache = host.model(input_ids=ids[:, :4], use_cache=True).past_key_values
        layers = tuple((layer.keys[0], layer.values[0]) for layer in cache.layers)
        composition = compose(host, [Prefix("cartridge", "d", layers)])
        assert composition.prefix_length == 4
        after = host.model(input_ids=ids[:, 4:], past_key_values=composition.new_cache()).logits
    # The same sums, cut at another place.
    torch.testing.assert_close(after, logits(host, ids)[:, 4:], rtol=0, atol=1e-4)


def test_two_prefixes_stand_one_after_the_other(host):
    config = host.model.config
    shape = (config.num_key_value_heads, 3, config.hidden_size // config.num_attention_heads)
    layers = tuple((torch.randn(shape), torch.randn(shape)) for _ in range(config.num_hidden_layers))
    both = compose(host, [Prefix("a", "a", layers), Prefix("b", "b", layers)])
    assert both.prefix_length == 6
    torch.testing.assert_close(both.prefix[0][0][:, 3:], layers[0][0], rtol=0, atol=0)


def test_a_gate_scales_the_ffn_neurons(host):
    name = host.gated_layers[1]
    neurons = host.linear_shapes[name][1]
    factors = torch.rand(neurons)

    model = copy.deepcopy(host.model)
    with torch.no_grad():
        dict(model.named_modules())[name].weight *= factors
        expected = model(input_ids=IDS).logits
    with composed(host, compose(host, [Gate("function", "d", {1: factors})])):
        torch.testing.assert_close(logits(host, IDS), expected, rtol=0, atol=1e-4)


def test_a_gate_acts_before_a_delta_on_the_same_layer(host):
    name, factors = host.gated_layers[0], torch.rand(host.linear_shapes[host.gated_layers[0]][1])
    delta = lora(host, 1)
    only_here = LowRank("skill", "d", {name: delta.factors[name]}, {name: 1.0})

    model = copy.deepcopy(host.model)
    a, b = only_here.factors[name]
    with torch.no_grad():
        layer = dict(model.named_modules())[name]
        layer.weight += b @ a
        layer.weight *= factors
        expected = model(input_ids=IDS).logits
    with composed(host, compose(host, [only_here, Gate("g", "g", {0: factors})])):
        torch.testing.assert_close(logits(host, IDS), expected, rtol=0, atol=1e-4)


def test_a_lora_for_another_host_is_refused_by_name(host, make_host, tmp_path):
    other = load_host(str(make_host(tmp_path / "wide", hidden_size=48)), device="cpu", dtype="float32")
    with pytest.raises(
        MattoniError,
        match=r"stranger was made for another host than .*: '.*q_proj' is 48 x 48 in it and 32 x 32 in the host",
    ):
        compose(host, [lora(other, 1, name="stranger")])


def test_a_host_that_takes_no_prefix_refuses_it_by_name(host):
    host.model.config.layer_types = ["sliding_attention"] * host.model.config.num_hidden_layers
    with pytest.raises(MattoniError, match="cartridge needs a host that supports prefix injections and tiny-host"):
        compose(host, [Prefix("cartridge", "d", ())])


def activations(host: Host, layer: int, ids: torch.Tensor) -> torch.Tensor:
    """What enters the output projection of an FFN: (positions, intermediate)."""
    caught: list[torch.Tensor] = []
    projection = host.linear_layers[host.gated_layers[layer]]
    hook = projection.register_forward_pre_hook(lambda module, args: caught.append(args[0][0]))
    logits(host, ids)
    hook.remove()
    return caught[0]


def facts_at(host: Host, positions: list[int], threshold: float = 0.999, name: str = "facts") -> Keyed:
    """Facts whose keys are met at these positions of IDS."""
    keys = activations(host, 0, IDS)[positions] * 3.0
    residuals = torch.arange(1.0, 1.0 + len(positions)).unsqueeze(1).expand(-1, host.width)
    return Keyed(name, f"{name}{positions}", 0, keys, residuals, torch.full((len(positions),), threshold))


def ffn_output(host: Host, injections: list) -> torch.Tensor:
    caught: list[torch.Tensor] = []
    with composed(host, compose(host, injections)):
        # Registered later, so that it sees what the composition has made of the output.
        projection = host.linear_layers[host.gated_layers[0]]
        hook = projection.register_forward_hook(lambda module, args, output: caught.append(output[0]))
        logits(host, IDS)
        hook.remove()
    return caught[0]


def test_a_residual_is_added_where_its_key_is_met_and_nowhere_else(host):
    bare, taught = ffn_output(host, []), ffn_output(host, [facts_at(host, [4, 2])])
    torch.testing.assert_close(taught[4], bare[4] + 1.0)
    torch.testing.assert_close(taught[2], bare[2] + 2.0)
    assert torch.equal(taught[[0, 1, 3]], bare[[0, 1, 3]])


def test_facts_of_two_bricks_act_side_by_side_and_the_nearest_key_alone(host):
    near = facts_at(host, [4])
    other = Keyed(
        "other",
        "o",
        0,
        near.keys + 0.05 * near.keys.norm() * torch.randn(1, 64).sign() / 8,
        near.residuals * 9,
        near.thresholds - 1,
    )
    taught = ffn_output(host, [other, near])
    torch.testing.assert_close(taught[4], ffn_output(host, [])[4] + 1.0)


def test_facts_that_are_not_met_leave_the_logits_bit_for_bit(host):
    never = facts_at(host, [4, 2], threshold=1.1)
    with composed(host, compose(host, [never])):
        assert torch.equal(logits(host, IDS), logits(host, IDS))
        taught = logits(host, IDS)
    assert torch.equal(taught, logits(host, IDS))


def test_facts_of_another_host_are_refused_by_name(host):
    with pytest.raises(MattoniError, match="facts adds 32 numbers at layer 9 .* made for another host"):
        compose(host, [Keyed("facts", "d", 9, torch.ones(1, 64), torch.ones(1, 32), torch.ones(1))])
