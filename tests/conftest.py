"""What every test stands on: one thread, a home of its own, no network, and tiny models that run the real path."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Before the first import of a library that asks the Hub: a test that reaches for the network is a mistake.
os.environ["HF_HUB_OFFLINE"] = "1"
# Loky, OpenMP and tokenizers each start a pool of their own; on two cores they only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Whatever this machine's owner talks to, tests are for the smallest.
os.environ["MATTONI_HOST"] = "builtin"

import mattoni.torchvision_ops  # noqa: F401

import hypothesis
import torch

from mattoni.paths import cache_folder

if TYPE_CHECKING:
    from tests.postgres import Server

torch.set_num_threads(1)
hypothesis.settings.register_profile("mattoni", deadline=None)  # torch's first call is slow
hypothesis.settings.load_profile("mattoni")

# Read before any test moves MATTONI_HOME: the cache that `make setup` filled.
REAL_CACHE = cache_folder()

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = (
    "What is in the picture? A dog runs over the grass. The total of the receipt is 12.50. "
    "Translate this sentence to German: a man sleeps on a couch. system user assistant "
    "The capital of Italy is Rome, and its bricks are called mattoni."
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home for this test alone: `MATTONI_HOME`, with data/ and cache/ in it. Seeds torch too."""
    folder = tmp_path / "home"
    monkeypatch.setenv("MATTONI_HOME", str(folder))
    monkeypatch.delenv("MATTONI_DATABASE", raising=False)
    torch.manual_seed(0)
    return folder


def link_real_cache(folder: Path) -> None:
    """Make `folder/cache` the cache that `make setup` filled, or skip with the reason."""
    if not REAL_CACHE.is_dir():
        pytest.skip(f"the builtin models are not in {REAL_CACHE}: run `make setup` or `mattoni models pull` first")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cache").symlink_to(REAL_CACHE, target_is_directory=True)


@pytest.fixture
def real_cache(home: Path) -> Path:
    """For slow tests on the builtin models: this test's home (empty data) with the cache that `make setup` filled."""
    link_real_cache(home)
    return home


@pytest.fixture(scope="session")
def real_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """As `real_cache`, for fixtures that live through the whole run, such as a loaded builtin host."""
    folder = tmp_path_factory.mktemp("real-home")
    link_real_cache(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MATTONI_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def postgres() -> "Iterator[Server]":
    """A PostgreSQL server for the whole run: take a database of your own from it, and leave it running."""
    from tests.postgres import running_server

    with running_server() as server:
        yield server


@pytest.fixture
def training_data() -> Path:
    """The folder of the data packs; skips visibly where `MATTONI_DATA` is not set."""
    value = os.environ.get("MATTONI_DATA")
    if not value:
        pytest.skip("needs the data packs: set MATTONI_DATA to their folder")
    return Path(value)


@pytest.fixture(scope="session")
def tiny_host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `load_host` loads: a random Llama of width 32 with a real byte-level BPE and a chat template.

    It is shared by the whole run: read it, and copy it before changing a byte.
    """
    return make_tiny_host(tmp_path_factory.mktemp("tiny-host"))


@pytest.fixture(scope="session")
def make_host() -> Callable[..., Path]:
    """`make_tiny_host` for tests that need a second host: another seed, width or depth."""
    return make_tiny_host


def make_tiny_host(folder: Path, seed: int = 0, hidden_size: int = 32, layers: int = 2, corpus: str = CORPUS) -> Path:
    """Write a tiny random Llama and its tokenizer; another seed or width makes a host that bricks do not fit, another corpus one of other words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([corpus], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=2048,
    )
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=384,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        # Ten times the usual spread: with the default 0.02 a random model's next token hardly depends on the prompt.
        for parameter in model.parameters():
            if parameter.dim() == 2:
                torch.nn.init.normal_(parameter, std=0.2)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_embedder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `Embedder` loads: a small BERT whose vectors follow the words of a text, known or spelt alike."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny-embedder")
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    corpus = ["the kiln burns bricks at a thousand degrees", "mortar is sand lime and water", "what is the garden"]
    tokenizer.train_from_iterator(
        corpus,
        trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    # Shipped tokenizers cut and pad in their own way, which must not matter.
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=128)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=512,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertModel(config)
        torch.nn.init.normal_(model.embeddings.word_embeddings.weight, std=0.3)
    model.save_pretrained(folder)
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none, and say so."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and there is none"))
