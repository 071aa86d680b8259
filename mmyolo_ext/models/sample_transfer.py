"""The annotations of a batch on their way to the device.

Letters: N samples.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from mmdet.structures.bbox import BaseBoxes
from mmengine.structures import BaseDataElement
from torch import Tensor


def samples_to(
    samples: Sequence[BaseDataElement], device: torch.device, non_blocking: bool = False
) -> list[BaseDataElement]:
    """``[sample.to(device) for sample in samples]``, in one copy for each type of number and not one for each tensor.

    Boxes and labels of 16 pictures are 64 tensors of some bytes each; a copy to a GPU takes ten microseconds and more,
    however little is copied.

    Args:
        samples: (N) of any kind of MMEngine's data elements, one within the other; they stay as they are.
        device: Where to; what is there already is not copied.
        non_blocking: As for ``Tensor.to``.
    """
    copies = [_renewed(sample) for sample in samples]
    waiting = defaultdict(list)
    for owner, key, value in (field for copy in copies for field in _fields(copy)):
        tensor = value.tensor if isinstance(value, BaseBoxes) else value
        if isinstance(tensor, Tensor) and tensor.device != device:
            waiting[tensor.dtype, tensor.device].append((owner, key, value, tensor))
        elif not isinstance(tensor, Tensor) and hasattr(value, 'to'):
            owner.set_field(value.to(device), key)
    for fields in waiting.values():
        tensors = [tensor for *_, tensor in fields]
        whole = torch.cat([tensor.reshape(-1) for tensor in tensors]).to(device, non_blocking=non_blocking)
        parts = whole.split([tensor.numel() for tensor in tensors])
        for (owner, key, value, tensor), part in zip(fields, parts, strict=True):
            part = part.view(tensor.shape)
            owner.set_field(type(value)(part, clone=False) if isinstance(value, BaseBoxes) else part, key)
    return copies


def _renewed(element: BaseDataElement) -> BaseDataElement:
    """A copy, and copies of the elements within it, on the same tensors."""
    copy = element.new()
    for key, value in copy.items():
        if isinstance(value, BaseDataElement):
            copy.set_field(_renewed(value), key)
    return copy


def _fields(element: BaseDataElement) -> list[tuple[BaseDataElement, str, Any]]:
    """Owner, name and value of every field, those of elements within included."""
    fields = []
    for key, value in element.items():
        fields += _fields(value) if isinstance(value, BaseDataElement) else [(element, key, value)]
    return fields
