"""Safetensors as bytes: what is copied is what was there, whatever its type; what is cut short is refused."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mattoni.errors import MattoniError
from mattoni.tensors import copy_tensors, stored_tensors

TENSORS = {
    "a.half": torch.randn(3, 5).half(),
    "a.brain": torch.randn(7).bfloat16(),
    "a.double": torch.randn(2, 2, 2).double(),
    "a.ids": torch.arange(3),
    "a.flags": torch.tensor([True, False, True]),
    "a.scalar": torch.tensor(4.0),
    "a.none": torch.zeros(0, 4),
}


def test_tensors_of_several_files_are_copied_under_new_names(tmp_path: Path) -> None:
    names = list(TENSORS)
    for n, part in enumerate((names[:3], names[3:])):
        save_file({name: TENSORS[name] for name in part}, tmp_path / f"{n}.safetensors", {"format": "pt"})
    stored = stored_tensors(sorted(tmp_path.glob("*.safetensors")))
    assert {name: (t.shape, t.elements) for name, t in stored.items()} == {
        name: (tuple(t.shape), t.numel()) for name, t in TENSORS.items()
    }
    wanted = {name.replace("a.", "b."): t for name, t in stored.items() if name != "a.flags"}
    copy_tensors(wanted, tmp_path / "copy.safetensors", {"made": "here"})
    copied = load_file(tmp_path / "copy.safetensors")
    assert set(copied) == set(wanted)
    for name, tensor in copied.items():
        torch.testing.assert_close(tensor, TENSORS[name.replace("b.", "a.")], rtol=0, atol=0)
    with safe_open(tmp_path / "copy.safetensors", "pt") as file:
        assert file.metadata() == {"made": "here"}


@pytest.mark.parametrize("left", [0, 5, 20, -1])
def test_a_file_that_is_cut_short_is_refused_by_name(left: int, tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:left])
    with pytest.raises(MattoniError, match=r"cut\.safetensors is cut short"):
        stored_tensors([tmp_path / "cut.safetensors"])


def test_a_file_that_shrinks_while_it_is_copied_leaves_nothing(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "whole.safetensors")
    stored = stored_tensors([tmp_path / "whole.safetensors"])
    with (tmp_path / "whole.safetensors").open("rb+") as file:
        file.truncate(100)
    with pytest.raises(MattoniError, match=r"whole\.safetensors is cut short"):
        copy_tensors(stored, tmp_path / "copy.safetensors", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole.safetensors"]
