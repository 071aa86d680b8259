"""From samples to a batch."""

from collections.abc import Sequence

import cv2
import torch
from mmengine.dataset import pseudo_collate
from torch import Tensor
from torch.utils.data import default_collate, get_worker_info

from mmyolo_ext.registry import FUNCTIONS


@FUNCTIONS.register_module()
def stack_inputs(samples: Sequence[dict]) -> dict:
    """``inputs`` as one tensor (N, C, H, W) where all are of one size, everything else as MMEngine's pseudo_collate.

    One tensor crosses to the main process and to the device in one copy, still uint8; ``DetDataPreprocessor`` takes it
    as it takes a list. A loader's worker writes straight into the memory that it shares.
    """
    batch = pseudo_collate(samples)
    inputs = batch['inputs']
    if len({(one.shape, one.dtype) for one in inputs}) == 1:
        batch['inputs'] = _stack_pictures(inputs) if all(map(_is_picture, inputs)) else default_collate(inputs)
    return batch


def _is_picture(inputs: Tensor) -> bool:
    """Whether a tensor (C, H, W) lies in memory as a picture does, channels last."""
    return inputs.dtype == torch.uint8 and inputs.dim() == 3 and inputs.permute(1, 2, 0).is_contiguous()


def _stack_pictures(inputs: Sequence[Tensor]) -> Tensor:
    """N views (C, H, W) of pictures -> (N, C, H, W), contiguous; OpenCV parts channels faster than torch."""
    shape = (len(inputs), *inputs[0].shape)
    stacked = torch.empty(shape, dtype=torch.uint8) if get_worker_info() is None else _shared_memory(shape)
    for one, planes in zip(inputs, stacked.numpy(), strict=True):
        image = one.permute(1, 2, 0).numpy()
        for channel, plane in enumerate(planes):
            cv2.extractChannel(image, channel, dst=plane)
    return stacked


def _shared_memory(shape: Sequence[int]) -> Tensor:
    """An empty uint8 tensor that goes to the main process without a copy, as in PyTorch's own ``default_collate``."""
    storage = torch.UntypedStorage._new_shared(torch.Size(shape).numel())
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)
