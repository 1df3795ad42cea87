"""Packed matrices: as near to the plain ones as their bits allow, chosen by what the host and the processor can do."""

import pytest
import torch
from torch.nn import functional

from assistant.host.composition import compose
from assistant.host.decoder import Read
from assistant.host.host import Host, load_host
from assistant.host.llama_decoder import LlamaDecoder
from assistant.host.local import LocalEngine
from assistant.host.matrices import GROUP, PackedMatrices, choose, is_on_grid
from mattoni.errors import MattoniError

needs_fbgemm = pytest.mark.skipif(
    "fbgemm" not in torch.backends.quantized.supported_engines, reason="this build of torch has no packed kernels"
)
pytestmark = needs_fbgemm


@pytest.fixture
def host(tiny_host) -> Host:
    return load_host(str(tiny_host), device="cpu", dtype="bfloat16")


def layer(rows: int, columns: int, bias: bool = False, seed: int = 0) -> torch.nn.Linear:
    generator = torch.Generator().manual_seed(seed)
    made = torch.nn.Linear(columns, rows, bias=bias)
    with torch.no_grad():
        made.weight.copy_(torch.randn(rows, columns, generator=generator) * 0.1)
    return made.to(torch.bfloat16).requires_grad_(False)


def on_grid(rows: int, columns: int) -> torch.nn.Linear:
    """A layer whose weights are four-bit codes with a scale and a minimum, rounded to bf16."""
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(0, 16, (rows * columns // GROUP, GROUP), generator=generator).float()
    codes[:, 0], codes[:, 1] = 0, 15
    scale = torch.rand(len(codes), 1, generator=generator) * 0.02 + 0.001
    least = -scale * torch.randint(4, 12, scale.shape, generator=generator)
    made = layer(rows, columns)
    made.weight.copy_((codes * scale + least).reshape(rows, columns))
    return made


# The largest error beside the largest output that each kind may make: fp32 sums; bf16 sums; a byte; half a byte.
CLOSE = {"fp16": 1e-5, "int8": 0.02, "int4": 0.15}


@pytest.mark.parametrize("kind", CLOSE)
@pytest.mark.parametrize("positions", [1, 5, 40])
@pytest.mark.parametrize("bias", [False, True])
def test_packed_layers_give_what_the_plain_ones_do(kind, positions, bias):
    group = (layer(64, 96, bias, 0), layer(32, 96, bias, 1))
    head = layer(128, 96, seed=2)
    packed = PackedMatrices(kind, [group, (head,)])
    inputs = torch.randn(1, positions, 96).to(packed.dtype)
    for found, one in zip(
        [*packed.project(group, inputs), *packed.project((head,), inputs)], (*group, head), strict=True
    ):
        expected = functional.linear(inputs.float(), one.weight.float(), None if one.bias is None else one.bias.float())
        assert (found - expected).abs().max() <= CLOSE[kind] * expected.abs().max()


@pytest.mark.parametrize("positions", [1, 40])
def test_weights_that_are_four_bit_numbers_already_lose_nothing_in_four_bits(positions):
    one, head = on_grid(64, 96), layer(64, 96)
    packed = PackedMatrices("int4", [(one,), (head,)])
    inputs = torch.randn(1, positions, 96).bfloat16()
    expected = functional.linear(inputs.float(), one.weight.float())
    (found,) = packed.project((one,), inputs)
    # Scales and outputs are rounded to bf16, as plain bf16 rounds weights and outputs.
    assert (found - expected).abs().max() <= 0.01 * expected.abs().max()
    assert is_on_grid(one.weight)
    assert not is_on_grid(head.weight)


@pytest.mark.parametrize("kind", CLOSE)
def test_a_decoder_with_packed_matrices_reads_as_the_plain_one_does(host, kind):
    ids = torch.randint(3, 384, (1, 20), generator=torch.Generator().manual_seed(0))
    found = []
    for weights in ("bf16", kind):
        decoder, mix = LlamaDecoder(host, weights), compose(host, [])
        mix = compose(host, [], decoder.dtype)
        row = decoder.new_key_values(mix)
        with torch.inference_mode():
            decoder.forward([Read(row, mix, ids)])
            found.append(decoder.forward([Read(row, mix, ids[:, :1])])[0].float())
    # Random weights are the worst that four bits can meet.
    assert functional.cosine_similarity(*found, dim=0) > (0.9 if kind == "int4" else 0.99)


def test_packing_leaves_the_host_as_it_is(host):
    before = host.weights_digest()
    for kind in CLOSE:
        LlamaDecoder(host, kind)
    assert host.weights_digest() == before


def test_what_is_chosen_says_why(host, tiny_host, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: False)
    assert choose(host, "auto").weights == "fp16"
    assert "no bfloat16 arithmetic" in choose(host, "auto").reason
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: True)
    assert choose(host, "auto").weights == "int8"
    for linear in host.linear_layers.values():
        linear.weight.copy_(on_grid(*linear.weight.shape).weight)
    assert choose(host, "auto").weights == "int4"
    assert choose(host, "bf16").weights == "bf16"
    exact = load_host(str(tiny_host), device="cpu", dtype="float32")
    assert choose(exact, "auto").weights == "bf16"


def test_what_cannot_be_packed_is_refused_by_name_or_left_plain(host):
    with pytest.raises(
        MattoniError, match="--weights int4 is not to be had here .transformers runs this kind of host.: "
    ):
        choose(host, "int4", "transformers runs this kind of host")
    assert choose(host, "auto", "transformers runs this kind of host").weights == "bf16"


def test_an_engine_says_how_it_reads_the_weights(host):
    engine = LocalEngine(host, weights="int8")
    try:
        assert engine.info.weights == "int8 (asked for)"
    finally:
        engine.close()
