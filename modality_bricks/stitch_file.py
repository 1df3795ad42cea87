"""The file of a stitch: written, read, and shared between the hosts of a brick. Knows nothing of pictures, prompts or cards.

A stitch for a further host that reads features as its brick's own does has a file of what hangs on that host alone, and the digest of
the file that it belongs beside.
"""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mattoni.errors import MattoniError
from mattoni.files import replacing, sha256_of
from modality_bricks.stitch import OF_THE_HOST, QFormerStitch, StitchShape

FILE = "stitch.safetensors"


def save_stitch(stitch: QFormerStitch, folder: Path, beside: Path | None = None) -> None:
    """Write `stitch.safetensors` in bf16, with the shape in its metadata.

    beside  the folder of a stitch that reads features alike, for another host: what both have stays there and is not written again
    """
    tensors = {k: v.bfloat16() if v.is_floating_point() else v for k, v in stitch.state_dict().items()}
    said = {"shape": json.dumps(asdict(stitch.shape))}
    if beside is not None:
        tensors = {k: v for k, v in tensors.items() if k in OF_THE_HOST}
        said["beside"] = sha256_of(beside / FILE)
    with replacing(folder / FILE) as temporary:
        save_file({k: v.contiguous().cpu() for k, v in tensors.items()}, temporary, said)


def reads_alike(one: Path, other: Path) -> bool:
    """Whether the stitches of two folders differ in nothing but what hangs on the host."""
    first, second = ({k: v for k, v in _weights(f, None)[1].items() if k not in OF_THE_HOST} for f in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def is_whole(folder: Path) -> bool:
    """Whether the stitch of a folder is written out there, and not in part beside another."""
    with safe_open(folder / FILE, "pt") as file:
        return "beside" not in file.metadata()


def load_stitch(
    folder: Path,
    host_embedding: Tensor,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    beside: Path | None = None,
) -> QFormerStitch:
    """Load a frozen stitch.

    beside  the folder of the stitch that this one shares with what reads features, where it was written so

    Raises MattoniError when the file is damaged, holds NaN, or fits another host.
    """
    stitch = read_stitch(folder, beside).to(device=device, dtype=dtype)
    stitch.read_host(host_embedding)
    return stitch.requires_grad_(False).eval()


def read_stitch(folder: Path, beside: Path | None = None) -> QFormerStitch:
    """A stitch in fp32 as it is on the disk, which no host has given its words' vectors yet. Raises MattoniError as `load_stitch`."""
    where = f"{folder.name}/{FILE}"
    try:
        shape, weights = _weights(folder, beside)
        stitch = QFormerStitch(shape)
        stitch.load_state_dict(weights)
    except FileNotFoundError as problem:
        raise MattoniError(f"{where} is missing: copy the brick again.") from problem
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as problem:
        raise MattoniError(f"{where} is damaged or not a stitch: copy the brick again.") from problem
    if not all(bool(w.isfinite().all()) for w in weights.values()):
        raise MattoniError(f"{where} holds values that are not numbers (NaN): copy the brick again.")
    return stitch


def _weights(folder: Path, beside: Path | None) -> tuple[StitchShape, dict[str, Tensor]]:
    """Shape and weights, with those that stand beside. Raises what safetensors does, and MattoniError for another stitch beside."""
    with safe_open(folder / FILE, "pt") as file:
        said = file.metadata()
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    shape = StitchShape(**json.loads(said["shape"]))
    if "beside" not in said:
        return shape, weights
    if beside is None or sha256_of(beside / FILE) != said["beside"]:
        raise MattoniError(
            f"{folder.name}/{FILE} belongs beside another stitch than its brick's: copy the brick again."
        )
    return shape, {**_weights(beside, None)[1], **weights}
