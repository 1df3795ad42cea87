"""Trains a cartridge of a text: `mattoni cartridge train NAME FILE`. Run it again after a stop or a kill, and it goes on where it was.

Method: Cartridges (Eyuboglu et al. 2025, arXiv:2506.06266): keys and values that begin as the text's own and are distilled from what
the host says while it sees the passages (self-study). Nothing is in the user's folder before all of it is done.
"""

import hashlib
import platform
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from peft import CartridgeConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from assistant.bricks.lifecycle import check_free
from assistant.host.host import Host
from assistant.host.prompt import Turn, build_prompt, opening
from brick_training.frame import TokenIds, prompt_frame
from brick_training.learner import give_weights
from brick_training.loop import train
from brick_training.run_folder import BEST, locked
from knowledge_bricks.cartridge import CONFIG, TENSOR, WEIGHTS, Layers, pack
from knowledge_bricks.methods.cartridge import CartridgeParts
from knowledge_bricks.passages import sentences
from knowledge_bricks.training.beginning import SINKS, beginning, check_host
from knowledge_bricks.training.self_study import Lesson, passages_of, study
from knowledge_bricks.training.stage import METRIC, CartridgeModel, CartridgeStage, settings
from mattoni.card import BrickCard, Routes, describe_files, read_card, write_card
from mattoni.errors import Interrupted, MattoniError
from mattoni.files import replace_folder, replacing
from mattoni.injections import Text
from mattoni.keys import KEYS, save_keys, spherical_kmeans
from mattoni.lines import read_text
from mattoni.paths import cache_folder
from mattoni.untrusted import encode_untrusted

STEPS, BATCH, RATE = 200, 8, 0.01
SMALLER = 10  # the text has so many times the cartridge's positions, where nobody says how many it is to have
_LEAST = 4  # and so many times at least
_SMALLEST = 16  # positions, where nobody says how many
_LOOKS = 40  # lessons whose attention says what the cartridge begins as; 2 s each behind 5,000 tokens on one core
# Nearness of a message to a passage of the text, a sentence of it or a question about it, from which Auto chooses it;
# chosen on 600 messages of chat-train, of which 99 % come less near than 0.36 to 0.48 to each of three texts.
THRESHOLD = 0.45
_KEYS = 512

Embed = Callable[[list[str]], Tensor]
Tell = Callable[[str], object]


def train_cartridge(
    name: str,
    file: Path,
    bricks: Path,
    host: Host,
    embed: Embed,
    *,
    positions: int | None = None,
    steps: int = STEPS,
    work: Path | None = None,
    tell: Tell = lambda line: None,
) -> BrickCard:
    """Make the brick `bricks/NAME` of a text file. Returns its card.

    embed      texts to unit vectors of the `text` space
    positions  of keys and values; None: a tenth of the text's tokens
    work       folder for what is done so far; None: in the cache
    tell       hears a line now and then

    Raises MattoniError for a taken name, a text that is too short or too long, and another host; Interrupted after Ctrl-C.
    """
    check_free(name, bricks)
    check_host(host)
    text = read_text(file, "give the text as a plain text file.").strip()
    tokens = encode_untrusted(host.tokenizer, text)
    told = (*_front(host), *tokens)
    count = positions or max(_SMALLEST, len(tokens) // SMALLER)
    _check_length(file.name, len(tokens), count, host)
    run = work or cache_folder() / "runs" / f"cartridge--{name}--{_key(host, text, count)}"
    with locked(run):
        try:
            lessons, begun = _prepared(host, text, told, count, run, tell)
        except KeyboardInterrupt:
            sentence = f"Stopped; what was done is kept in {run}, and the same command goes on."
            raise Interrupted(sentence, signal.SIGINT) from None
        model = CartridgeModel(host, begun)
        prompt = prompt_frame(host).prompt
        stage = CartridgeStage(model, [prompt(lesson.message, ()) for lesson in lessons], lessons, steps, BATCH)
        accelerator = Accelerator(cpu=host.device.type == "cpu")
        config = {"positions": count, "batch": BATCH, "rate": RATE, "lessons": len(lessons)}
        before = stage.evaluate(-1).metrics[METRIC]
        outcome = train(stage, run, settings(RATE), accelerator, config)
        give_weights(model, torch.load(run / BEST, weights_only=True, map_location="cpu"))
    vectors = embed(_said(text, lessons))
    keys = vectors if len(vectors) <= _KEYS else spherical_kmeans(vectors, _KEYS)
    training = {
        "command": f"mattoni cartridge train {name} {file.name} --positions {count} --steps {steps}",
        "data": [{"file": file.name, "sha256": hashlib.sha256(text.encode()).hexdigest()}],
        "lessons": len(lessons),
        "closeness": {"at first": round(before, 3), "best": round(outcome["best"][METRIC], 3)},
        "hardware": f"{host.device.type}, {torch.get_num_threads()} threads, {platform.machine()}",
        "hours": round(outcome["hours"], 2),
    }

    def fill(fresh: Path) -> None:
        write_cartridge(fresh, model.layers, host)
        save_keys(keys, fresh / KEYS)
        write_card(_card(name, file.name, count, len(tokens), training, host, fresh), fresh)

    replace_folder(bricks / name, fill)
    return read_card(bricks / name)


def _said(text: str, lessons: Sequence[Lesson]) -> list[str]:
    """What the router knows the text by: its passages, their sentences, and what the host asked about them."""
    passages = passages_of(text, "text")
    told = [sentence for passage in passages for sentence in sentences(passage)]
    return list(dict.fromkeys([*passages, *told, *(lesson.message for lesson in lessons if lesson.is_question)]))


def _front(host: Host) -> TokenIds:
    """What the template puts before a user's message."""
    empty, marked = (
        build_prompt(host.tokenizer, [*opening(host), Turn("user", (Text(text),))]).keys for text in ("", "x")
    )
    end = next(i for i, (a, b) in enumerate(zip(empty, marked, strict=False)) if a != b)
    return tuple(key for key in empty[:end] if isinstance(key, int))


def _check_length(name: str, tokens: int, positions: int, host: Host) -> None:
    if positions <= SINKS or tokens < _LEAST * positions:
        raise MattoniError(
            f"{name} has {tokens:,} tokens, which is too short for a cartridge of {positions:,} positions: put it into the "
            f"message as it is, or give fewer --positions."
        )
    room = host.context - 256
    if tokens > room:
        raise MattoniError(
            f"{name} has {tokens:,} tokens and {host.name} reads {room:,} at once: make a cartridge of a part of it."
        )


def _key(host: Host, text: str, positions: int) -> str:
    """What a run is kept under: all that its files depend on."""
    return hashlib.sha256(f"{host.fingerprint}\n{host.dtype}\n{positions}\n{text}".encode()).hexdigest()[:12]


def _prepared(
    host: Host, text: str, told: TokenIds, positions: int, run: Path, tell: Tell
) -> tuple[list[Lesson], Layers]:
    """The lessons and what the cartridge begins as; what is done of them already is read."""
    passages = passages_of(text, "text")
    lessons = study(
        host, passages, run / "lessons.jsonl", lambda done: tell(f"studied {done} of {len(passages)} passages")
    )
    if not lessons:
        raise MattoniError("The text has no sentences that could be asked about: a cartridge needs prose.")
    path = run / "beginning.safetensors"
    if not path.exists():
        prompt = prompt_frame(host).prompt
        chosen = lessons[:: max(1, len(lessons) // _LOOKS)]
        asked = [(*prompt(lesson.message, ()), *lesson.answer) for lesson in chosen]
        begun = beginning(host, told, asked, positions, lambda done: tell(f"looked {done} of {len(asked)} times"))
        stacked = torch.stack([torch.stack(pair) for pair in begun]).cpu()
        with replacing(path) as temporary:
            save_file({"layers": stacked.contiguous()}, temporary)
    return lessons, tuple((pair[0], pair[1]) for pair in load_file(path)["layers"])


def write_cartridge(folder: Path, layers: Layers, host: Host) -> None:
    """Write keys and values as peft does, in the host's own type."""
    heads, positions, width = layers[0][0].shape
    config = CartridgeConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=host.name,
        inference_mode=True,
        num_virtual_tokens=positions,
        num_frozen_tokens=SINKS,
        num_layers=len(layers),
        num_attention_heads=heads,
        token_dim=heads * width,
        num_transformer_submodules=1,
    )
    config.save_pretrained(str(folder))
    embeddings = pack(layers).to("cpu", host.dtype).contiguous()
    save_file({TENSOR: embeddings}, folder / WEIGHTS, metadata={"format": "pt"})
    assert (folder / CONFIG).is_file()


def _card(
    name: str, source: str, positions: int, tokens: int, training: dict[str, Any], host: Host, folder: Path
) -> BrickCard:
    return BrickCard(
        schema=1,
        name=name,
        kind="knowledge",
        title=name.replace("-", " ").capitalize(),
        summary=f"Has read {source} ({tokens:,} tokens) and keeps {positions:,} positions of it.",
        host=host.identity,
        injects=("prefix",),
        routes=Routes(space="text", keys=KEYS, threshold=THRESHOLD),
        files=describe_files(folder),
        parts=CartridgeParts(method="cartridge", positions=positions, tokens=tokens, source=source),
        training=training,
        licence="that of the text",
        limits="Remembers what the text says, not its words, and cites nothing; a turn has room for one cartridge.",
    )
