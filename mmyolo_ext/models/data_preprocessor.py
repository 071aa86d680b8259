"""From a batch of uint8 images to the input of the network."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.models.utils import samplelist_boxtype2tensor
from mmdet.structures.bbox import BaseBoxes
from mmengine.structures import BaseDataElement
from torch import Tensor

from mmyolo_ext.registry import MODELS


@MODELS.register_module()
class DataPreprocessor(DetDataPreprocessor):
    """mmdet's ``DetDataPreprocessor`` with a short path for batches that the loader has stacked already.

    The results are bit-identical. A uint8 batch (N, 3, H, W) whose sides are multiples of ``pad_size_divisor`` is
    converted to float once and normalized in place, without the four copies of mmdet's version, and the annotations
    of all images go to the device in one copy per dtype. Lists of images, and masks, are left to mmdet.

    Args:
        mean: As in mmdet.
        std: As in mmdet.
        **kwargs: As in mmdet.
    """

    def __init__(self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None, **kwargs) -> None:
        super().__init__(mean, std, **kwargs)
        self._subtracts = any(mean or ())

    def forward(self, data: dict, training: bool = False) -> dict:
        """Return the batch on the device of the model, its ``inputs`` normalized: see mmdet."""
        if not self._is_stacked(data.get('inputs')):
            return super().forward(data, training)
        inputs = self._normalize(data['inputs'].to(self.device, non_blocking=self._non_blocking))
        samples = data.get('data_samples')
        samples = samples and samples_to(samples, self.device, self._non_blocking)
        shape_hw = tuple(inputs.shape[-2:])
        for sample in samples or ():
            sample.set_metainfo({'batch_input_shape': shape_hw, 'pad_shape': shape_hw})
        if samples is not None and self.boxtype2tensor:
            samplelist_boxtype2tensor(samples)
        for augment in (training and self.batch_augments) or ():
            inputs, samples = augment(inputs, samples)
        return {'inputs': inputs, 'data_samples': samples}

    def _is_stacked(self, inputs: object) -> bool:
        """Return whether the batch needs neither padding nor stacking."""
        return (
            isinstance(inputs, Tensor)
            and inputs.dtype == torch.uint8
            and inputs.dim() == 4
            and inputs.shape[1] == 3
            and not any(side % self.pad_size_divisor for side in inputs.shape[-2:])
            and not (self.pad_mask or self.pad_seg)
        )

    def _normalize(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 -> float32, normalized, with the channel order that the network expects."""
        if self._channel_conversion:
            images = images.flip(1)
        inputs = images.float()  # faster on a CPU than dividing uint8
        if self._subtracts:
            inputs.sub_(self.mean)
        return inputs.div_(self.std) if self._enable_normalize else inputs


def samples_to(
    samples: Sequence[BaseDataElement], device: torch.device, non_blocking: bool = False
) -> list[BaseDataElement]:
    """Return ``[sample.to(device) for sample in samples]``, with one copy per dtype instead of one per tensor.

    Args:
        samples: (N) data elements of MMEngine of any kind, nested or not; they are not changed.
        device: Target; tensors that are there already are not copied.
        non_blocking: As in ``Tensor.to``.
    """
    copies = [_shallow_copy(sample) for sample in samples]
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


def _shallow_copy(element: BaseDataElement) -> BaseDataElement:
    """Return a copy with copies of the nested elements, on the same tensors."""
    copy = element.new()
    for key, value in copy.items():
        if isinstance(value, BaseDataElement):
            copy.set_field(_shallow_copy(value), key)
    return copy


def _fields(element: BaseDataElement) -> list[tuple[BaseDataElement, str, Any]]:
    """Return owner, name and value of every field, those of nested elements included."""
    fields = []
    for key, value in element.items():
        fields += _fields(value) if isinstance(value, BaseDataElement) else [(element, key, value)]
    return fields
