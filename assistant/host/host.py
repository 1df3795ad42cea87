"""The frozen language model: loading, freezing, fingerprint, and what it supports. Knows nothing of bricks or turns."""

import copy
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import mattoni.torchvision_ops  # noqa: F401

import torch
from pydantic import ValidationError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from assistant.host.catalogue import (
    BUILTIN_HOST,
    HostSampling,
    catalogue,
    check_host_memory,
    fetch,
    imported_hosts,
)
from assistant.host.gguf import first_line, tie_embeddings
from assistant.host.space import free_memory
from mattoni.card import HostIdentity, Injection
from mattoni.errors import MattoniError
from mattoni.paths import hosts_folder
from mattoni.processor import multiplies_bf16

Quantise = Literal["4bit"]
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_CONFIG_FIELDS = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "tie_word_embeddings",
)
_SAMPLES_PER_TENSOR = 64


@dataclass(frozen=True)
class Host:
    """A frozen causal language model with its tokenizer. Nothing ever writes to its weights."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    system: str | None = None  # what its conversations begin with; None: what its chat template says
    ask_text: str | None = None  # what stands between a text and a question about it; None: `ASK_TEXT`
    stop: tuple[str, ...] = ()  # tokens that end an answer, beside those of its own configuration
    catalogued: HostSampling = HostSampling()  # for what its own files do not say
    focuses: bool = False  # a question stands beside what it is about alone, and earlier talk stays out of its prompt
    reason: str = ""  # why it answers and not another, where somebody else chose it
    source: str = (
        ""  # as `load_host` was told, with what it took for weights: another process loads the same with these
    )
    quantise: Quantise | None = None

    @property
    def device(self) -> torch.device:
        """Where embeddings are looked up; with a device map, the first device."""
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the soft tokens that it takes."""
        return self.embedding.dtype

    @property
    def embedding(self) -> Tensor:
        """The word embeddings, (vocabulary, width)."""
        weight = self.model.get_input_embeddings().weight
        assert isinstance(weight, Tensor)
        return weight

    @cached_property
    def parameters(self) -> int:
        """How many numbers it consists of, tied ones once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def width(self) -> int:
        """Length of a word embedding, and so of a soft token."""
        return int(self.embedding.shape[1])

    @property
    def context(self) -> int:
        """How many positions a prompt and its answer may take together."""
        return int(getattr(self.model.config, "max_position_embeddings", None) or 2048)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        config = self.model.generation_config
        configured = config.eos_token_id if config is not None else None
        ids = configured if isinstance(configured, list) else [configured, self.tokenizer.eos_token_id]
        added = self.tokenizer.get_added_vocab()
        return frozenset(int(i) for i in [*ids, *(added.get(token) for token in self.stop)] if i is not None)

    @cached_property
    def sampling(self) -> HostSampling:
        """How its makers want its next token drawn: its generation config and, for what that leaves out, the catalogue."""
        config = self.model.generation_config
        own = {name: getattr(config, name, None) for name in HostSampling.model_fields}
        said = {name: value for name, value in own.items() if value is not None}
        try:
            return HostSampling.model_validate(self.catalogued.model_dump() | said)
        except ValidationError:  # a foreign file may say anything
            return self.catalogued

    @cached_property
    def linear_layers(self) -> dict[str, torch.nn.Linear]:
        """The linear layers by module name, without the one that gives the logits."""
        modules = self.model.named_modules()
        return {name: m for name, m in modules if isinstance(m, torch.nn.Linear) and name != "lm_head"}

    @cached_property
    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """(out, in) of each linear layer by module name; quantised layers keep their logical shape."""
        return {name: (int(m.out_features), int(m.in_features)) for name, m in self.linear_layers.items()}

    @cached_property
    def adaptable_layers(self) -> dict[str, torch.nn.Linear]:
        """The layers that a low-rank delta may change: the linear layers, and the one that gives the logits.

        A delta on the latter leaves the word embeddings as they are, also where both are one matrix: as with peft.
        """
        head = self.model.get_output_embeddings()
        name = next((name for name, module in self.model.named_modules() if module is head), None)
        if name is None or not isinstance(head, torch.nn.Linear):
            return self.linear_layers
        return {**self.linear_layers, name: head}

    @cached_property
    def adaptable_shapes(self) -> dict[str, tuple[int, int]]:
        """(out, in) of each of them."""
        return {name: (int(m.out_features), int(m.in_features)) for name, m in self.adaptable_layers.items()}

    @cached_property
    def key_shape(self) -> tuple[int, int, int]:
        """Of the keys of a position, and of its values: layers, heads, width of a head."""
        config = self.model.config.get_text_config()
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        return int(config.num_hidden_layers), int(heads), int(width)

    @property
    def weights(self) -> dict[str, Tensor]:
        """Every weight by name, also one that goes by two names."""
        return dict(self.model.named_parameters(remove_duplicate=False))

    @cached_property
    def gated_layers(self) -> dict[int, str]:
        """Name of each layer's FFN output projection, whose input neurons a gate scales."""
        suffix = ".mlp.down_proj"
        return {
            int(name.removesuffix(suffix).split(".")[-1]): name for name in self.linear_shapes if name.endswith(suffix)
        }

    @cached_property
    def supports(self) -> frozenset[Injection]:
        """The injections that this host can take; the composer refuses the rest by name."""
        supported: set[Injection] = {"sequence", "low-rank"}
        config = self.model.config.get_text_config()
        sliding = any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or [])
        rotary = getattr(config, "rope_parameters", None) is not None or getattr(config, "rope_theta", None) is not None
        # A prefix shifts positions and fills every layer's cache: it needs rotary positions and full attention
        # throughout.
        if rotary and not sliding:
            supported.add("prefix")
        if self.gated_layers:
            supported |= {"gate", "keyed"}
        return frozenset(supported)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over config fields and a fixed sample of every weight in bf16."""
        weights = dict(self.model.named_parameters())
        return fingerprint(self.model.config, weights, weights.__getitem__)

    @cached_property
    def identity(self) -> HostIdentity:
        """What a card records about the host it was made for."""
        return identity(self.model.config, self.tokenizer, self.fingerprint)

    def embed(self, ids: Tensor) -> Tensor:
        """(…) token ids → (…, width) word embeddings."""
        vectors = self.model.get_input_embeddings()(ids)
        assert isinstance(vectors, Tensor)
        return vectors

    def weights_digest(self) -> str:
        """sha256 over every byte of every weight: equal before and after, or something wrote to the host."""
        digest = hashlib.sha256()
        for _, weight in sorted(self.model.state_dict().items()):
            digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def fingerprint(config: PreTrainedConfig, names: Iterable[str], weight: Callable[[str], Tensor]) -> str:
    """sha256 over config fields and a fixed sample of every weight in bf16; `weight` gives one at a time by name."""
    fields = {f: getattr(config.get_text_config(), f, None) for f in _CONFIG_FIELDS}
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    for name in sorted(names):
        digest.update(name.encode())
        flat = weight(name).detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // _SAMPLES_PER_TENSOR)].to("cpu", torch.bfloat16)
        digest.update(sample.view(torch.int16).numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


def identity(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, weights: str) -> HostIdentity:
    """What a card records about a host; `weights` is its fingerprint."""
    config = config.get_text_config()
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])).encode()
    return HostIdentity(
        model_type=config.model_type,
        hidden_size=config.hidden_size,
        layers=config.num_hidden_layers,
        vocabulary=f"sha256:{hashlib.sha256(vocabulary).hexdigest()}",
        fingerprint=weights,
    )


def pick_device(wanted: str) -> torch.device:
    """`auto` → CUDA, then MPS, then the CPU; anything else as named, if it is there."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind = wanted.split(":")[0]
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(kind, False):
        raise MattoniError(
            f"There is no device '{wanted}' here: choose one of auto, {', '.join(k for k, v in there.items() if v)}."
        )
    return torch.device(wanted)


def pick_dtype(wanted: str) -> torch.dtype:
    """`auto` → bf16: half the memory, and about twice the tokens a second on a CPU of fp32."""
    if wanted == "auto":
        return torch.bfloat16
    if wanted not in _DTYPES:
        raise MattoniError(f"There is no dtype '{wanted}': choose one of auto, {', '.join(_DTYPES)}.")
    return _DTYPES[wanted]


def load_plain_host(source: str = "builtin", device: str = "auto", dtype: str = "auto") -> Host:
    """A host whose own modules will be run, to train on it or to look inside it, in the type that its device computes fastest.

    That is bf16, or fp32 on a CPU that imitates bf16. Answers are decoded from packed matrices, whatever type the host has; a gradient
    needs the modules themselves. Raises MattoniError as `load_host` does.
    """
    fastest = "bfloat16" if multiplies_bf16(pick_device(device)) else "float32"
    return load_host(source, device, fastest if dtype == "auto" else dtype)


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """A host's tokenizer alone, its weights left on the disk. Raises MattoniError as `load_host` does."""
    name, path, extra = _resolve(source)
    try:
        return _tokenizer(path, extra)
    except Exception as problem:  # as in convert_gguf
        raise MattoniError(
            f"{name}: the tokenizer of this host cannot be loaded ({first_line(problem)}): check the id, the folder or the network."
        ) from problem


def _packed(extra: dict[str, Any]) -> dict[str, Any]:
    """What of the arguments says which file to unpack."""
    return {k: v for k, v in extra.items() if k == "gguf_file"}


def _tokenizer(path: str, extra: dict[str, Any]) -> PreTrainedTokenizerBase:
    found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, **_packed(extra))
    return found


def plain_host(host: Host) -> Host:
    """A host that is there, as `load_plain_host` would give it: itself, or a copy in fp32, where there is memory for one."""
    imitates = host.dtype in (torch.bfloat16, torch.float16) and not multiplies_bf16(host.device)
    if not imitates or host.quantise or 4 * host.parameters > free_memory() // 2:
        return host
    return replace(host, model=copy.deepcopy(host.model).float())


def _resolve(source: str) -> tuple[str, str, dict[str, Any]]:
    """(name, what from_pretrained takes, further arguments) of a catalogue name, folder, GGUF file or Hub id."""
    if source == "builtin":
        source = BUILTIN_HOST
    entry = catalogue().get(source)
    if entry is not None:
        if entry.use != "host":
            raise MattoniError(f"'{source}' is an {entry.use}, not a host: choose one with `mattoni models list`.")
        return source, str(fetch(source)), {}
    imported = imported_hosts().get(source)
    if imported is not None:
        # Its files are the whole checkpoint's, where the language model's weights have other names.
        return source, str(hosts_folder() / source), {"key_mapping": imported.key_mapping}
    path = Path(source).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        packed = {"gguf_file": path.name, "quantization_config": GgufConfig(dequantize=True)}
        return path.stem, str(path.parent), packed
    if path.is_dir():
        return path.name, str(path), {}
    if source.count("/") == 1 and not path.is_absolute() and not source.startswith("."):
        return source, source, {}
    own = [name for name, known in catalogue().items() if known.use == "host"]
    hosts = ", ".join([*own, *imported_hosts()])
    raise MattoniError(
        f"There is no host '{source}' (known: {hosts}): name one of these, a Hub id, or a folder or .gguf file that exists."
    )


def _placement(path: str, device: torch.device, dtype: torch.dtype, quantise: Quantise | None) -> dict[str, Any]:
    """Arguments of from_pretrained that say where and how the weights lie."""
    if quantise is not None:
        if device.type != "cuda":
            raise MattoniError(f"4-bit weights need a CUDA device and this one is {device.type}: leave quantise out.")
        from transformers import BitsAndBytesConfig

        return {
            "quantization_config": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=dtype),
            "device_map": "auto",
        }
    if device.type == "cuda" and Path(path).is_dir():
        weights = sum(f.stat().st_size for f in Path(path).glob("*.safetensors"))
        free, _ = torch.cuda.mem_get_info(device)
        # Room for keys, values and activations beside the weights; accelerate spreads what does not fit on one card.
        if weights > 0.85 * free:
            return {"device_map": "auto"}
    return {}


def _lay_out_for_head(model: PreTrainedModel) -> None:
    """Have the layer that gives the logits get its rows one behind the other.

    The last positions of a batch are a view with gaps, for which torch 2.13 copies the layer's weights once a row: of 20 rows of the
    builtin host 1.1 GB and 1.3 s of a thread, in the place of 7 ms.
    """
    head = model.get_output_embeddings()
    if head is not None:
        head.register_forward_pre_hook(lambda _, given: (given[0].contiguous(), *given[1:]))


def load_host(
    source: str = "builtin",
    device: str = "auto",
    dtype: str = "auto",
    quantise: Quantise | None = None,
) -> Host:
    """Load a causal language model, frozen.

    source    `builtin`, a catalogue name, a Hub id, a transformers folder, or a .gguf file
    device    auto | cpu | cuda | cuda:N | mps
    dtype     auto (bf16) | bfloat16 | float16 | float32
    quantise  None, or 4bit on CUDA (bitsandbytes)

    Raises MattoniError with one sentence when there is no such host or it is no decoder-only language model.
    """
    name, path, extra = _resolve(source)
    place, kind = pick_device(device), pick_dtype(dtype)
    if place.type == "cpu":
        check_host_memory(name)
    try:
        config = AutoConfig.from_pretrained(path, **_packed(extra))
        if getattr(config, "is_encoder_decoder", False):
            raise MattoniError(f"{name}: this is an encoder-decoder; a host must be a decoder-only language model.")
        placement = _placement(path, place, kind, quantise)
        tokenizer = _tokenizer(path, extra)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=kind, use_safetensors=True, **placement, **extra)
    except MattoniError:
        raise
    except Exception as problem:  # as in convert_gguf
        raise MattoniError(
            f"{name}: this host cannot be loaded ({first_line(problem)}): check the id, the folder or the network."
        ) from problem
    if "gguf_file" in extra:
        tie_embeddings(model)
    if not placement:
        # The stubs of transformers' wrapped `to` take no device.
        model.to(place)  # type: ignore[arg-type]
    # requires_grad_(False) stops learning, not dropout: eval() does that.
    model.requires_grad_(False).eval()
    _lay_out_for_head(model)
    entry = catalogue().get(name)
    if entry is None:
        return Host(name=name, model=model, tokenizer=tokenizer, source=source, quantise=quantise)
    return Host(
        name,
        model,
        tokenizer,
        system=entry.system,
        ask_text=f"{entry.ask_text}\n\n" if entry.ask_text else None,
        stop=entry.stop,
        catalogued=entry.sampling,
        focuses=entry.focuses,
        source=source,
        quantise=quantise,
    )
