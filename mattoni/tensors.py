"""Safetensors files: what they hold, and copies of some tensors under other names, as bytes, without loading any of them.

The format: eight bytes with the header's length, the header (JSON), and the tensors' bytes one after the other
(https://huggingface.co/docs/safetensors). Copying bytes keeps memory low and every value as it is, whatever its type.
"""

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from mattoni.errors import MattoniError
from mattoni.files import replacing

_LONGEST_HEADER = 100_000_000
_CHUNK = 1 << 24


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: its name there, type, shape, and the bytes from `begin` to `end`."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        count = 1
        for size in self.shape:
            count *= size
        return count


def stored_tensors(files: Iterable[Path]) -> dict[str, Stored]:
    """All tensors of some safetensors files by name. Raises MattoniError for a file that is cut short or something else."""
    return {name: tensor for file in files for name, tensor in _read_header(file).items()}


def _read_header(file: Path) -> dict[str, Stored]:
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(size, _LONGEST_HEADER):
                raise ValueError("its header is longer than the file")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        start = 8 + length
        found = {
            name: Stored(file, name, v["dtype"], tuple(v["shape"]), *(start + place for place in v["data_offsets"]))
            for name, v in header.items()
        }
    except OSError as problem:
        raise MattoniError(f"{file.name} cannot be read ({problem.strerror}): copy it again.") from problem
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise MattoniError(f"{file.name} is cut short or no safetensors file: copy it again.") from problem
    if any(tensor.end > size for tensor in found.values()):
        raise MattoniError(f"{file.name} is cut short ({size:,} bytes are there, more are announced): copy it again.")
    return found


def copy_tensors(tensors: Mapping[str, Stored], target: Path, metadata: Mapping[str, str]) -> None:
    """Write the bytes of some tensors as one safetensors file, under their keys' names."""
    # As the format's own writer does: wide types first, so that each tensor is aligned.
    order = sorted(tensors, key=lambda name: (-_width(tensors[name]), name))
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    place = 0
    for name in order:
        tensor = tensors[name]
        after = place + tensor.end - tensor.begin
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [place, after]}
        place = after
    written = json.dumps(header).encode()
    written += b" " * (-len(written) % 8)
    with replacing(target) as temporary, temporary.open("wb") as sink:
        sink.write(struct.pack("<Q", len(written)) + written)
        for name in order:
            tensor = tensors[name]
            with tensor.file.open("rb") as source:
                source.seek(tensor.begin)
                left = tensor.end - tensor.begin
                while left:
                    chunk = source.read(min(left, _CHUNK))
                    if not chunk:
                        raise MattoniError(f"{tensor.file.name} is cut short: copy it again.")
                    sink.write(chunk)
                    left -= len(chunk)


def _width(tensor: Stored) -> int:
    """Bytes of one number."""
    return (tensor.end - tensor.begin) // max(1, tensor.elements)


def read_safetensors(path: Path, where: str) -> dict[str, Tensor]:
    """All tensors of a safetensors file, which may be something else under its name."""
    with path.open("rb") as file:
        begin = file.read(9)
    # A safetensors file has "{" after eight bytes of length; a pickle begins with 0x80, torch.save's archive with "PK".
    if len(begin) == 9 and begin[8:] != b"{" and (begin[:1] == b"\x80" or begin[:2] == b"PK"):
        raise MattoniError(f"{where} is a pickle, which can run code, under another name: save it as safetensors.")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError, RuntimeError) as problem:
        raise MattoniError(f"{where} is truncated or damaged: copy the adapter again.") from problem
