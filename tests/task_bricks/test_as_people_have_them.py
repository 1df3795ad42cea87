"""Adapters as people have them: each kind comes in with the logits that peft gives, or is refused by name with a way out."""

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import mattoni.torchvision_ops  # noqa: F401

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from assistant.host.composition import compose, composed
from assistant.host.host import Host, load_host
from assistant.registry import Brick, check_brick
from mattoni.card import read_card
from mattoni.errors import MattoniError
from task_bricks.importing import import_skill
from task_bricks.lora import _UNSUPPORTED, HARMLESS, read_lora

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*save_embedding_layers:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*tied:UserWarning"),
]
IDS = torch.arange(3, 40).unsqueeze(0)
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."


@pytest.fixture(scope="module")
def host(tiny_host: Path) -> Host:
    return load_host(str(tiny_host), device="cpu", dtype="float32")


@pytest.fixture
def source(make_adapter) -> Path:
    return make_adapter("short-answers")


def pefts(tiny_host: Path, folder: Path, place: str = "") -> Tensor:
    """The logits that peft gives; `place` is the part of the host that the adapter was trained on."""
    model = AutoModelForCausalLM.from_pretrained(tiny_host, dtype=torch.float32)
    part = model.get_submodule(place)
    adapted = PeftModel.from_pretrained(part, folder).eval()
    with torch.no_grad():
        return (model.eval() if place else adapted)(IDS).logits


def ours(host: Host, brick: Path) -> Tensor:
    with torch.no_grad(), composed(host, compose(host, [read_lora(brick)])):
        return host.model(IDS).logits


def comes_in(source: Path, tmp_path: Path, host: Host, expected: Tensor, name: str | None = None) -> Path:
    """The brick that the source becomes: usable, its logits peft's (fp32, 1e-4: the sums run in another order)."""
    brick = import_skill(source, tmp_path / "bricks", name, host)
    assert isinstance(check_brick(brick), Brick)
    assert {path.name for path in brick.iterdir()} <= {CONFIG, WEIGHTS, "README.md", "brick.yaml"}
    torch.testing.assert_close(ours(host, brick), expected, rtol=0, atol=1e-4)
    bare = host.model(IDS).logits
    assert (expected - bare).abs().max() > 0.1  # it was applied
    return brick


def refused(source: str | Path, tmp_path: Path, host: Host, *parts: str) -> str:
    with pytest.raises(MattoniError) as problem:
        import_skill(source, tmp_path / "bricks", None, host)
    sentence = str(problem.value)
    for part in parts:
        assert part in sentence, sentence
    assert "\n" not in sentence and sentence.endswith((".", ")"))
    assert not (tmp_path / "bricks").exists() or not any((tmp_path / "bricks").iterdir())
    return sentence


def rename(folder: Path, new: Callable[[str], str]) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({new(name): tensor for name, tensor in tensors.items()}, folder / WEIGHTS)


def add(folder: Path, **tensors: Tensor) -> None:
    save_file({**load_file(folder / WEIGHTS), **tensors}, folder / WEIGHTS)


# Names


@pytest.mark.parametrize(
    "new",
    [
        lambda n: n.replace("_A.weight", "_A.default.weight").replace("_B.weight", "_B.default.weight"),
        lambda n: n.replace("_A.weight", "_A.french.weight").replace("_B.weight", "_B.french.weight"),
        lambda n: n.replace(PREFIX, PREFIX + "_orig_mod."),
        lambda n: n.replace(PREFIX, "base_model._orig_mod.model."),
        lambda n: n.replace("self_attn.", "_checkpoint_wrapped_module._fsdp_wrapped_module.self_attn."),
        lambda n: "module." + n,
        lambda n: PREFIX + n,
        lambda n: n.removeprefix(PREFIX),
        lambda n: n.removeprefix(PREFIX + "model."),
        lambda n: n.replace(PREFIX + "model.", PREFIX + "model.language_model."),
        lambda n: n.replace(PREFIX + "model.", PREFIX),
    ],
    ids=[
        "default", "an adapter's name", "orig mod", "orig mod early", "fsdp", "ddp", "doubled", "missing", "bare",
        "language model", "no inner model",
    ],
)  # fmt: skip
def test_other_names_of_the_same_layers(source, host, tiny_host, tmp_path, new):
    expected = pefts(tiny_host, source)
    rename(source, new)
    brick = comes_in(source, tmp_path, host, expected)
    torch.testing.assert_close(pefts(tiny_host, brick), expected, rtol=0, atol=1e-5)  # any peft reads the brick


def test_an_adapter_trained_on_the_model_without_its_head(tiny_host, host, tmp_path, edit_config):
    """Its layers are `layers.0…`, and peft puts it on the host's `model`; ranks and alphas go by patterns."""
    inner = AutoModelForCausalLM.from_pretrained(tiny_host, dtype=torch.float32).model
    options = {"rank_pattern": {"^layers.1.mlp.up_proj": 2}, "alpha_pattern": {"v_proj": 3}, "use_rslora": True}
    adapted = get_peft_model(inner, LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", **options))
    for parameter in (p for n, p in adapted.named_parameters() if "lora_" in n):
        torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(tmp_path / "inner")
    brick = comes_in(tmp_path / "inner", tmp_path, host, pefts(tiny_host, tmp_path / "inner", "model"))
    torch.testing.assert_close(ours(host, brick), pefts(tiny_host, brick), rtol=0, atol=1e-4)


def test_a_layer_under_two_names_is_refused(source, host, tmp_path):
    tensors = load_file(source / WEIGHTS)
    name = next(n for n in tensors if "q_proj.lora_A" in n)
    pair = {name, name.replace("lora_A", "lora_B")}
    add(source, **{n.replace(PREFIX + "model.", PREFIX): tensors[n].clone() for n in pair})
    refused(source, tmp_path, host, "twice, under two names", "save_pretrained()")


def test_two_adapters_in_one_file_are_named(source, host, tmp_path):
    tensors = load_file(source / WEIGHTS)
    both = {n.replace(".weight", f".{a}.weight"): t.clone() for n, t in tensors.items() for a in ("french", "german")}
    save_file(both, source / WEIGHTS)
    refused(source, tmp_path, host, "holds 2 adapters (french, german)", "bring in the folder of one")


# Places


@pytest.mark.parametrize("depth", ["", "lora_model/", "content/drive/lora_model/"])
@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".tgz", ".tar", ".tar.xz"])
def test_an_archive_whose_adapter_lies_some_folders_down(source, host, tiny_host, tmp_path, depth, suffix):
    archive = pack(source, tmp_path / f"Short answers{suffix}", depth)
    brick = comes_in(archive, tmp_path, host, pefts(tiny_host, source))
    assert brick.name == "short-answers"


def pack(folder: Path, path: Path, inside: str = "") -> Path:
    """An archive with what a Mac, a notebook and a trainer leave beside an adapter."""
    extra = {
        f"__MACOSX/{inside}._{CONFIG}": b"\0\5\x16\7",
        f"{inside}._{WEIGHTS}": b"\0\5\x16\7",
        f"{inside}.DS_Store": b"x",
        f"{inside}training_args.bin": b"\x80\5.",
        f"{inside}optimizer.pt": b"\x80\5.",
        f"{inside}tokenizer.json": b"{}",
    }
    extra = {name: content for name, content in extra.items() if not (folder / Path(name).name).exists()}
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in folder.iterdir():
                archive.write(file, inside + file.name)
            for name, content in extra.items():
                archive.writestr(name, content)
        return path
    mode = {"tar": "w", "xz": "w:xz"}.get(path.name.rsplit(".", 1)[1], "w:gz")
    with tarfile.open(path, mode) as archive:
        for file in folder.iterdir():
            archive.add(file, inside + file.name)
        for name, content in extra.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def test_a_zip_with_backslashes(source, host, tiny_host, tmp_path):
    with zipfile.ZipFile(tmp_path / "windows.zip", "w") as archive:
        for name in (CONFIG, WEIGHTS):
            archive.writestr(zipfile.ZipInfo(f"out\\lora\\{name}"), (source / name).read_bytes())
    comes_in(tmp_path / "windows.zip", tmp_path, host, pefts(tiny_host, source))


def test_only_checkpoints_the_newest_is_taken_and_it_is_said(make_adapter, host, tiny_host, tmp_path):
    run = tmp_path / "my-run"
    for step in (5, 90, 100):
        shutil.move(make_adapter(f"c{step}", seed=step), run / f"checkpoint-{step}")
        (run / f"checkpoint-{step}" / "optimizer.pt").write_bytes(b"\x80\5.")
    brick = comes_in(run, tmp_path, host, pefts(tiny_host, run / "checkpoint-100"))
    assert brick.name == "my-run"
    assert read_card(brick).notes == ("The adapter is that of checkpoint-100, the newest of 3 checkpoints.",)


def test_a_finished_adapter_beside_checkpoints_is_taken(make_adapter, host, tiny_host, tmp_path):
    run = make_adapter("run", seed=1)
    shutil.move(make_adapter("c9", seed=9), run / "checkpoint-9")
    brick = comes_in(run, tmp_path, host, pefts(tiny_host, run))
    assert read_card(brick).notes == ()


def test_peft_keeps_further_adapters_inside_the_first_ones_folder(make_adapter, host, tiny_host, tmp_path):
    first = make_adapter("first", seed=1)
    shutil.move(make_adapter("german", seed=2), first / "german")
    brick = comes_in(first, tmp_path, host, pefts(tiny_host, first))
    assert "further adapters (german)" in read_card(brick).notes[0]
    comes_in(first / "german", tmp_path, host, pefts(tiny_host, first / "german"))


def test_a_checkpoint_is_called_after_its_run(source, host, tmp_path):
    shutil.move(source, tmp_path / "my-run" / "checkpoint-20")
    brick = import_skill(tmp_path / "my-run" / "checkpoint-20", tmp_path / "bricks", None, host)
    assert brick.name == "my-run"


def test_of_two_adapters_in_a_folder_one_must_be_named(make_adapter, host, tiny_host, tmp_path):
    both = tmp_path / "both"
    for seed, name in enumerate(("french", "german")):
        shutil.move(make_adapter(name, seed=seed), both / name)
    refused(both, tmp_path, host, "both holds 2 adapters (french, german): name the folder of one of them.")
    comes_in(both / "german", tmp_path, host, pefts(tiny_host, both / "german"))
    shutil.rmtree(both / "french")
    comes_in(both, tmp_path, host, pefts(tiny_host, both / "german"))


@pytest.mark.parametrize(
    "name", [WEIGHTS, "pytorch_lora_weights.safetensors", "adapter.safetensors", "Mine.safetensors"]
)
@pytest.mark.parametrize("as_file", [True, False])
def test_a_single_file_with_its_configuration_beside(source, host, tiny_host, tmp_path, name, as_file):
    expected = pefts(tiny_host, source)
    (source / WEIGHTS).rename(source / name)
    brick = comes_in(source / name if as_file else source, tmp_path, host, expected)
    assert brick.name == ("mine" if as_file and name.startswith("Mine") else "short-answers")


def test_a_single_file_without_its_configuration_says_what_is_missing(source, host, tmp_path):
    (source / CONFIG).unlink()
    refused(source / WEIGHTS, tmp_path, host, f"{WEIGHTS} comes without {CONFIG}", "beside it")
    refused(source, tmp_path, host, f"holds {WEIGHTS} and no {CONFIG}", "beside it")


def test_several_files_to_choose_from(source, host, tiny_host, tmp_path):
    expected = pefts(tiny_host, source)
    shutil.copy(source / WEIGHTS, source / "first.safetensors")
    (source / WEIGHTS).rename(source / "second.safetensors")
    refused(source, tmp_path, host, "first.safetensors, second.safetensors", "name the file to take")
    comes_in(source / "second.safetensors", tmp_path, host, expected)


def hub_cache(folder: Path, source: Path) -> Path:
    """As the Hub's client keeps a repository: a snapshot of links to blobs."""
    snapshot = folder / "hub" / "models--someone--their-lora" / "snapshots" / "0a1b2c"
    blobs, refs = snapshot.parents[1] / "blobs", snapshot.parents[1] / "refs"
    for place in (snapshot, blobs, refs):
        place.mkdir(parents=True)
    (refs / "main").write_text("0a1b2c")
    for number, name in enumerate((CONFIG, WEIGHTS)):
        shutil.copy(source / name, blobs / f"blob{number}")
        (snapshot / name).symlink_to(Path("../../blobs") / f"blob{number}")
    return snapshot


def test_a_folder_of_the_hubs_cache_comes_in_under_the_repositorys_name(source, host, tiny_host, tmp_path):
    snapshot = hub_cache(tmp_path, source)
    brick = comes_in(snapshot, tmp_path, host, pefts(tiny_host, source))
    assert (brick.name, read_card(brick).training["imported_from"]) == ("their-lora", "someone/their-lora")
    assert not any(path.is_symlink() for path in brick.iterdir())
    comes_in(snapshot.parents[1], tmp_path, host, pefts(tiny_host, source), "whole-repository")
    with tarfile.open(tmp_path / "packed.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "hub", "hub")
    comes_in(tmp_path / "packed.tar.gz", tmp_path, host, pefts(tiny_host, source))


def test_a_link_out_of_the_folder_is_refused(source, host, tmp_path):
    shutil.copy(source / WEIGHTS, tmp_path / "elsewhere.safetensors")
    snapshot = hub_cache(tmp_path, source)
    for folder in (source, snapshot):
        (folder / WEIGHTS).unlink()
        (folder / WEIGHTS).symlink_to(tmp_path / "elsewhere.safetensors")
        refused(folder, tmp_path, host, "is a link that leads out of the folder", "replace it by the file")
    with tarfile.open(tmp_path / "out.tar.gz", "w:gz") as archive:
        archive.add(source, "lora")
    refused(tmp_path / "out.tar.gz", tmp_path, host, "is a link out of it")


def test_a_link_among_the_other_files_is_refused_too(source, host, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (source / "README.md").unlink(missing_ok=True)
    (source / "README.md").symlink_to(tmp_path / "secret")
    refused(source, tmp_path, host, "README.md is a link that leads out of the folder")


@pytest.mark.parametrize("page", ["", "/", "/tree/main", "?library=peft"])
def test_the_address_of_a_page_of_the_hub(source, host, tmp_path, page):
    def download(hub_id: str) -> Path:
        assert hub_id == "someone/their-lora"
        return source

    address = f"https://huggingface.co/someone/their-lora{page}"
    assert import_skill(address, tmp_path / "bricks", None, host, download).name == "their-lora"


def test_a_brick_of_another_kind_is_no_adapter(host, tmp_path):
    (tmp_path / "eyes").mkdir()
    (tmp_path / "eyes" / "brick.yaml").write_text("name: eyes")
    refused(tmp_path / "eyes", tmp_path, host, "is a brick of Mattoni's own and no adapter", "copy its folder")


def test_a_sentence_names_the_archive_or_the_repository(source, host, tmp_path, edit_config):
    edit_config(source, use_dora=True)
    refused(pack(source, tmp_path / "Mine.tar.gz"), tmp_path, host, "Mine/adapter_config.json uses DoRA")
    refused(hub_cache(tmp_path, source), tmp_path, host, "someone/their-lora/adapter_config.json uses DoRA")


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.xz", ".tar", ".zip"])
@pytest.mark.parametrize("keep", [3, 40, 700, 2000])
def test_an_archive_that_is_cut_short(source, host, tmp_path, suffix, keep):
    archive = pack(source, tmp_path / f"cut{suffix}")
    archive.write_bytes(archive.read_bytes()[:keep])
    refused(archive, tmp_path, host, f"cut{suffix}")


# Formats


@pytest.mark.parametrize("name", [WEIGHTS, "adapter_model.bin"])
def test_what_was_never_fetched(source, host, tmp_path, name):
    (source / WEIGHTS).unlink()
    (source / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n")
    refused(source, tmp_path, host, "only points to the weights", "git lfs pull")
    (source / name).write_text("<!DOCTYPE html><html><body>Sign in</body></html>")
    refused(source, tmp_path, host, "is a web page", "download the file itself")


@pytest.mark.parametrize("old", [False, True])
def test_a_pickle_is_read_without_running_it_and_becomes_safetensors(source, host, tiny_host, tmp_path, old):
    expected = pefts(tiny_host, source)
    torch.save(load_file(source / WEIGHTS), source / "adapter_model.bin", _use_new_zipfile_serialization=not old)
    torch.save({"lr": 1}, source / "training_args.bin")
    (source / WEIGHTS).unlink()
    comes_in(source, tmp_path, host, expected)
    comes_in(pack(source, tmp_path / "pickled.zip", "a/b/"), tmp_path, host, expected)
    comes_in(source / "adapter_model.bin", tmp_path, host, expected, "as-a-file")


class Bomb:
    """Unpickling it would be seen."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


def test_a_pickle_that_holds_more_than_weights_is_refused_and_not_run(source, host, tmp_path):
    (source / WEIGHTS).unlink()
    torch.save({"a": Bomb()}, source / "adapter_model.bin")
    refused(source, tmp_path, host, "is a pickle with more than weights in it", "save_pretrained()")
    torch.save([torch.zeros(1)], source / "adapter_model.bin")
    refused(source, tmp_path, host, "is a pickle that holds no weights by name")
    (source / "adapter_model.bin").write_bytes((source / "adapter_model.bin").read_bytes()[:300])
    refused(source, tmp_path, host, "truncated or damaged")


def shard(source: Path) -> None:
    tensors = sorted(load_file(source / WEIGHTS).items())
    (source / WEIGHTS).unlink()
    for number in range(3):
        save_file(dict(tensors[number::3]), source / f"adapter_model-{number + 1:05}-of-00003.safetensors")
    (source / "adapter_model.safetensors.index.json").write_text("{}")


def test_shards_come_in_as_one_file_and_a_missing_one_is_told(source, host, tiny_host, tmp_path):
    expected = pefts(tiny_host, source)
    shard(source)
    comes_in(source, tmp_path, host, expected)
    comes_in(source / "adapter_model-00002-of-00003.safetensors", tmp_path, host, expected, "by-one-of-them")
    (source / "adapter_model-00002-of-00003.safetensors").unlink()
    with pytest.raises(MattoniError, match=r"holds 2 of the adapter's 3 files \(number 00002 is missing"):
        import_skill(source, tmp_path / "bricks", "other", host)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn, torch.float8_e5m2])
def test_every_kind_of_float(source, host, tiny_host, tmp_path, kind):
    """peft 0.21 keeps eight-bit factors as they are and cannot multiply them: it gets their values in fp32."""
    tensors = {name: tensor.to(kind) for name, tensor in load_file(source / WEIGHTS).items()}
    save_file({name: tensor.float() for name, tensor in tensors.items()}, source / WEIGHTS)
    expected = pefts(tiny_host, source)
    save_file(tensors, source / WEIGHTS)
    comes_in(source, tmp_path, host, expected)


@pytest.mark.parametrize("name", ["short.gguf", "model-f16.GGUF"])
def test_gguf_is_refused_with_the_way_out(source, host, tmp_path, name):
    (tmp_path / name).write_bytes(b"GGUF")
    refused(tmp_path / name, tmp_path, host, "llama.cpp's format", "the PEFT folder that it was converted from")
    (source / WEIGHTS).unlink()
    shutil.copy(tmp_path / name, source / name)
    refused(source, tmp_path, host, "llama.cpp's format", "the PEFT folder that it was converted from")
    (source / CONFIG).unlink()
    refused(source, tmp_path, host, "llama.cpp's format", "the PEFT folder that it was converted from")


# What is beside the factors of linear layers


def test_a_lora_on_the_output_layer_equals_pefts(make_adapter, host, tiny_host, tmp_path):
    """The host's word embeddings are the same matrix, and stay as they are; peft saves copies of both beside the factors."""
    source = make_adapter(target_modules=["q_proj", "lm_head"])
    assert any("base_layer" in name for name in load_file(source / WEIGHTS))
    brick = comes_in(source, tmp_path, host, pefts(tiny_host, source))
    assert any("left out; the adapter does not train them" in note for note in read_card(brick).notes)


def test_a_lora_on_the_output_layer_of_a_host_that_ties_nothing(tiny_host, make_adapter, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_host)
    untied = tmp_path / "untied"
    shutil.copytree(tiny_host, untied)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    model.save_pretrained(untied)
    source = make_adapter(host=untied, target_modules=["q_proj", "lm_head"])
    host = load_host(str(untied), device="cpu", dtype="float32")
    comes_in(source, tmp_path, host, pefts(untied, source))


def test_the_whole_state_of_a_peft_model(source, host, tiny_host, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_host, dtype=torch.float32)
    state = PeftModel.from_pretrained(model, source).state_dict()
    expected = pefts(tiny_host, source)
    (source / WEIGHTS).unlink()
    torch.save(state, source / "adapter_model.bin")
    brick = comes_in(source, tmp_path, host, expected)
    assert "Copies of the host's own weights" in read_card(brick).notes[0]


def test_what_cannot_be_composed_is_refused_by_its_name(source, host, tmp_path):
    q, width, words = PREFIX + "model.layers.0.self_attn.q_proj", 32, 384
    kept = (source / WEIGHTS).read_bytes()
    for name, tensor, said in [
        ("base_model.model.lm_head.modules_to_save.weight", torch.zeros(words, width), "modules_to_save"),
        ("base_model.model.lm_head.weight", torch.ones(words, width), "'lm_head.weight' as a whole, retrained"),
        ("base_model.model.model.embed_tokens.weight", torch.zeros(words + 2, width), "a resized vocabulary"),
        (
            "base_model.model.model.embed_tokens.lora_embedding_A",
            torch.zeros(4, words),
            "a LoRA on the word embeddings",
        ),
        (f"{q}.lora_magnitude_vector.weight", torch.ones(width), "DoRA"),
        (f"{q}.lora_B.bias", torch.ones(width), "lora_bias"),
        (f"{q}.base_layer.bias", torch.ones(width), "biases"),
        (f"{q}.lora_E", torch.ones(4, 1), "AdaLoRA"),
        (f"{q}.hada_w1_a", torch.ones(4, 4), "LoHa"),
        ("lora_unet_down_blocks_0.lora_down.weight", torch.ones(4, 4), "picture generators"),
        ("something.else", torch.ones(4), "'something.else', which is no LoRA factor"),
    ]:
        (source / WEIGHTS).write_bytes(kept)
        add(source, **{name: tensor})
        sentence = refused(source, tmp_path, host, said, "merge_and_unload()", "--host")
        assert "another host" not in sentence


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("IA3", "IA³"), ("PREFIX_TUNING", "prefix tuning"), ("PROMPT_TUNING", "prompt tuning"), ("LOHA", "LoHa"),
        ("VERA", "VeRA"), ("ADALORA", "AdaLoRA"), ("NEWEST", "'NEWEST'"),
    ],
)  # fmt: skip
def test_other_methods_are_refused_by_name_before_anything_else(source, host, tmp_path, edit_config, kind, said):
    edit_config(source, peft_type=kind)
    (source / WEIGHTS).unlink()
    refused(source, tmp_path, host, f"the PEFT type is {kind!r}", said, "train a LoRA")


def test_other_tasks_and_mlx_are_refused_by_name(source, host, tmp_path, edit_config):
    edit_config(source, task_type="SEQ_CLS", modules_to_save=["classifier", "score"])
    refused(source, tmp_path, host, "to sort texts into classes (task_type SEQ_CLS)", "CAUSAL_LM")
    (source / CONFIG).write_text(json.dumps({"fine_tune_type": "lora", "lora_parameters": {"rank": 8, "scale": 20.0}}))
    refused(source, tmp_path, host, "an adapter of MLX", "train it with peft")


def test_modules_to_save_names_its_layers(make_adapter, host, tmp_path):
    source = make_adapter(modules_to_save=["lm_head", "embed_tokens"])
    refused(source, tmp_path, host, "modules_to_save (whole retrained layers)", "on lm_head, embed_tokens", "--host")


def test_a_whole_model_is_not_taken_for_an_adapter(source, host, tiny_host, tmp_path):
    shutil.copytree(tiny_host, tmp_path / "merged")
    refused(tmp_path / "merged", tmp_path, host, "merged holds a whole model and no adapter", "--host")
    refused(pack(tmp_path / "merged", tmp_path / "m.zip", "x/y/"), tmp_path, host, "holds a whole model", "--host")
    shutil.copy(tiny_host / "model.safetensors", source / WEIGHTS)
    refused(source, tmp_path, host, "holds whole weights and no LoRA factors", "merged", "--host")


# Configurations


def test_every_option_of_this_peft_is_known(source):
    """Those of a later one are found here first: read them, or refuse them by name."""
    assert set(LoraConfig.__dataclass_fields__) - HARMLESS <= set(_UNSUPPORTED)
    assert set(json.loads((source / CONFIG).read_text())) <= HARMLESS | set(_UNSUPPORTED)


def test_options_of_a_newer_peft_at_their_defaults(source, host, tiny_host, tmp_path, edit_config):
    expected = pefts(tiny_host, source)
    config = json.loads((source / CONFIG).read_text())
    new = {"use_next": False, "next_config": None, "next_list": [], "next_size": 16, "next_backend": "plain"}
    (source / CONFIG).write_text(json.dumps({**config, **new}))
    comes_in(source, tmp_path, host, expected)
    edit_config(source, use_next=True)
    with pytest.raises(MattoniError, match="uses use_next, which is not known here .* take the key out"):
        import_skill(source, tmp_path / "bricks", "next", host)


def test_without_a_rank_it_is_told_from_the_shapes(source, host, tiny_host, tmp_path, edit_config):
    expected = pefts(tiny_host, source)
    edit_config(source, r=None)
    brick = comes_in(source, tmp_path, host, expected)
    torch.testing.assert_close(pefts(tiny_host, brick), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"use_rslora": True, "r": 6, "lora_alpha": 5},
        {"rank_pattern": {"q_proj": 2, "down_proj": 6}, "alpha_pattern": {"v_proj": 3, r"layers\.1\.mlp.*": 12}},
        {"target_modules": r".*\.(q_proj|up_proj)", "layers_to_transform": None},
        {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
        {"bias": "all"},
        {"init_lora_weights": "gaussian"},
    ],
    ids=["rslora", "patterns", "expression", "some layers", "biases that the host lacks", "gaussian"],
)
def test_options_that_peft_and_others_write(make_adapter, host, tiny_host, tmp_path, options):
    """As they are, and under other names, so that the configuration is written anew."""
    source = make_adapter(**options)
    expected = pefts(tiny_host, source)
    comes_in(source, tmp_path, host, expected, "plain")
    rename(source, lambda name: name.replace(".weight", ".default.weight"))
    brick = comes_in(source, tmp_path, host, expected, "renamed")
    torch.testing.assert_close(pefts(tiny_host, brick), expected, rtol=0, atol=1e-5)


# What is said about the host


@pytest.mark.parametrize("base", ["someone/{0}", "unsloth/{0}-unsloth-bnb-4bit", "/content/models/{0}/", "{0}-GGUF"])
def test_this_host_is_never_called_another(make_adapter, make_host, host, tmp_path, edit_config, base):
    base = base.format(host.name.upper())
    wide = make_adapter("wide", host=make_host(tmp_path / "wide-host", hidden_size=64))
    strange = make_adapter("strange")
    rename(strange, lambda name: name.replace("self_attn", "attention"))
    size = "64 x 128 in it and 32 x 64 in the host: choose the adapter for this size"
    for source, said in [(wide, size), (strange, "0.attention.k_proj', which the host lacks: save it again")]:
        edit_config(source, base_model_name_or_path=base)
        sentence = refused(source, tmp_path, host, base, "which is this host, but", said)
        assert "another host" not in sentence


def test_another_host_is_named_beside_this_one(make_adapter, make_host, host, tmp_path, edit_config):
    for name, change, said in [
        ("wide", {"hidden_size": 64}, "64 x 128 in it and 32 x 64 in the host"),
        ("deep", {"layers": 3}, "'model.layers.2.mlp.down_proj', which the host lacks (it has 2 layers)"),
    ]:
        source = make_adapter(name, host=make_host(tmp_path / f"{name}-host", **change))
        edit_config(source, base_model_name_or_path="someone/their-host")
        told = f"made for another host (it says it was trained on someone/their-host; this is {host.name})"
        refused(source, tmp_path, host, told, said, "--host")
        edit_config(source, base_model_name_or_path=None)
        refused(source, tmp_path, host, f"made for another host (this is {host.name})", said)


def test_where_nothing_says_so_no_other_host_is_claimed(source, host, tmp_path, edit_config):
    rename(source, lambda name: name.replace("self_attn", "attention"))
    for base, said in [(None, "does not say what it was trained on"), ("/content/out", "was trained on /content/out")]:
        edit_config(source, base_model_name_or_path=base)
        sentence = refused(source, tmp_path, host, said, "attention", "save it again")
        assert "another host" not in sentence


def test_a_host_of_the_same_shape_is_noted(source, host, tmp_path, edit_config):
    edit_config(source, base_model_name_or_path="someone/the-base-model")
    card = read_card(import_skill(source, tmp_path / "bricks", None, host))
    assert card.notes == (
        f"It says that it was trained on someone/the-base-model; this host is {host.name}, whose layers it fits.",
    )
    edit_config(source, base_model_name_or_path=f"unsloth/{host.name}-bnb-4bit")
    assert read_card(import_skill(source, tmp_path / "bricks", "same", host)).notes == ()
