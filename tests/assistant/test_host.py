"""Hosts: where they may come from, that nothing writes to them, and what they say they support."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter, TokenType
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from assistant.host import host as host_module
from assistant.host.catalogue import HostSampling, catalogue
from assistant.host.composition import compose
from assistant.host.gguf import convert_gguf, tie_embeddings
from assistant.host.host import Host, load_host, load_plain_host, pick_device, pick_dtype, plain_host
from assistant.host.sampling import Sampling
from assistant.turn.route import Choice, Choices
from mattoni.errors import MattoniError
from mattoni.injections import Gate, LowRank, Prefix
from mattoni.inputs import Attachment
from tests.assistant.conftest import done, full_disk, png, write_adapter

IDS = torch.tensor([[1, 50, 60, 70, 80]])


def logits(host: Host) -> torch.Tensor:
    with torch.inference_mode():
        return host.model(input_ids=IDS.to(host.device)).logits


@pytest.fixture
def tiny_gguf(tiny_host: Path, tmp_path: Path) -> Path:
    """The tiny host as one GGUF file in fp32, as llama.cpp's converter writes it."""
    config = json.loads((tiny_host / "config.json").read_text())
    tokenizer = json.loads((tiny_host / "tokenizer.json").read_text())
    weights = load_file(tiny_host / "model.safetensors")
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    path = tmp_path / "gguf" / "tiny.gguf"
    path.parent.mkdir()
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    words = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    special = {token["content"] for token in tokenizer["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([word for word, _ in words])
    writer.add_token_types([TokenType.CONTROL if word in special else TokenType.NORMAL for word, _ in words])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_chat_template((tiny_host / "chat_template.jinja").read_text())
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    for name, weight in weights.items():
        values = weight.float().numpy()
        if name.startswith("model.layers."):
            _, _, layer, part = name.removesuffix(".weight").split(".", 3)
            if part in ("self_attn.q_proj", "self_attn.k_proj"):
                # llama.cpp keeps the two halves of a rotary head interleaved.
                n = heads if part.endswith("q_proj") else kv_heads
                values = values.reshape(n, 2, values.shape[0] // n // 2, -1).swapaxes(1, 2).reshape(values.shape)
            name = f"blk.{layer}.{names[part]}"
        else:
            name = {"model.embed_tokens.weight": "token_embd", "model.norm.weight": "output_norm"}[name]
        writer.add_tensor(f"{name}.weight", np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# Where a host may come from


def test_a_folder_and_a_gguf_file_of_the_same_weights_are_the_same_host(tiny_host, tiny_gguf):
    folder = load_host(str(tiny_host), "cpu", "float32")
    packed = load_host(str(tiny_gguf), "cpu", "float32")
    assert (folder.name, packed.name) == (tiny_host.name, "tiny")
    torch.testing.assert_close(logits(packed), logits(folder), rtol=0, atol=1e-5)
    assert packed.tokenizer.encode("A dog runs.") == folder.tokenizer.encode("A dog runs.")
    assert packed.tokenizer.chat_template == folder.tokenizer.chat_template


def test_a_gguf_file_is_converted_whole_or_in_one_sentence(tiny_gguf, tiny_host, tmp_path):
    for name in ("there", "full"):
        (tmp_path / name).mkdir()
    convert_gguf(tiny_gguf, tmp_path / "there")
    assert load_host(str(tmp_path / "there"), "cpu").fingerprint == load_host(str(tiny_host), "cpu").fingerprint
    with full_disk(2_000), pytest.raises(MattoniError, match=r"Cannot write in .* \(.*\): free some space\."):
        convert_gguf(tiny_gguf, tmp_path / "full")


def test_a_hub_id_is_loaded_from_what_was_fetched(tiny_host, tmp_path, monkeypatch):
    """The Hub's own cache, as `hf download` leaves it; no network is asked."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--somebody--tiny"
    shutil.copytree(tiny_host, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    host = load_host("somebody/tiny", "cpu", "float32")
    assert host.name == "somebody/tiny"
    assert host.fingerprint == load_host(str(tiny_host), "cpu", "float32").fingerprint


def test_a_catalogue_name_is_the_folder_in_the_cache(tiny_host, home):
    target = home / "cache" / "models" / "smollm2-135m-instruct"
    shutil.copytree(tiny_host, target)
    for name in ("builtin", "smollm2-135m-instruct"):
        assert load_host(name, "cpu", "float32").name == "smollm2-135m-instruct"


def test_what_is_no_host_is_one_sentence_each(tmp_path, tiny_host, tiny_gguf):
    with pytest.raises(MattoniError, match=r"There is no host 'nowhere' \(known: smollm2-135m-instruct, "):
        load_host("nowhere")
    with pytest.raises(MattoniError, match="'all-minilm-l6-v2' is an embedder, not a host: choose one with"):
        load_host("all-minilm-l6-v2")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        MattoniError, match=r"empty: this host cannot be loaded \(.*\): check the id, the folder or the"
    ):
        load_host(str(tmp_path / "empty"))
    with pytest.raises(
        MattoniError, match=r"nobody/nothing: this host cannot be loaded \(.*\): check the id, the fold"
    ):
        load_host("nobody/nothing")
    tiny_gguf.write_bytes(tiny_gguf.read_bytes()[:3000])
    with pytest.raises(MattoniError, match=r"tiny: this host cannot be loaded \(.*\): check the id, the folder or the"):
        load_host(str(tiny_gguf))
    cut = tmp_path / "cut"
    shutil.copytree(tiny_host, cut)
    (cut / "model.safetensors").write_bytes((tiny_host / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(MattoniError, match=r"cut: this host cannot be loaded \(.*\): check the id, the folder or the"):
        load_host(str(cut))


def test_an_encoder_decoder_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", "is_encoder_decoder": True}))
    with pytest.raises(MattoniError, match="this is an encoder-decoder; a host must be a decoder-only language model"):
        load_host(str(tmp_path))


def test_a_pickled_host_is_refused_and_not_run(tiny_host, tmp_path):
    shutil.copytree(tiny_host, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    torch.save(load_file(tiny_host / "model.safetensors"), tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(MattoniError, match=r"pickled: this host cannot be loaded \(.*safetensors"):
        load_host(str(tmp_path / "pickled"))


def test_one_matrix_stays_where_a_file_holds_the_embeddings_twice_rounded_in_two_ways(tiny_host, tmp_path):
    """As in Qwen2.5-Coder-0.5B: a quarter of its memory, and the finer rounding is the output's."""
    model = AutoModelForCausalLM.from_pretrained(tiny_host, dtype=torch.float32)
    shared = model.get_input_embeddings().weight.detach()
    for difference, is_one in ((0.04, True), (0.5, False)):
        model.lm_head.weight = torch.nn.Parameter(shared.clone())
        rough = shared + difference * shared.std() * torch.randn_like(shared)
        model.get_input_embeddings().weight = torch.nn.Parameter(rough)
        model.config.tie_word_embeddings = False
        tie_embeddings(model)
        model.save_pretrained(tmp_path / str(difference))
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / str(difference), dtype=torch.float32)
        expected = shared if is_one else rough
        torch.testing.assert_close(loaded.get_input_embeddings().weight.detach(), expected, rtol=0, atol=0)
        torch.testing.assert_close(loaded.lm_head.weight.detach(), shared, rtol=0, atol=0)
        assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == is_one


# How it speaks


def write_generation_config(folder: Path, **values: object) -> None:
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(config | values))


def test_a_hosts_own_generation_config_wins_and_the_catalogue_fills_what_it_leaves_out(tiny_host, home, monkeypatch):
    entry = catalogue()["smollm2-135m-instruct"].model_copy(
        update={"sampling": HostSampling(temperature=0.5, top_k=20), "stop": ("<|endoftext|>",), "system": "You are M."}
    )
    monkeypatch.setattr(host_module, "catalogue", lambda: {"smollm2-135m-instruct": entry})
    target = home / "cache" / "models" / "smollm2-135m-instruct"
    shutil.copytree(tiny_host, target)
    write_generation_config(target, temperature=0.7, top_p=0.8, repetition_penalty=1.1, do_sample=True)
    host = load_host("builtin", "cpu", "float32")
    assert host.sampling == HostSampling(temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.1)
    assert host.stop_ids == {0, 2}, "its own and the catalogue's"
    assert host.system == "You are M."


def test_a_host_that_says_nothing_and_one_that_says_nonsense_leave_it_to_others(tiny_host, tmp_path, host):
    assert host.sampling == HostSampling() and host.system is None and host.stop_ids == {2}
    shutil.copytree(tiny_host, tmp_path / "odd")
    write_generation_config(tmp_path / "odd", repetition_penalty=-3.0)
    assert load_host(str(tmp_path / "odd"), "cpu").sampling == HostSampling()


# Device and dtype


def test_the_layer_that_gives_the_logits_gets_rows_without_gaps(host):
    ids = torch.arange(12).view(3, 4)
    seen = []
    handle = host.model.get_output_embeddings().register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        last = host.model(ids, logits_to_keep=1).logits
    handle.remove()
    assert not host.model.base_model(ids).last_hidden_state[:, -1:].is_contiguous()
    assert [rows.is_contiguous() for rows in seen] == [True]
    torch.testing.assert_close(last, host.model(ids).logits[:, -1:])


def test_auto_is_the_best_device_there_is_and_bf16(monkeypatch):
    there = {"cuda": False, "mps": False}
    monkeypatch.setattr("torch.cuda.is_available", lambda: there["cuda"])
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: there["mps"])
    assert pick_device("auto") == torch.device("cpu")
    there["mps"] = True
    assert pick_device("auto") == torch.device("mps")
    there["cuda"] = True
    assert pick_device("auto") == torch.device("cuda") and pick_device("cuda:1") == torch.device("cuda:1")
    assert pick_dtype("auto") == torch.bfloat16 and pick_dtype("float32") == torch.float32


@pytest.mark.parametrize("named", ["cuda", "cuda:3", "tpu"])
def test_a_device_that_is_not_there_and_an_unknown_dtype_name_the_choices(monkeypatch, named):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(MattoniError, match=f"There is no device '{named}' here: choose one of auto, cpu."):
        pick_device(named)
    with pytest.raises(MattoniError, match="There is no dtype 'int3': choose one of auto, bfloat16, float16, float32"):
        pick_dtype("int3")


def test_four_bits_need_cuda(tiny_host):
    with pytest.raises(MattoniError, match="4-bit weights need a CUDA device and this one is cpu: leave quantise out."):
        load_host(str(tiny_host), "cpu", quantise="4bit")


# Frozen


def test_a_days_work_changes_no_byte_of_the_host(assistant, tmp_path):
    """Turns with skills, pictures, documents, knowledge, a stop and errors: the weights are the same bytes before and after."""
    host, before = assistant.host, assistant.host.weights_digest()
    assert not any(parameter.requires_grad for parameter in host.model.parameters()) and not host.model.training
    bare = logits(host)
    for seed, name in enumerate(("first", "second")):
        assistant.add_skill(write_adapter(tmp_path / name, host, seed), name)
    assistant.add_knowledge("notes", [Attachment("mortar.md", b"Mortar is made of sand, lime and water.")])
    hot = Sampling(temperature=1.5, max_tokens=15, seed=1)
    for number in range(4):
        talk = assistant.store.new()
        for bricks in ({}, {"first": Choice("on", 2.0)}, {"first": Choice("on", 0.5), "second": Choice("on", -1.0)}):
            files = [png(), Attachment("a.txt", b"A note.")] if number % 2 else [Attachment("a.png", b"\x89PNG")]
            choices = Choices(vision="eyes", bricks=bricks)
            assert done(assistant.ask("What is mortar made of?", files, choices, hot, talk)).error is None
        ticket = assistant.ask("go on", (), choices, Sampling(max_tokens=2000), talk)
        ticket.stop()
        assert done(ticket).status == "stopped"
        with pytest.raises(MattoniError):
            assistant.ask("hello", (), Choices(bricks={"third": Choice("on")}), hot, talk)
    assistant.remove_brick("first")
    assert host.weights_digest() == before
    assert torch.equal(logits(host), bare)
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in host.model.parameters())


# Fingerprint


def test_a_fingerprint_is_that_of_the_weights_and_not_of_the_name_or_dtype(tiny_host, make_host, tmp_path):
    shutil.copytree(tiny_host, tmp_path / "renamed")
    hosts = {
        "same": load_host(str(tiny_host), "cpu", "float32"),
        "renamed": load_host(str(tmp_path / "renamed"), "cpu", "float32"),
        "bf16": load_host(str(tiny_host), "cpu", "bfloat16"),
        "retrained": load_host(str(make_host(tmp_path / "retrained", seed=1)), "cpu", "float32"),
        "wider": load_host(str(make_host(tmp_path / "wider", hidden_size=48)), "cpu", "float32"),
    }
    prints = {name: host.fingerprint for name, host in hosts.items()}
    assert prints["same"] == prints["renamed"] == prints["bf16"]
    assert len({prints["same"], prints["retrained"], prints["wider"]}) == 3
    assert hosts["retrained"].identity.vocabulary == hosts["same"].identity.vocabulary


# What it supports


def test_a_llama_takes_all_four_injections(host):
    assert host.supports == {"sequence", "low-rank", "prefix", "gate", "keyed"}
    assert host.gated_layers == {0: "model.layers.0.mlp.down_proj", 1: "model.layers.1.mlp.down_proj"}
    assert host.linear_shapes["model.layers.0.mlp.down_proj"] == (32, 64) and "lm_head" not in host.linear_shapes


def test_a_host_with_learned_positions_says_so_and_the_composer_refuses_by_name(tmp_path, tiny_host):
    from transformers import AutoTokenizer, OPTConfig, OPTForCausalLM

    config = OPTConfig(
        vocab_size=384, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=32,
        max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    OPTForCausalLM(config).save_pretrained(tmp_path / "opt")
    AutoTokenizer.from_pretrained(tiny_host).save_pretrained(tmp_path / "opt")
    opt = load_host(str(tmp_path / "opt"), "cpu", "float32")
    assert opt.supports == {"sequence", "low-rank"}
    compose(opt, [LowRank("skill", "d", {}, {})])
    for injection, need in [(Prefix("cartridge", "d", ()), "prefix"), (Gate("function", "d", {}), "gate")]:
        with pytest.raises(
            MattoniError,
            match=f"{injection.name} needs a host that supports {need} injections and opt supports low-rank, sequence: ",
        ):
            compose(opt, [injection])


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_training_computes_in_the_type_that_the_processor_does_not_imitate(
    tiny_host, monkeypatch, has_bf16, expected
):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16)
    host = load_plain_host(str(tiny_host), device="cpu")
    assert host.dtype == expected
    assert host.fingerprint == load_host(str(tiny_host), device="cpu").fingerprint, (
        "what it learns fits the host as it answers"
    )


def test_a_host_that_is_there_is_copied_in_fp32_where_its_processor_imitates_bf16(tiny_host, monkeypatch):
    host = load_host(str(tiny_host), device="cpu")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    plain = plain_host(host)
    assert (plain.dtype, host.dtype) == (torch.float32, torch.bfloat16) and plain.fingerprint == host.fingerprint
    assert plain_host(plain) is plain
    monkeypatch.setattr("assistant.host.host.free_memory", lambda: 0)
    assert plain_host(host) is host, "there is no memory for a copy"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert plain_host(host) is host
