"""A whole assistant on tiny models: random weights, the real path from `Assistant.ask` to the store."""

import io
import json
import resource
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mattoni.torchvision_ops  # noqa: F401

import pytest
import torch
import yaml
from open_clip.model import CLIP, CustomTextCLIP
from PIL import Image
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase

from assistant.assistant import Assistant
from assistant.host.embedder import Embedder
from assistant.host.host import Host, load_host
from assistant.host.prompt import Prompt, Turn, build_prompt
from assistant.turn.recogniser import Recogniser, unit_depths
from assistant.turn.spaces import Spaces
from assistant.turn.ticket import Ticket
from front_ends import command as cli
from mattoni.card import describe_files
from mattoni.injections import Soft
from mattoni.inputs import Attachment
from mattoni.paths import data_folder
from modality_bricks.encoder import CONFIG, WEIGHTS, load_encoder
from modality_bricks.stitch import QFormerStitch, StitchShape
from modality_bricks.stitch_file import save_stitch

QUERIES = 4


@pytest.fixture
def host(tiny_host: Path) -> Host:
    """The tiny host in fp32."""
    return load_host(str(tiny_host), device="cpu", dtype="float32")


@pytest.fixture
def assistant(tiny_host: Path, tiny_embedder_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Assistant]:
    """The tiny host with the shipped bricks that fit it (`document`) and an image brick of its own, `eyes`.

    No message of the tests asks about a picture that is not there; all go on with what was said.
    """
    embedder = Embedder(tiny_embedder_folder)
    depths = torch.zeros_like(embedder.depths("text"))
    monkeypatch.setattr(Spaces, "embedder", embedder)
    monkeypatch.setattr(Spaces, "picture_questions", Recogniser(depths, depths, threshold=1.0))
    monkeypatch.setattr(Spaces, "follow_ups", Recogniser(depths, depths, threshold=-1.0))
    monkeypatch.setattr(Spaces, "several_pictures", Recogniser(depths, depths, threshold=1.0))
    monkeypatch.setattr(Spaces, "reading_questions", Recogniser(depths, depths, threshold=1.0))
    monkeypatch.setattr(Spaces, "naming_questions", Recogniser(depths, depths, threshold=1.0))
    opened = Assistant.open(str(tiny_host), device="cpu", dtype="float32")
    write_eyes(data_folder() / "bricks" / "eyes", opened.host)
    yield opened
    opened.close()


def recogniser_of(message: str) -> Recogniser:
    """Recognises this message and no other."""
    depths = Spaces.embedder.depths(message)
    mean = torch.zeros_like(depths)
    return Recogniser(mean, unit_depths(depths, mean), threshold=len(depths) - 1e-4)


def add_bare_brick(name: str, **changes: object) -> Path:
    """An image brick of the user's that is nothing but a card; `changes` are what the card says otherwise."""
    folder = data_folder() / "bricks" / name
    folder.mkdir(parents=True)
    card = {"schema": 1, "title": "Test", "summary": "A test.", "licence": "none"}
    parts = (
        {"method": "lora"} if changes.get("kind") == "task" else {"method": "qformer", "encoder": "local-dir:encoder"}
    )
    card |= {"name": name, "kind": "modality", "injects": ["sequence"], "parts": parts, **changes}
    (folder / "brick.yaml").write_text(yaml.safe_dump(card))
    return folder


# A vision transformer of open_clip: 16 patches and a class token.
TINY_VIT = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}


def write_encoder(folder: Path, vision: dict[str, Any], embed_dim: int = 16, **model: Any) -> None:
    """An encoder folder of open_clip with random weights. `vision` and `model` are what a model config says."""
    folder.mkdir(parents=True)
    size = vision["image_size"]
    pixels = {
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "interpolation": "bicubic",
        "resize_mode": "squash",
        "size": size if isinstance(size, list) else [size] * 2,
    }
    text = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 1, "layers": 1}
    built = {"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": text}
    config = {"model_cfg": {**built, **model}, "preprocess_cfg": pixels}
    (folder / CONFIG).write_text(json.dumps(config))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = (CustomTextCLIP if model.get("custom_text") else CLIP)(**built)
    save_file({k: v.contiguous() for k, v in encoder.state_dict().items()}, folder / WEIGHTS)


def write_eyes(
    folder: Path, host: Host, vision: dict[str, Any] = TINY_VIT, source: str = "local-dir:encoder", **model: Any
) -> None:
    """An image brick with random weights: an open_clip encoder and a stitch for the host, four soft tokens.

    source  what the card names as encoder; the one in the brick's folder is written unless it is another
    """
    if source == "local-dir:encoder":
        write_encoder(folder / "encoder", vision, **model)
    encoder = load_encoder(folder / "encoder" if source == "local-dir:encoder" else source)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = StitchShape(
            tokens=encoder.tokens,
            feature_width=encoder.width,
            host_width=host.width,
            words=64,
            queries=QUERIES,
            layers=1,
            width=16,
            heads=2,
        )
        stitch = QFormerStitch(shape)
        # With the usual spread every picture would be about the same mixture of words.
        for layer in stitch.parameters():
            if layer.dim() > 1:
                torch.nn.init.normal_(layer, std=1.0)
    stitch.set_words(torch.arange(64), host.embedding.detach().float())
    folder.mkdir(parents=True, exist_ok=True)
    save_stitch(stitch, folder)
    card = {
        "schema": 1,
        "name": folder.name,
        "kind": "modality",
        "title": "Eyes",
        "summary": "Random weights.",
        "host": host.identity.model_dump(),
        "injects": ["sequence"],
        "files": {name: file.model_dump() for name, file in describe_files(folder).items()},
        "parts": {"encoder": source, "stitch": "qformer", "queries": QUERIES},
        "licence": "none",
    }
    (folder / "brick.yaml").write_text(yaml.safe_dump(card))


def png(colour: str = "orange", size: tuple[int, int] = (40, 30), name: str | None = None) -> Attachment:
    """A picture of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return Attachment(name or f"{colour}.png", buffer.getvalue())


def done(ticket: Ticket) -> Ticket:
    """The ticket when its turn has ended."""
    assert ticket.wait(60), "the turn does not end"
    return ticket


class Seen(str):
    """A prompt as text in which each soft token is a ■. `roles` counts its true role marks, opening and closing ones."""

    roles: tuple[int, int]


@pytest.fixture
def prompts(assistant: Assistant, monkeypatch: pytest.MonkeyPatch) -> list[Seen]:
    """Every prompt that the host is given."""
    seen: list[Seen] = []

    def build(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn]) -> Prompt:
        prompt = build_prompt(tokenizer, turns)
        text = ("■" * len(p.vectors) if isinstance(p, Soft) else tokenizer.decode(p) for p in prompt.pieces)
        seen.append(Seen("".join(text)))
        opening, closing = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
        seen[-1].roles = (prompt.keys.count(opening), prompt.keys.count(closing))
        return prompt

    for module in ("writing", "prepare"):
        monkeypatch.setattr(f"assistant.turn.{module}.build_prompt", build)
    return seen


def write_adapter(folder: Path, host: Host, seed: int, spread: float = 0.3) -> Path:
    """A PEFT LoRA folder on every linear layer of the host, its factors random and large enough to change an answer."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for name, (rows, columns) in host.linear_shapes.items():
        factors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(4, columns, generator=generator) * spread
        factors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(rows, 4, generator=generator) * spread
    save_file(factors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@contextmanager
def full_disk(longest_file: int = 400_000) -> Iterator[None]:
    """No file can grow beyond `longest_file` bytes: what the operating system says of a disk that is full, nearly."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (longest_file, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(name="mattoni")
def command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the command line in this process. Returns exit status, stdout, stderr."""

    def run(*arguments, stdin=None):
        monkeypatch.setattr(sys, "argv", ["mattoni", *map(str, arguments)])
        if stdin is not None:
            lines = iter(stdin)
            monkeypatch.setattr("builtins.input", lambda prompt="": next_or_eof(lines))
        try:
            cli.main()
            status = 0
        except SystemExit as exit:
            status = exit.code or 0
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def next_or_eof(lines):
    for line in lines:
        return line
    raise EOFError
