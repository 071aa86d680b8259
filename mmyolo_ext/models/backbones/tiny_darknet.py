"""The backbone of YOLOv3-tiny: plain convolutions and max-pools, as published with YOLOv3; it has no paper."""

from collections.abc import Iterator
from typing import Any

import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from mmyolo_ext.models.backbones.staged_backbone import StagedBackbone
from mmyolo_ext.models.layers import DARKNET_ACT_CFG, DARKNET_NORM_CFG
from mmyolo_ext.registry import MODELS

WIDTHS = (16, 32, 64, 128, 256, 512)
LAST_WIDTH = 1024


@MODELS.register_module()
class TinyDarknet(StagedBackbone):
    """A 3x3 convolution, then five stages, each a 2x2 max-pool and a 3x3 convolution of twice the channels.

    The last stage adds a max-pool of stride 1 and a convolution of 1024 channels. Output i has stride ``2 ** i``.

    Args:
        in_channels: Channels of the image.
        out_indices: See :class:`StagedBackbone`.
        norm_cfg: Normalization layers; Darknet's by default.
        act_cfg: Activations; LeakyReLU of slope 0.1 by default.
        **kwargs: ``frozen_stages``, ``norm_eval``, ``with_cp`` and ``init_cfg`` of :class:`StagedBackbone`.

    Raises:
        ValueError: If an index is out of range.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_indices: tuple[int, ...] = (4, 5),
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        **kwargs: Any,
    ) -> None:
        block = {'norm_cfg': norm_cfg or DARKNET_NORM_CFG, 'act_cfg': act_cfg or DARKNET_ACT_CFG}

        def layers() -> Iterator[nn.Module]:
            yield nn.Sequential(ConvModule(in_channels, WIDTHS[0], 3, padding=1, **block))
            for before, width in zip(WIDTHS[:-1], WIDTHS[1:], strict=True):
                # ceil_mode keeps the last row of an odd side, as a convolution of stride 2 would
                stage = [nn.MaxPool2d(2, ceil_mode=True), ConvModule(before, width, 3, padding=1, **block)]
                if width == WIDTHS[-1]:
                    stage += [SameSizePool(), ConvModule(width, LAST_WIDTH, 3, padding=1, **block)]
                yield nn.Sequential(*stage)

        strides = [2**stage for stage in range(len(WIDTHS))]
        super().__init__(layers(), (*WIDTHS[:-1], LAST_WIDTH), strides, out_indices, **kwargs)


class SameSizePool(nn.Module):
    """2x2 max-pool of stride 1 that keeps the size by padding -inf at the right and lower border."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=float('-inf')), 2, stride=1)
