"""Turns a GGUF file into a folder that transformers loads. Knows nothing of where the file came from."""

from pathlib import Path
from typing import Any

import mattoni.torchvision_ops  # noqa: F401

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel

from mattoni.errors import MattoniError

_ROUNDING = 0.1


def convert_gguf(source: Path, target: Path) -> None:
    """Write a GGUF file as bf16 safetensors, configuration and tokenizer into `target`."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        model = AutoModelForCausalLM.from_pretrained(
            source.parent,
            gguf_file=source.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
    except Exception as problem:  # a reader of foreign bytes raises whatever it likes: struct.error, KeyError, …
        raise MattoniError(
            f"{source.name} is not a GGUF file that transformers can read: {first_line(problem)}."
        ) from problem
    tie_embeddings(model)
    try:
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    except (OSError, SafetensorError) as problem:
        raise MattoniError(f"Cannot write in {target.parent} ({first_line(problem)}): free some space.") from problem


def tie_embeddings(model: PreTrainedModel) -> None:
    """Let one matrix be input and output embeddings where the file holds the same one twice, rounded in two ways.

    The finer rounding stays, the output's: a quarter of a small host's memory is that matrix.
    """
    head: Any = model.get_output_embeddings()
    embeddings: Any = model.get_input_embeddings()
    if head is None or head.weight is embeddings.weight or head.weight.shape != embeddings.weight.shape:
        return
    sample = slice(None, None, 64)
    one, other = head.weight.detach()[sample].float(), embeddings.weight.detach()[sample].float()
    # Rounding to 5 bits and to 8 bits differs by 4 % (Qwen2.5-Coder-0.5B); matrices of their own differ by more than their length.
    if float((one - other).norm() / one.norm()) < _ROUNDING:
        embeddings.weight = head.weight
        model.config.tie_word_embeddings = True


def first_line(problem: Exception) -> str:
    """What a foreign error says, in one line."""
    return (str(problem).strip() or type(problem).__name__).splitlines()[0].rstrip(".")
