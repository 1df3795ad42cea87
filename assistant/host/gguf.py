"""Turns a GGUF file into a folder that transformers loads. Knows nothing of where the file came from."""

from pathlib import Path

import mattoni.torchvision_ops  # noqa: F401

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from mattoni.errors import MattoniError


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
    try:
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    except (OSError, SafetensorError) as problem:
        raise MattoniError(f"Cannot write in {target.parent} ({first_line(problem)}): free some space.") from problem


def first_line(problem: Exception) -> str:
    """What a foreign error says, in one line."""
    return (str(problem).strip() or type(problem).__name__).splitlines()[0].rstrip(".")
