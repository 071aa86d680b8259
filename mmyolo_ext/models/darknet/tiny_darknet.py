"""The backbone of YOLOv3-tiny: plain convolutions and max-pools, as published with YOLOv3; it has no paper."""

from collections.abc import Iterator

import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from mmyolo_ext.models.backbones.staged_backbone import StagedBackbone
from mmyolo_ext.models.darknet.defaults import ACT_CFG, NORM_CFG
from mmyolo_ext.registry import MODELS

WIDTHS = (16, 32, 64, 128, 256, 512)
LAST_WIDTH = 1024


@MODELS.register_module()
class TinyDarknet(StagedBackbone):
    """A 3x3 convolution, then five stages, each a 2x2 max-pool and a 3x3 convolution of twice the channels.

    The last stage pools once more without a stride, and ends in a convolution of 1024 channels.

    Args:
        in_channels: channels of the picture.
        out_indices: which outputs to give; i has the stride ``2 ** i``.
        frozen_stages: see :class:`StagedBackbone`; likewise all after ``act_cfg``.
        norm_cfg: normalization layers; Darknet's by default.
        act_cfg: activations; LeakyReLU of slope 0.1 by default.
        norm_eval: see there.
        with_cp: see there.
        init_cfg: see there.

    Raises:
        ValueError: an index out of range.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_indices: tuple[int, ...] = (4, 5),
        frozen_stages: int = -1,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(
            _stages(in_channels, {'norm_cfg': norm_cfg or NORM_CFG, 'act_cfg': act_cfg or ACT_CFG}),
            channels=(*WIDTHS[:-1], LAST_WIDTH),
            strides=[2**stage for stage in range(len(WIDTHS))],
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )


class SameSizePool(nn.Module):
    """2x2 max-pool of stride 1 that keeps the size: nothing stands beyond the right and lower border."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=float('-inf')), 2, stride=1)


def _stages(in_channels: int, block: dict) -> Iterator[nn.Sequential]:
    yield nn.Sequential(ConvModule(in_channels, WIDTHS[0], 3, padding=1, **block))
    for before, width in zip(WIDTHS[:-1], WIDTHS[1:], strict=True):
        # an odd side keeps its last row, as under a convolution of stride 2
        layers = [nn.MaxPool2d(2, ceil_mode=True), ConvModule(before, width, 3, padding=1, **block)]
        if width == WIDTHS[-1]:
            layers += [SameSizePool(), ConvModule(width, LAST_WIDTH, 3, padding=1, **block)]
        yield nn.Sequential(*layers)
