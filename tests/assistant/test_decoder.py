"""Passes over rows of several answers: the same bits as transformers for one row, the same numbers for many."""

import copy

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from assistant.host.composition import Composition, compose, composed
from assistant.host.decoder import Read, TransformersDecoder
from assistant.host.host import Host, load_host
from assistant.host.llama_decoder import LlamaDecoder, RowKeyValues, is_like_llama
from mattoni.injections import Gate, Keyed, LowRank, Prefix

SIZES = {
    "vocab_size": 384,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
KINDS = {
    "llama": LlamaConfig(**SIZES),
    "llama with yarn": LlamaConfig(**SIZES, rope_parameters=YARN),
    "llama with biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=16),
    "smollm3": SmolLM3Config(**SIZES, no_rope_layer_interval=2),
}


@pytest.fixture(params=KINDS)
def like_llama(request, tiny_host) -> Host:
    return host_of(KINDS[request.param], tiny_host)


def host_of(config, tiny_host, dtype: torch.dtype = torch.float32) -> Host:
    """A host of random weights, large enough that its next token depends on the prompt."""
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.2)
        else:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.2)
    model.to(dtype).requires_grad_(False).eval()
    return Host("tiny", model, load_host(str(tiny_host), device="cpu").tokenizer)


def skill(host: Host, seed: int, rank: int = 2) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    factors = {
        name: (
            torch.randn(rank, columns, generator=generator) * 0.2,
            torch.randn(rows, rank, generator=generator) * 0.2,
        )
        for name, (rows, columns) in host.adaptable_shapes.items()
    }
    return LowRank(f"skill{seed}", f"digest{seed}", factors, dict.fromkeys(factors, 1.0))


def cartridge(host: Host, length: int = 5) -> Prefix:
    config = host.model.config
    shape = (config.num_key_value_heads, length, getattr(config, "head_dim", None) or 8)
    layers = tuple((torch.randn(shape), torch.randn(shape)) for _ in range(config.num_hidden_layers))
    return Prefix("cartridge", "cartridge", layers)


def function(host: Host) -> Gate:
    return Gate("function", "function", {1: torch.rand(host.model.config.intermediate_size)})


def facts(host: Host, threshold: float, count: int = 3) -> Keyed:
    neurons = host.model.config.intermediate_size
    keys, residuals = torch.randn(count, neurons), torch.randn(count, host.width)
    return Keyed("facts", f"facts{threshold}", 1, keys, residuals, torch.full((count,), threshold))


def compositions(host: Host) -> list[Composition]:
    return [
        compose(host, []),
        compose(host, [skill(host, 1)]),
        compose(host, [skill(host, 1), skill(host, 2, rank=3), cartridge(host), function(host)]),
        compose(host, [cartridge(host, 3)]),
        compose(host, [function(host)]),
        compose(host, [facts(host, threshold=0.1)]),
        compose(host, [skill(host, 1), facts(host, threshold=0.05)]),
    ]


@torch.inference_mode()
def read_all(decoder, composition: Composition, pieces) -> list[torch.Tensor]:
    """Each piece's logits when they are read one after the other by a row alone."""
    key_values = decoder.new_key_values(composition)
    return [decoder.forward([Read(key_values, composition, piece)])[0] for piece in pieces]


def pieces_of(host: Host, seed: int = 0) -> list[torch.Tensor]:
    """A prompt's beginning, soft tokens, more of it, and three tokens one by one."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (7, 5, 1, 1, 1)
    ids = [torch.randint(3, 384, (1, size), generator=generator) for size in sizes]
    soft = torch.randn(1, 4, host.width, generator=generator).to(host.dtype)
    return [ids[0], soft, *ids[1:]]


@torch.inference_mode()
def by_transformers(host: Host, composition: Composition, pieces) -> list[torch.Tensor]:
    """The reference: the model's own forward."""
    cache, found = composition.new_cache(), []
    with composed(host, composition):
        for piece in pieces:
            name = "input_ids" if piece.dim() == 2 else "inputs_embeds"
            out = host.model(**{name: piece}, past_key_values=cache, use_cache=True, logits_to_keep=1)
            found.append(out.logits[0, -1])
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_row_is_transformers_bit_for_bit(like_llama, dtype):
    like_llama.model.to(dtype)
    assert is_like_llama(like_llama)
    decoder = LlamaDecoder(like_llama)
    for composition in compositions(like_llama):
        pieces = pieces_of(like_llama)
        expected = by_transformers(like_llama, composition, pieces)
        for ours, theirs in zip(read_all(decoder, composition, pieces), expected, strict=True):
            assert torch.equal(ours, theirs)


def test_rows_with_their_own_compositions_share_a_pass(like_llama):
    decoder = LlamaDecoder(like_llama)
    mixes = [*compositions(like_llama), compose(like_llama, [skill(like_llama, 1)])]
    prompts = [pieces_of(like_llama, seed) for seed in range(len(mixes))]
    alone = [read_all(decoder, mix, pieces) for mix, pieces in zip(mixes, prompts, strict=True)]
    rows = [decoder.new_key_values(mix) for mix in mixes]
    with torch.inference_mode():
        for step in range(len(prompts[0])):
            reads = [Read(row, mix, p[step]) for row, mix, p in zip(rows, mixes, prompts, strict=True)]
            together = decoder.forward(reads)
            for row in range(len(mixes)):
                # The same fp32 sums in matrix products of another shape.
                torch.testing.assert_close(together[row], alone[row][step], rtol=1e-4, atol=1e-4)


def test_rows_may_read_a_prompt_and_a_token_in_the_same_pass(like_llama):
    decoder, mix = LlamaDecoder(like_llama), compose(like_llama, [skill(like_llama, 1)])
    early, late = pieces_of(like_llama, 1), pieces_of(like_llama, 2)
    expected = [read_all(decoder, mix, pieces) for pieces in (early, late)]
    first, second = (decoder.new_key_values(mix) for _ in range(2))
    with torch.inference_mode():
        for piece in early[:3]:
            decoder.forward([Read(first, mix, piece)])
        both = decoder.forward([Read(first, mix, early[3]), Read(second, mix, late[0])])
    torch.testing.assert_close(both[0], expected[0][3], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both[1], expected[1][0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [LlamaDecoder, TransformersDecoder])
def test_a_cropped_row_reads_on_as_if_it_had_read_no_more(like_llama, make):
    decoder, mix = make(like_llama), compose(like_llama, [cartridge(like_llama)])
    first, _, second, *_ = pieces_of(like_llama)
    expected = read_all(decoder, mix, [first[:, :4], second])[-1]
    row = decoder.new_key_values(mix)
    with torch.inference_mode():
        decoder.forward([Read(row, mix, first)])
        row.crop(5 + 4)
        row.trim()
        # Four positions read alone or among seven: matrix products of another shape.
        torch.testing.assert_close(decoder.forward([Read(row, mix, second)])[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [LlamaDecoder, TransformersDecoder])
def test_a_pass_that_fails_leaves_its_rows_as_they_were(like_llama, make, monkeypatch):
    decoder, mix = make(like_llama), compose(like_llama, [])
    pieces = pieces_of(like_llama)
    expected = read_all(decoder, mix, pieces)[1]
    row = decoder.new_key_values(mix)
    with torch.inference_mode():
        decoder.forward([Read(row, mix, pieces[0])])
        # The second layer fails after the first has written its keys and values.
        layer = like_llama.model.model.layers[1].mlp
        with monkeypatch.context() as patch:
            patch.setattr(layer.down_proj, "forward", lambda *_: (_ for _ in ()).throw(RuntimeError("in the middle")))
            with pytest.raises(RuntimeError, match="in the middle"):
                decoder.forward([Read(row, mix, pieces[1])])
        assert row.length == pieces[0].shape[1]
        assert torch.equal(decoder.forward([Read(row, mix, pieces[1])])[0], expected)


def test_other_hosts_are_run_by_transformers(tiny_host):
    opt = host_of(OPTConfig(vocab_size=384, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4,
                            word_embed_proj_dim=32), tiny_host)  # fmt: skip
    sliding = host_of(MistralConfig(**SIZES, sliding_window=8), tiny_host)
    assert not is_like_llama(opt)
    assert not is_like_llama(sliding)
    mix = compose(opt, [skill(opt, 1)])
    pieces = [piece for piece in pieces_of(opt) if piece.dim() == 2]
    for ours, theirs in zip(
        read_all(TransformersDecoder(opt), mix, pieces), by_transformers(opt, mix, pieces), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_a_rows_buffer_grows_and_gives_back_what_it_does_not_need():
    row = RowKeyValues(2, 1, 4, torch.float32, torch.device("cpu"))
    row.reserve(3)
    keys = torch.randn(1, 1, 3, 4)
    row.extend(1, keys, -keys)
    row.length = 3
    row.reserve(5000)
    more = torch.randn(1, 1, 1, 4)
    all_keys, all_values = row.extend(1, more, -more)
    assert torch.equal(all_keys, torch.cat([keys, more], dim=2))
    assert torch.equal(all_values, -all_keys)
    row.trim()
    assert row.capacity == 3
    assert row.memory_bytes == 2 * 2 * 3 * 4 * 4
