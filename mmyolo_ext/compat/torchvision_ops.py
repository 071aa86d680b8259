"""torchvision's ops, where they are of use: built for this torch and for this device."""

import functools
from types import ModuleType

import torch


@functools.cache
def torchvision_ops(device: torch.device) -> ModuleType | None:
    """``torchvision.ops`` if it imports and computes on ``device``, else None.

    A torchvision of another torch or CUDA version is common: it imports, with or without a warning, and fails on the
    first call.
    """
    try:
        import torchvision

        box = torch.tensor([[0.0, 0.0, 1.0, 1.0]], device=device)
        torchvision.ops.nms(box, box[:, 0], 0.5)
    except (ImportError, AttributeError, NotImplementedError, OSError, RuntimeError):
        return None
    return torchvision.ops
