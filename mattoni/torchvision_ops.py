"""Makes torchvision importable beside a CPU build of torch. Import this module before transformers, open_clip or timm.

PyPI's torchvision is built for CUDA; beside a CPU build of torch its compiled operators do not load, and its import
fails with "operator torchvision::nms does not exist", which takes transformers, open_clip and timm down with it. Only
its transforms are used here, so declaring the two operators' schemas is enough. A torchvision that imports plainly is
left alone.
"""

import importlib
import sys
from types import ModuleType

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
# The library must outlive this function: its schemas vanish when it is collected.
_declared: list[torch.library.Library] = []


def import_torchvision() -> ModuleType | None:
    """Import torchvision, declaring its missing operators if the plain import fails; None if it is not installed."""
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return None
    except RuntimeError as problem:
        if "torchvision::nms" not in str(problem) or _declared:
            raise
    for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    _declared.append(library)
    return importlib.import_module("torchvision")


import_torchvision()
