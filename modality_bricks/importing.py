"""Takes checkpoints of BLIP-2, InstructBLIP and LLaVA-1.5 apart (transformers format): a tower and a stitch for a brick, and
the language model's weights for whoever makes a host of them. Copies bytes and loads no weights; knows nothing of cards.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mattoni.torchvision_ops  # noqa: F401  (before transformers)

from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, PreTrainedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from mattoni.errors import MattoniError
from mattoni.files import pickles_in
from mattoni.tensors import Stored, copy_tensors, stored_tensors
from modality_bricks.imported_stitch import TOKENIZER
from modality_bricks.stitch_file import FILE
from modality_bricks.tower import WEIGHTS, FeatureChoice, write_choice

# Of a Hub repository: safetensors, configurations, tokenizers and the licence; pickles stay there.
WANTED = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "README.md")
STITCHES = {"blip-2": "blip2-qformer", "instructblip": "instructblip-qformer", "llava": "mlp"}
# The names of the language model's weights in a checkpoint, as published and as transformers 5 calls them inside, and alone.
LANGUAGE = {r"^language_model\.": "", r"^model\.language_model\.": "model."}
_TOWER = re.compile(r"^(?:model\.)?vision_(?:tower|model)\.")
_STITCH = re.compile(r"^(?:model\.)?(?=query_tokens|qformer\.|language_projection\.|multi_modal_projector\.)")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that can be imported: its folder, configuration, and where each weight of its three parts is."""

    title: str
    folder: Path
    config: PreTrainedConfig
    tower: dict[str, Stored]
    stitch: dict[str, Stored]
    language: dict[str, Stored]

    @property
    def kind(self) -> str:
        """The stitch that its brick gets."""
        return STITCHES[self.config.model_type]

    @property
    def parameters(self) -> int:
        """Of all parts together."""
        return sum(t.elements for part in (self.tower, self.stitch, self.language) for t in part.values())


def open_checkpoint(folder: Path, title: str) -> Checkpoint:
    """Read a checkpoint's configuration and where its weights are. `title` stands for it in sentences.

    Raises MattoniError for another family, an encoder-decoder, pickled, missing or truncated weights.
    """
    try:
        family = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except FileNotFoundError as problem:
        raise MattoniError(f"{title} holds no config.json: name the folder of a transformers checkpoint.") from problem
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise MattoniError(f"{title}/config.json is damaged or names no model_type: copy it again.") from problem
    if family not in STITCHES:
        raise MattoniError(
            f"{title} is a checkpoint of the family '{family}'; those of {', '.join(STITCHES)} can be imported."
        )
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as problem:  # what a foreign configuration makes transformers raise can be anything
        raise MattoniError(f"{title}/config.json cannot be read as {family}: copy it again.") from problem
    if config.get_text_config().is_encoder_decoder:
        raise MattoniError(
            f"{title}: its language model ({config.get_text_config().model_type}) is an encoder-decoder, and a host must be "
            "decoder-only: choose a checkpoint with OPT, Vicuna or Llama."
        )
    stored = stored_tensors(_weight_files(folder, title))
    tower = {_TOWER.sub("", name): t for name, t in stored.items() if _TOWER.match(name)}
    stitch = {_STITCH.sub("", name): t for name, t in stored.items() if _STITCH.match(name)}
    rest = {name: t for name, t in stored.items() if not (_TOWER.match(name) or _STITCH.match(name))}
    language = {_language_name(name): t for name, t in rest.items()}
    for part, found in (("vision tower", tower), ("stitch", stitch), ("language model", language)):
        if not found:
            raise MattoniError(f"{title} holds no weights of a {part}: copy it again.")
    return Checkpoint(title, folder, config, tower, stitch, language)


def _language_name(name: str) -> str:
    for pattern, plain in LANGUAGE.items():
        name = re.sub(pattern, plain, name)
    return name


def _weight_files(folder: Path, title: str) -> list[Path]:
    """The safetensors files of a checkpoint, all of them."""
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
            raise MattoniError(f"{title}/{index.name} is damaged: copy it again.") from problem
    else:
        names = [SAFE_WEIGHTS_NAME]
    for name in names:
        if (folder / name).is_file() and Path(name).name == name:
            continue
        pickled = pickles_in(folder)
        if pickled:
            raise MattoniError(
                f"{title}/{pickled[0]} is a pickled checkpoint, which can run code: choose one with safetensors."
            )
        raise MattoniError(f"{title}/{name} is missing: copy or fetch the whole checkpoint; only safetensors are read.")
    return [folder / name for name in names]


def write_parts(checkpoint: Checkpoint, folder: Path) -> dict[str, str | int]:
    """Write a brick's encoder and stitch into its folder; returns what the card says of them under `parts`."""
    config, encoder = checkpoint.config, folder / "encoder"
    encoder.mkdir()
    _foreign(checkpoint.title, "config.json", lambda: config.vision_config.save_pretrained(encoder))
    write_choice(encoder, _choice(config))
    _foreign(
        checkpoint.title,
        "preprocessor_config.json",
        lambda: AutoImageProcessor.from_pretrained(checkpoint.folder, local_files_only=True).save_pretrained(encoder),
    )
    copy_tensors(checkpoint.tower, encoder / WEIGHTS, {"format": "pt"})
    if checkpoint.kind == "instructblip-qformer":
        _foreign(
            checkpoint.title,
            "qformer_tokenizer",
            lambda: AutoTokenizer.from_pretrained(
                checkpoint.folder, subfolder="qformer_tokenizer", local_files_only=True
            ).save_pretrained(folder / TOKENIZER),
        )
    copy_tensors(checkpoint.stitch, folder / FILE, {"format": "pt", "config": config.to_json_string(use_diff=False)})
    return {"method": checkpoint.kind, "encoder": "transformers-dir:encoder"}


def _choice(config: PreTrainedConfig) -> FeatureChoice:
    """Which features of the tower the stitch reads."""
    if config.model_type != "llava":
        return FeatureChoice()
    layer = config.vision_feature_layer
    layers = (layer,) if isinstance(layer, int) else tuple(layer)
    return FeatureChoice(layers=layers, class_token=config.vision_feature_select_strategy == "full")


def _foreign(title: str, file: str, copy: Callable[[], object]) -> None:
    """Read and write one of the checkpoint's small files with transformers. A full disk stays an OSError."""
    try:
        copy()
    except OSError as problem:
        if problem.errno:
            raise
        raise MattoniError(f"{title}/{file} is missing or damaged: copy or fetch the whole checkpoint.") from problem
    except Exception as problem:  # as for its configuration
        raise MattoniError(f"{title}/{file} is missing or damaged: copy or fetch the whole checkpoint.") from problem
