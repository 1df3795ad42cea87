"""Importing BLIP-2, InstructBLIP and LLaVA-1.5: their tiny random selves answer as transformers lets them answer."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mattoni.torchvision_ops  # noqa: F401

import pytest
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoProcessor,
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
from assistant.embedder import Embedder
from assistant.generation import Generation, Sampling
from assistant.importing import import_checkpoint
from assistant.look import Attachment
from assistant.picture_questions import PictureQuestions
from assistant.registry import Registry
from assistant.route import Choices
from assistant.turn import Runner
from mattoni.paths import brick_folders, data_folder, hosts_folder
from tests.assistant.conftest import done

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


def large(model: torch.nn.Module) -> None:
    """Weights far enough apart that the answer depends on every token and every pixel."""
    torch.manual_seed(0)
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


def make_llava(folder: Path, **changes: Any) -> Path:
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
    return save(LlavaForConditionalGeneration(config), processor, folder)


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


def save(model: Any, processor: Any, folder: Path) -> Path:
    """Write a checkpoint in several shards, as the large ones are."""
    large(model)
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
def opened(tiny_embedder_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Assistant]]:
    """Open the assistant on an imported host, in fp32."""
    embedder = Embedder(tiny_embedder_folder)
    depths = torch.zeros_like(embedder.depths("text"))
    monkeypatch.setattr(Runner, "embedder", embedder)
    monkeypatch.setattr(Runner, "picture_questions", PictureQuestions(depths, depths, threshold=1.0))
    assistants: list[Assistant] = []

    def open_it(host: str) -> Assistant:
        assistants.append(Assistant.open(host, device="cpu", dtype="float32"))
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
    forward = Generation._forward
    monkeypatch.setattr(Generation, "_forward", lambda self, inputs: seen.append(forward(self, inputs)) or seen[-1])
    assistant = opened(card.name)
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
