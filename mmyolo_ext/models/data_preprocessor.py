"""From a batch of uint8 images to the input of the network."""

from collections.abc import Sequence

import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.models.utils import samplelist_boxtype2tensor
from torch import Tensor

from mmyolo_ext.registry import MODELS


@MODELS.register_module()
class DataPreprocessor(DetDataPreprocessor):
    """mmdet's ``DetDataPreprocessor`` with a short path for batches that the loader has stacked already.

    The results are bit-identical. A uint8 batch (N, 3, H, W) whose sides are multiples of ``pad_size_divisor`` is
    converted to float once and normalized in place, without the four copies of mmdet's version. Lists of images, and
    masks, are left to mmdet.

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
        data = self.cast_data(data)
        inputs, samples = self._normalize(data['inputs']), data.get('data_samples')
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
