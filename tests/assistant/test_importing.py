"""Importing BLIP-2, InstructBLIP and LLaVA-1.5: their tiny random selves answer as transformers lets them answer."""

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mattoni.torchvision_ops  # noqa: F401

import huggingface_hub
import pytest
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipImageProcessor,
    CLIPImageProcessor,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from assistant.assistant import Assistant
from assistant.bricks.importing import import_checkpoint
from assistant.cli import bricks
from assistant.cli.models import models_list
from assistant.host.catalogue import catalogue
from assistant.host.embedder import Embedder
from assistant.host.host import load_host
from assistant.host.prompt import Prompt, Turn, build_prompt
from assistant.host.sampling import Sampling
from assistant.registry import Registry
from assistant.turn.keyring import Keyrings
from assistant.turn.recogniser import Recogniser
from assistant.turn.route import Choices, Question, SeenPicture, route
from assistant.turn.spaces import Spaces
from mattoni.errors import MattoniError
from mattoni.injections import AFTER_PICTURE, Soft, Text
from mattoni.inputs import Attachment
from mattoni.keys import load_keys
from mattoni.methods import method_of
from mattoni.paths import brick_folders, data_folder, hosts_folder
from mattoni.runtime import Asked, GivenPicture
from mattoni.tensors import copy_tensors, stored_tensors
from modality_bricks.modality import load_modality
from tests.assistant.conftest import done, full_disk

SIZE, QUESTION = 32, "What is in the picture?"
WORDS = [
    "What is in the picture? Question: how many dogs are there? Answer: two. USER: what colour is it? ASSISTANT: It is red.",
    "A dog runs over the grass. The capital of Italy is Rome.",
]
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
PIXELS = {"image_size": SIZE, "patch_size": 8}
QFORMER = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {
    "hidden_size": 32,
    "vocab_size": 320,
    "max_position_embeddings": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
OPT = {"model_type": "opt", "ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0, "bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1, **TEXT}  # fmt: skip
LLAMA = {"model_type": "llama", "intermediate_size": 48, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, **TEXT}  # fmt: skip


def byte_level() -> PreTrainedTokenizerFast:
    """As OPT's: bytes, and `</s>` in front."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    bpe.train_from_iterator(
        WORDS,
        trainers.BpeTrainer(vocab_size=310, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    bpe.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="</s>", eos_token="</s>", pad_token="<pad>")


def metaspace() -> PreTrainedTokenizerFast:
    """As Llama's: a space in front of what begins, and `<s>` before it."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    bpe.decoder = decoders.Metaspace(prepend_scheme="first")
    special = ["<unk>", "<s>", "</s>"]
    bpe.train_from_iterator(
        " ".join(WORDS).split(" "),
        trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=["\n", "▁"], show_progress=False),
    )
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def bert_like() -> PreTrainedTokenizerFast:
    """As an instruction-aware Q-Former's: words between `[CLS]` and `[SEP]`."""
    wordpiece = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    wordpiece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    wordpiece.train_from_iterator(
        WORDS, trainers.WordPieceTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    )
    wordpiece.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=wordpiece, pad_token="[PAD]", unk_token="[UNK]")


def large(model: torch.nn.Module, seed: int) -> None:
    """Weights far enough apart that the answer depends on every token and every pixel."""
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        norm = parameter.dim() == 1 and name.endswith("weight")
        torch.nn.init.normal_(parameter, mean=float(norm), std=0.3)


def make_blip2(folder: Path, **changes: Any) -> Path:
    tokenizer = byte_level()
    pictures = BlipImageProcessor(size={"height": SIZE, "width": SIZE})
    processor = Blip2Processor(pictures, tokenizer, num_query_tokens=3)
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = Blip2Config(
        vision_config={**VISION, **PIXELS},
        qformer_config={**QFORMER, "cross_attention_frequency": 2},
        text_config={**OPT, **changes},
        num_query_tokens=3,
        image_token_index=image,
    )
    return save(Blip2ForConditionalGeneration(config), processor, folder)


def make_instructblip(folder: Path) -> Path:
    tokenizer, asks = metaspace(), bert_like()
    pictures = BlipImageProcessor(size={"height": SIZE, "width": SIZE})
    processor = InstructBlipProcessor(pictures, tokenizer, asks, num_query_tokens=3)
    config = InstructBlipConfig(
        vision_config={**VISION, **PIXELS},
        qformer_config={**QFORMER, "vocab_size": len(asks), "max_position_embeddings": 40},
        text_config=LLAMA,
        num_query_tokens=3,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return save(InstructBlipForConditionalGeneration(config), processor, folder)


def make_llava(folder: Path, seed: int = 0, **changes: Any) -> Path:
    tokenizer = metaspace()
    tokenizer.add_tokens([AddedToken("<image>", special=True, normalized=False)], special_tokens=True)
    pictures = CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    strategy = changes.get("vision_feature_select_strategy", "default")
    processor = LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **VISION, **PIXELS},
        text_config=LLAMA,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        **changes,
    )
    return save(LlavaForConditionalGeneration(config), processor, folder, seed)


# As llava-hf/llava-1.5-7b-hf publishes it.
LLAVA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{# Render all images first #}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}{% endfor %}"
    "{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{% generation %}"
    "{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def save(model: Any, processor: Any, folder: Path, seed: int = 0) -> Path:
    """Write a checkpoint in several shards, as the large ones are."""
    large(model, seed)
    model.save_pretrained(folder, max_shard_size="40KB")
    processor.save_pretrained(folder)
    return folder


MAKERS: dict[str, Callable[..., Path]] = {"blip-2": make_blip2, "instructblip": make_instructblip, "llava": make_llava}
PROMPTS = {
    "blip-2": f"Question: {QUESTION} Answer:",
    "instructblip": QUESTION,
    "llava": f"USER: <image>\n{QUESTION} ASSISTANT:",
}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One tiny checkpoint of each family."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return {family: make(folder / f"tiny-{family}") for family, make in MAKERS.items()}


def bring_in(source: Path | str, name: str | None = None, **more: Any) -> Any:
    known = Registry(brick_folders()).scan()
    return import_checkpoint(str(source), data_folder() / "bricks", hosts_folder(), known, name, **more)


def photo(size: tuple[int, int] = (50, 36), seed: int = 0) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (size[1], size[0], 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def sent(picture: Image.Image) -> Attachment:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return Attachment("photo.png", buffer.getvalue())


@pytest.fixture
def opened(tiny_embedder_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Assistant]]:
    """Open the assistant on an imported host, in fp32 unless told otherwise."""
    embedder = Embedder(tiny_embedder_folder)
    depths = torch.zeros_like(embedder.depths("text"))
    monkeypatch.setattr(Spaces, "embedder", embedder)
    monkeypatch.setattr(Spaces, "picture_questions", Recogniser(depths, depths, threshold=1.0))
    monkeypatch.setattr(Spaces, "follow_ups", Recogniser(depths, depths, threshold=-1.0))
    monkeypatch.setattr(Spaces, "several_pictures", Recogniser(depths, depths, threshold=1.0))
    monkeypatch.setattr(Spaces, "reading_questions", Recogniser(depths, depths, threshold=1.0))
    monkeypatch.setattr(Spaces, "naming_questions", Recogniser(depths, depths, threshold=1.0))
    assistants: list[Assistant] = []

    def open_it(host: str, dtype: str = "float32") -> Assistant:
        assistants.append(Assistant.open(host, device="cpu", dtype=dtype))
        return assistants[-1]

    yield open_it
    for assistant in assistants:
        assistant.close()


def reference(folder: Path, family: str, picture: Image.Image, tokens: int) -> tuple[list[int], torch.Tensor]:
    """Greedy token ids and the logits before each, as transformers alone gives them."""
    model = MODELS[family].from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    inputs = processor(images=picture, text=PROMPTS[family], return_tensors="pt")
    out = model.generate(
        **inputs, do_sample=False, max_new_tokens=tokens, output_logits=True, return_dict_in_generate=True
    )
    logits = torch.cat(out.logits)
    return out.sequences[0, -len(logits) :].tolist(), logits


MODELS: dict[str, Any] = {
    "blip-2": Blip2ForConditionalGeneration,
    "instructblip": InstructBlipForConditionalGeneration,
    "llava": LlavaForConditionalGeneration,
}


@pytest.mark.parametrize("family", MAKERS)
def test_an_imported_checkpoint_answers_as_in_transformers(family, checkpoints, opened, monkeypatch):
    wanted, wanted_logits = reference(checkpoints[family], family, photo(), 12)
    card = bring_in(checkpoints[family]).card
    seen: list[torch.Tensor] = []
    assistant = opened(card.name)
    decoder = assistant._engine._decoder
    forward = decoder.forward
    monkeypatch.setattr(decoder, "forward", lambda reads: seen.append(forward(reads)[0]) or seen[-1].unsqueeze(0))
    conversation = assistant.store.new()
    ticket = done(
        assistant.ask(QUESTION, [sent(photo())], Choices(vision=card.name), Sampling(max_tokens=12), conversation)
    )
    assert ticket.status == "done", ticket.error
    said = list(assistant.store.messages(conversation)[-1].token_ids)
    assert said == wanted[: len(said)] and len(said) >= min(len(wanted), 12) - 1
    logits = torch.stack(seen)[: len(wanted)]
    torch.testing.assert_close(logits, wanted_logits[: len(logits)], rtol=0, atol=1e-4)
    # Another picture gives other logits: the answer comes from the picture.
    first = len(seen)
    done(assistant.ask(QUESTION, [sent(photo(seed=1))], Choices(vision=card.name), Sampling(max_tokens=1)))
    assert (seen[first] - seen[0]).abs().max() > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("family", MAKERS)
def test_in_bfloat16_the_second_question_keeps_the_first_ones_keys_and_values(family, checkpoints, opened):
    card = bring_in(checkpoints[family]).card
    assistant = opened(card.name, "bfloat16")
    assert assistant.bricks().get(card.name).warning is None
    conversation, choices, short = assistant.store.new(), Choices(vision=card.name), Sampling(max_tokens=3)
    first = done(assistant.ask(QUESTION, [sent(photo())], choices, short, conversation))
    second = done(assistant.ask("What colour is it?", (), choices, short, conversation))
    assert (first.status, second.status) == ("done", "done"), (first.error, second.error)
    # All but the answer's last token: it was never fed.
    assert second.trace.tokens["reused"] >= first.trace.tokens["prompt"] + first.trace.tokens["new"] - 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"vision_feature_select_strategy": "full"},
        {"vision_feature_layer": [-3, -1]},
        {"vision_feature_layer": 1, "multimodal_projector_bias": False, "projector_hidden_act": "relu"},
    ],
)
def test_a_projector_reads_the_layers_and_tokens_that_its_checkpoint_says(changes, tmp_path, opened):
    folder = make_llava(tmp_path / "odd", **changes)
    model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    inputs = AutoProcessor.from_pretrained(folder)(images=photo(), text="<image>", return_tensors="pt")
    with torch.no_grad():
        wanted = model.get_image_features(inputs["pixel_values"]).pooler_output[0]
    card = bring_in(folder).card
    brick = data_folder() / "bricks" / card.name
    loaded = load_modality(brick, card.parts, torch.zeros(1, 32))
    torch.testing.assert_close(loaded.soft_tokens([photo()])[0], wanted, rtol=0, atol=1e-5)
    assert card.parts.soft_tokens == len(wanted)


@pytest.mark.slow
@pytest.mark.parametrize(
    "renames",
    [
        {"vision_tower.": "vision_tower.vision_model."},
        {
            "language_model.lm_head.": "lm_head.",
            "language_model.model.": "model.language_model.",
            "vision_tower.": "model.vision_tower.",
            "multi_modal_projector.": "model.multi_modal_projector.",
        },
    ],
    ids=["as published in 2023", "as inside transformers 5"],
)
def test_the_weights_may_have_the_names_of_other_versions(renames, checkpoints, tmp_path):
    def rename(folder: Path) -> None:
        stored = stored_tensors(folder.glob("*.safetensors"))
        named = {}
        for name, tensor in stored.items():
            old = next((prefix for prefix in renames if name.startswith(prefix)), "")
            named[renames.get(old, "") + name.removeprefix(old)] = tensor
        copy_tensors(named, folder / "model.safetensors", {"format": "pt"})
        for file in folder.glob("model-*"):
            file.unlink()
        (folder / "model.safetensors.index.json").unlink()

    usual = bring_in(checkpoints["llava"], "usual").card
    other = bring_in(spoilt(checkpoints["llava"], tmp_path / "other", rename)).card
    assert other.host == usual.host == load_host("other", "cpu", "bfloat16").identity
    soft = [
        load_modality(data_folder() / "bricks" / card.name, card.parts, torch.zeros(1, 32)).soft_tokens([photo()])
        for card in (usual, other)
    ]
    torch.testing.assert_close(soft[0], soft[1], rtol=0, atol=0)


@pytest.mark.slow
def test_soft_tokens_of_instructblip_follow_the_question_and_are_kept_by_it(checkpoints, opened):
    card = bring_in(checkpoints["instructblip"]).card
    assistant = opened(card.name)
    brick, picture = assistant.bricks().get(card.name), GivenPicture("a", "a digest", photo)
    eyes = method_of(brick.parts).load(brick, assistant.host)
    asked = [eyes.inject(Asked(q, picture)).segments[0] for q in ("What?", "Where?", "What?")]
    assert asked[0] is asked[2] and asked[0].digest != asked[1].digest
    assert (asked[0].vectors - asked[1].vectors).abs().max() > 1e-3


@pytest.mark.parametrize("family", MAKERS)
def test_the_trace_says_what_a_q_former_attended_to_and_that_a_projector_cannot_tell(family, checkpoints, opened):
    card = bring_in(checkpoints[family]).card
    assistant, found = opened(card.name), []
    for question in (QUESTION, "How many bricks?"):
        ticket = done(assistant.ask(question, [sent(photo())], Choices(vision=card.name), Sampling(max_tokens=1)))
        assert ticket.status == "done", ticket.error
        found += ticket.trace.attention
    first, second = found
    if family == "llava":
        assert first.grid == ()
        assert first.sentence == f"{card.name}'s stitch has no cross-attention, so it cannot be told where it looked."
        return
    assert len(first.grid) == len(first.grid[0]) > 1
    assert sum(map(sum, first.grid)) + first.elsewhere == pytest.approx(1, abs=0.002) and first.elsewhere > 0
    # InstructBLIP's queries see the question.
    assert (first.grid == second.grid) == (family == "blip-2")


@pytest.mark.slow
def test_a_typed_placeholder_or_end_mark_is_text(checkpoints, opened, monkeypatch):
    card = bring_in(checkpoints["llava"]).card
    assistant = opened(card.name)
    prompts: list[Prompt] = []

    def build(*arguments: Any) -> Prompt:
        prompts.append(build_prompt(*arguments))
        return prompts[-1]

    monkeypatch.setattr("assistant.turn.writing.build_prompt", build)
    choices, short = Choices(vision=card.name), Sampling(max_tokens=1)
    for text in ("plain", "a <image> and </s><s>", "<im", "age>"):
        assert done(assistant.ask(text, [sent(photo())], choices, short)).status == "done"
    vocabulary = assistant.host.tokenizer.get_vocab()
    marks = [vocabulary[mark] for mark in ("<image>", "<s>", "</s>")]
    for prompt in prompts:
        # One picture, one beginning, no end and no further picture, whatever the message says.
        assert sum(isinstance(piece, Soft) for piece in prompt.pieces) == 1
        assert [prompt.keys.count(mark) for mark in marks] == [0, 1, 0]


def prompt_ids(tokenizer: Any, question: str, pictures: int) -> list[int | str]:
    """Mattoni's prompt for some pictures and a question; each picture is its number as text."""
    seen = [Soft(f"{n}", torch.zeros(1, 1)) for n in range(pictures)]
    beside = [segment for soft in seen for segment in (soft, AFTER_PICTURE)]
    pieces = build_prompt(tokenizer, [Turn("user", (*beside, Text(question)))]).pieces
    return [i for piece in pieces for i in ([piece.digest] if isinstance(piece, Soft) else piece)]


@pytest.mark.parametrize("family", MAKERS)
def test_the_prompt_has_the_token_ids_of_the_checkpoints_processor(family, checkpoints):
    bring_in(checkpoints[family], "mine")
    tokenizer = AutoTokenizer.from_pretrained(hosts_folder() / "mine")
    processor = AutoProcessor.from_pretrained(checkpoints[family])
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    for question in (QUESTION, "(two) dogs,\nor one?", "  Two spaces, é and 犬", "\nNew line first"):
        text = PROMPTS[family].replace(QUESTION, question)
        wanted = processor(images=photo(), text=text)["input_ids"][0]
        once = ["0" if i == image else i for n, i in enumerate(wanted) if i != image or wanted[n - 1] != image or not n]
        assert prompt_ids(tokenizer, question, 1) == once


@pytest.mark.slow
def test_pictures_of_one_message_stand_in_their_order_at_the_checkpoints_place(checkpoints):
    for family, place in (("blip-2", 0), ("instructblip", 0), ("llava", None)):
        bring_in(checkpoints[family], family)
        tokenizer = AutoTokenizer.from_pretrained(hosts_folder() / family)
        ids = prompt_ids(tokenizer, QUESTION, 2)
        first, second = ids.index("0"), ids.index("1")
        assert first < second and (place is None or (first, second) == (0, 1))
        assert ids.count(tokenizer.bos_token_id) == 1
        # Without a picture it is a plain prompt.
        assert all(isinstance(i, int) for i in prompt_ids(tokenizer, QUESTION, 0))


@pytest.mark.slow
def test_a_llava_without_a_template_of_its_own_gets_the_published_one(checkpoints, tmp_path):
    def take_template(folder: Path) -> None:
        (folder / "chat_template.jinja").unlink()

    bring_in(checkpoints["llava"], "with")
    bring_in(spoilt(checkpoints["llava"], tmp_path / "odd", take_template), "without")
    own, published = (AutoTokenizer.from_pretrained(hosts_folder() / name) for name in ("with", "without"))
    assert own.chat_template != published.chat_template
    assert prompt_ids(own, QUESTION, 2) == prompt_ids(published, QUESTION, 2)


def test_a_host_folder_links_the_shards_and_is_known_by_its_card(checkpoints, capsys):
    card = bring_in(checkpoints["llava"]).card
    folder = hosts_folder() / card.name
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 1
    assert all(shard.stat().st_ino == (checkpoints["llava"] / shard.name).stat().st_ino for shard in shards)
    # The card was made from one weight at a time; the loaded host says the same.
    assert load_host(card.name, "cpu", "float32").identity == card.host
    assert [row["name"] for row in listed(capsys)] == [*catalogue(), card.name]


def listed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What `mattoni models list --json` prints."""
    capsys.readouterr()
    models_list(as_json=True)
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return rows


@pytest.mark.slow
def test_removing_the_brick_removes_its_host_too(checkpoints, opened, tiny_host):
    card = bring_in(checkpoints["llava"]).card
    opened(str(tiny_host)).remove_brick(card.name)
    assert not (hosts_folder() / card.name).exists() and not (data_folder() / "bricks" / card.name).exists()
    assert (checkpoints["llava"] / "model.safetensors.index.json").is_file()


@pytest.mark.slow
def test_it_takes_over_the_keys_of_the_photo_brick_and_is_routed(checkpoints, opened, tmp_path):
    card = bring_in(checkpoints["llava"]).card
    shipped = Registry(brick_folders()).scan().get("photo")
    assert card.routes == shipped.card.routes
    assert (data_folder() / "bricks" / card.name / "keys.safetensors").read_bytes() == (
        shipped.folder / "keys.safetensors"
    ).read_bytes()
    # A host of the same shape came with another checkpoint; its brick would fit, and is left to the user.
    bring_in(make_llava(tmp_path / "a-twin", seed=1))
    assistant = opened(card.name)
    names = {brick.name: brick.warning for brick in assistant.bricks().usable if brick.accepts("picture")}
    assert set(names) == {card.name, "a-twin", "document"} and names["a-twin"]
    keyring = Keyrings().of(assistant.bricks())
    assert {brick.name for brick in keyring.bricks if brick.keys is not None} == {card.name, "document"}
    seen = (SeenPicture("photo.jpg", load_keys(shipped.folder / "keys.safetensors")[0]),)
    plan = route(Question(seen, None, True, False, False), keyring, Choices())
    assert plan.pictures[0] is not None and plan.pictures[0].name == card.name


@pytest.mark.slow
@pytest.mark.parametrize("family", MAKERS)
def test_a_checkpoint_of_the_hub_comes_in_by_its_id(family, checkpoints, monkeypatch):
    asked: list[tuple[str, list[str]]] = []

    def snapshot_download(repository: str, allow_patterns: list[str]) -> str:
        asked.append((repository, allow_patterns))
        return str(checkpoints[family])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    card = bring_in("Someone/Their.Model-7b").card
    assert card.name == "their-model-7b" and card.training == {"imported_from": "Someone/Their.Model-7b"}
    assert asked[0][0] == "Someone/Their.Model-7b"
    assert not [pattern for pattern in asked[0][1] if "bin" in pattern or "pt" in pattern]


def test_the_command_says_how_to_ask_what_came_in(checkpoints, capsys):
    bricks.bricks_import(str(checkpoints["blip-2"]), "eyes-two")
    said = capsys.readouterr().out
    assert said.startswith("eyes-two is here, a host and its image brick; in bfloat16 both take 0.0 GB of memory.\n")
    assert "mattoni ask --host eyes-two --image photo.jpg" in said


# Bad input


def nothing_is_there() -> bool:
    """Neither a host nor a brick, nor what a broken import would leave."""
    return not any(any(folder.rglob("*")) for folder in (hosts_folder(), data_folder() / "bricks") if folder.is_dir())


def spoilt(source: Path, target: Path, spoil: Callable[[Path], object]) -> Path:
    """A copy of a checkpoint after `spoil` went over it."""
    shutil.copytree(source, target)
    spoil(target)
    return target


def first_shard(folder: Path) -> Path:
    return sorted(folder.glob("*.safetensors"))[0]


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def pickle_it(folder: Path) -> None:
    for file in folder.glob("model*"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "another family": (
        lambda f: change_config(f, model_type="qwen2_vl"),
        r"odd is a checkpoint of the family 'qwen2_vl'; those of blip-2, instructblip, llava can be imported\.",
    ),
    "an encoder-decoder": (
        lambda f: change_config(f, model_type="blip-2", text_config={"model_type": "t5", "is_encoder_decoder": True}),
        r"odd: its language model \(t5\) is an encoder-decoder, and a host must be decoder-only",
    ),
    "no configuration": (lambda f: (f / "config.json").unlink(), r"odd holds no config\.json"),
    "a damaged configuration": (lambda f: (f / "config.json").write_text("{"), r"odd/config\.json is damaged"),
    "pickled weights": (pickle_it, r"odd/pytorch_model\.bin is a pickled checkpoint, which can run code"),
    "a missing shard": (lambda f: first_shard(f).unlink(), r"odd/model-00001-of-\d+\.safetensors is missing"),
    "a truncated shard": (
        lambda f: first_shard(f).write_bytes(first_shard(f).read_bytes()[:-50]),
        r"model-00001-of-\d+\.safetensors is cut short",
    ),
    "a shard that is something else": (
        lambda f: first_shard(f).write_bytes(b"<html>not found</html>"),
        r"model-00001-of-\d+\.safetensors is cut short or no safetensors file",
    ),
    "a damaged index": (
        lambda f: (f / "model.safetensors.index.json").write_text("[]"),
        r"odd/model\.safetensors\.index\.json is damaged",
    ),
    "no tokenizer": (
        lambda f: [file.unlink() for file in f.glob("tokenizer*")],
        r"odd holds no tokenizer that can be read",
    ),
    "no image processor": (
        lambda f: [file.unlink() for file in f.glob("*processor*")],
        r"odd/preprocessor_config\.json is missing or damaged",
    ),
    "a language model of another shape": (
        lambda f: change_config(f, text_config={**LLAMA, "intermediate_size": 64}),
        r"odd: model\.layers\.0\.mlp\..* has the shape .* instead of .*; fetch the whole checkpoint again",
    ),
}


@pytest.mark.parametrize("how", SPOILT)
def test_what_cannot_be_imported_is_one_sentence_and_leaves_nothing(how, checkpoints, tmp_path):
    spoil, sentence = SPOILT[how]
    folder = spoilt(checkpoints["llava"], tmp_path / "odd", spoil)
    with pytest.raises(MattoniError, match=sentence) as raised:
        bring_in(folder)
    assert str(raised.value).count("\n") == 0
    assert nothing_is_there()


def test_an_index_that_leads_out_of_the_folder_is_refused(checkpoints, tmp_path):
    def lead_out(folder: Path) -> None:
        shutil.copy(first_shard(folder), tmp_path / "outside.safetensors")
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        index["weight_map"] = dict.fromkeys(index["weight_map"], "../outside.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(MattoniError, match=r"outside\.safetensors is missing"):
        bring_in(spoilt(checkpoints["llava"], tmp_path / "odd", lead_out))


def test_a_name_that_is_taken_or_no_name_is_refused(checkpoints):
    card = bring_in(checkpoints["llava"], "mine").card
    assert card.name == "mine"
    with pytest.raises(MattoniError, match="There is already a brick or host called 'mine': remove it first"):
        bring_in(checkpoints["blip-2"], "mine")
    with pytest.raises(MattoniError, match="There is already a brick or host called 'photo'"):
        bring_in(checkpoints["blip-2"], "photo")
    with pytest.raises(MattoniError, match="'My Eyes' cannot name a brick"):
        bring_in(checkpoints["blip-2"], "My Eyes")


def test_a_source_that_is_not_there_is_one_sentence(monkeypatch):
    with pytest.raises(MattoniError, match="There is no './nowhere': name a folder or a Hub id such as llava-hf"):
        bring_in("./nowhere")
    # The tests run offline: the real client says so.
    with pytest.raises(MattoniError, match="'someone/something' could not be fetched from the Hub: check the network"):
        bring_in("someone/something")


def test_a_full_disk_leaves_nothing(checkpoints, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1_000_000))
        with pytest.raises(MattoniError, match="needs 0.1 GB beside its own files and 0.0 GB are free"):
            bring_in(checkpoints["llava"])
    with full_disk(20_000), pytest.raises(MattoniError, match="Cannot write .*: free some space"):
        bring_in(checkpoints["llava"])
    assert nothing_is_there()
