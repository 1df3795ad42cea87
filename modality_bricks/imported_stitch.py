"""Stitches of imported checkpoints, as transformers runs them: from a tower's features to soft tokens.

`blip2-qformer`: query tokens read the features through a Q-Former (BLIP-2, Li et al. 2023, arXiv:2301.12597).
`instructblip-qformer`: the queries see the question too (InstructBLIP, Dai et al. 2023, arXiv:2305.06500, section 2.3).
`mlp`: two linear layers on each feature (LLaVA-1.5, Liu et al. 2023, arXiv:2310.03744, section 3.2).
"""

import json
from pathlib import Path
from typing import Any

import mattoni.torchvision_ops  # noqa: F401  (before transformers)

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    Blip2Config,
    Blip2QFormerModel,
    InstructBlipConfig,
    InstructBlipQFormerModel,
    LlavaConfig,
    PreTrainedTokenizerBase,
)
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from mattoni.errors import MattoniError
from modality_bricks.attended import attended
from modality_bricks.stitch_file import FILE

TOKENIZER = "tokenizer"  # the folder of an instruction-aware Q-Former's own tokenizer


class Blip2Stitch(nn.Module):
    """(batch, tokens, feature width) -> (batch, queries, host width)."""

    reads_question = False

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.query_tokens = nn.Parameter(torch.zeros(1, config.num_query_tokens, config.qformer_config.hidden_size))
        self.qformer = Blip2QFormerModel(config.qformer_config)
        self.language_projection = nn.Linear(config.qformer_config.hidden_size, config.text_config.hidden_size)

    def forward(self, features: Tensor) -> Tensor:
        """Let the queries read the features."""
        read = self.qformer(**self._inputs(features), encoder_hidden_states=features)
        soft = self.language_projection(read.last_hidden_state.to(self.language_projection.weight.dtype))
        assert isinstance(soft, Tensor)
        return soft

    def attended(self, features: Tensor, question: str = "") -> Tensor:
        """The share of the queries' attention that each feature got: (batch, tokens). The question plays no part."""
        return attended(self.qformer, features.to(self.query_tokens.dtype), **self._inputs(features))

    def _inputs(self, features: Tensor) -> dict[str, Tensor]:
        return {"query_embeds": self.query_tokens.expand(len(features), -1, -1)}


class InstructBlipStitch(nn.Module):
    """(batch, tokens, feature width) and a question -> (batch, queries, host width)."""

    reads_question = True

    def __init__(self, config: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self._longest = config.qformer_config.max_position_embeddings
        self.query_tokens = nn.Parameter(torch.zeros(1, config.num_query_tokens, config.qformer_config.hidden_size))
        self.qformer = InstructBlipQFormerModel(config.qformer_config)
        self.language_projection = nn.Linear(config.qformer_config.hidden_size, config.text_config.hidden_size)

    def forward(self, features: Tensor, question: str) -> Tensor:
        """Let the queries read the features and the question."""
        read = self.qformer(**self._inputs(features, question), encoder_hidden_states=features).last_hidden_state
        soft = self.language_projection(read[:, : self.query_tokens.shape[1]].to(self.language_projection.weight.dtype))
        assert isinstance(soft, Tensor)
        return soft

    def attended(self, features: Tensor, question: str) -> Tensor:
        """The share of the queries' attention that each feature got with this question: (batch, tokens)."""
        return attended(self.qformer, features, **self._inputs(features, question))

    def _inputs(self, features: Tensor, question: str) -> dict[str, Tensor]:
        ids = self._tokenizer(question, truncation=True, max_length=self._longest)["input_ids"]
        return {
            "input_ids": torch.tensor([ids], device=features.device).expand(len(features), -1),
            "query_embeds": self.query_tokens.expand(len(features), -1, -1),
        }


class ProjectorStitch(nn.Module):
    """(batch, tokens, feature width) -> (batch, tokens, host width)."""

    reads_question = False

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__()
        self.multi_modal_projector = LlavaMultiModalProjector(config)

    def forward(self, features: Tensor) -> Tensor:
        """Project each feature to the host's width."""
        soft = self.multi_modal_projector(features)
        assert isinstance(soft, Tensor)
        return soft


ImportedStitch = Blip2Stitch | InstructBlipStitch | ProjectorStitch
KINDS = ("blip2-qformer", "instructblip-qformer", "mlp")


def load_imported_stitch(
    kind: str, folder: Path, host_width: int, device: torch.device | str, dtype: torch.dtype
) -> ImportedStitch:
    """Load a frozen stitch. Raises MattoniError when its file is missing or damaged, or it fits another host."""
    where = f"{folder.name}/{FILE}"
    try:
        with safe_open(folder / FILE, "pt") as file:
            config = json.loads(file.metadata()["config"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
        stitch = _build(kind, config, folder)
        missing = stitch.load_state_dict(weights, strict=False).missing_keys
    except FileNotFoundError as problem:
        raise MattoniError(f"{where} is missing: import the brick again.") from problem
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as problem:
        raise MattoniError(f"{where} is damaged or no stitch of the kind {kind}: import the brick again.") from problem
    if missing:
        raise MattoniError(f"{where} lacks {missing[0]}: import the brick again.")
    if config["text_config"]["hidden_size"] != host_width:
        raise MattoniError(
            f"The stitch is made for a host of width {config['text_config']['hidden_size']} and this host has width "
            f"{host_width}: use the host that was imported with it."
        )
    stitch = stitch.to(device=device, dtype=dtype)
    if isinstance(stitch, Blip2Stitch):
        # As transformers does: BLIP-2's Q-Former loses too much in half precision.
        stitch.qformer.float()
        stitch.query_tokens.data = stitch.query_tokens.data.float()
    return stitch.requires_grad_(False).eval()


def _build(kind: str, config: dict[str, Any], folder: Path) -> ImportedStitch:
    if kind == "blip2-qformer":
        return Blip2Stitch(Blip2Config.from_dict(config))
    if kind == "instructblip-qformer":
        tokenizer = AutoTokenizer.from_pretrained(folder / TOKENIZER, local_files_only=True)
        return InstructBlipStitch(InstructBlipConfig.from_dict(config), tokenizer)
    return ProjectorStitch(LlavaConfig.from_dict(config))
