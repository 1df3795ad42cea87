"""EfficientNet-Lite2's published weights as a folder that open_clip loads. Knows nothing of where they came from."""

import json
import pickle
from pathlib import Path

import mattoni.torchvision_ops  # noqa: F401  (before open_clip)

import open_clip
import timm
import torch
from safetensors.torch import save_file
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor

from mattoni.errors import MattoniError
from mattoni.files import write_text
from modality_bricks.encoder import CLASSES, CONFIG, WEIGHTS

ARCHITECTURE = "tf_efficientnet_lite2"
SIZE = 192  # names 56 % of Tiny ImageNet dev without training; 50 % at 128, 55 % at 224 (docs/experiments.md)
WIDTH = 472  # of the last two stages side by side, so that the pooled token is as wide as the patches
PREPROCESS = {
    "mean": [127 / 255] * 3,
    "std": [128 / 255] * 3,
    "interpolation": "bicubic",
    "resize_mode": "squash",
    "size": [SIZE, SIZE],
}
CONFIGURATION = {
    "embed_dim": WIDTH,
    "vision_cfg": {
        "timm_model_name": ARCHITECTURE,
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": SIZE,
    },
    # open_clip has no model without one; nothing asks it.
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 1, "layers": 1},
}


def convert_lite2(source: Path, folder: Path) -> None:
    """Write the pickled weights, read without running any of it, as an open_clip folder with a timm tower.

    The projection of the pooled features, (1280,) -> (472,), is the part of them that the network's own classifier looks at
    most: the first right singular vectors of its centred weights. It needs no pictures, so the folder follows from `source`.

    Raises MattoniError when the weights are not this network's.
    """
    try:
        weights: dict[str, Tensor] = torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as problem:
        raise MattoniError(
            f"{source.name} holds no weights that can be read without running code: pull it again."
        ) from problem
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of the text tower that open_clip asks for
        model = open_clip.CLIP(CONFIGURATION["embed_dim"], CONFIGURATION["vision_cfg"], CONFIGURATION["text_cfg"])
    whole = timm.create_model(ARCHITECTURE, pretrained=False).state_dict()
    if not isinstance(weights, dict) or [w.shape for w in weights.values()] != [w.shape for w in whole.values()]:
        raise MattoniError(f"{source.name} does not hold the weights of {ARCHITECTURE}: pull it again.")
    # The publisher's names are others, and the order is the same.
    named = dict(zip(whole, weights.values(), strict=True))
    state = model.state_dict()
    trunk = {f"visual.trunk.{name}": value for name, value in named.items() if not name.startswith("classifier.")}
    state.update(trunk)
    state["visual.head.proj.weight"] = principal_directions(named["classifier.weight"], WIDTH)
    model.load_state_dict(state)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / WEIGHTS)
    write_classes(folder, named["classifier.weight"], named["classifier.bias"], state["visual.head.proj.weight"])
    write_text(folder / CONFIG, json.dumps({"model_cfg": CONFIGURATION, "preprocess_cfg": PREPROCESS}, indent=1))


def write_classes(folder: Path, weight: Tensor, bias: Tensor, projection: Tensor) -> None:
    """The network's own classifier on the projected features, with its names: 90 % of its weights' variance.

    weight      (classes, width)
    projection  (pooled, width), orthonormal rows
    """
    info = ImageNetInfo("imagenet-1k")
    names = [info.index_to_description(number).split(",")[0].strip() for number in range(len(bias))]
    # What all classes share moves no probability.
    on_projected = (weight - weight.mean(dim=0)).float() @ projection.float().T
    save_file(
        {"weight": on_projected.contiguous(), "bias": bias.float().contiguous()},
        folder / CLASSES,
        {"names": json.dumps(names)},
    )


def principal_directions(weight: Tensor, count: int) -> Tensor:
    """(classes, width) -> (count, width): the directions in which the classes differ most, orthonormal, strongest first."""
    centred = weight.double() - weight.double().mean(dim=0)
    directions: Tensor = torch.linalg.svd(centred, full_matrices=False).Vh[:count]
    # A singular vector's sign is the library's whim; a stitch that was trained elsewhere must find the same one.
    strongest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    signed: Tensor = directions * strongest.sign()
    return signed.float()
