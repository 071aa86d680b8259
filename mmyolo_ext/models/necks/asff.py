"""Adaptively spatial feature fusion (arXiv 1911.09516, section 3)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmyolo_ext.models.layers import ACT_CFG, INIT_CFG, NORM_CFG, check_level_channels
from mmyolo_ext.registry import MODELS


@MODELS.register_module()
class ASFF(BaseModule):
    """Each level becomes a weighted sum of all levels, with weights that each cell computes (eq. 1 and 2).

    All levels are resized to the size and channels of one; a 1x1 convolution reduces each to a few channels, another
    one gives one logit per level and cell, and a softmax over the levels the weights; a 3x3 convolution follows the
    sum. ASFF follows another neck, ours or mmdet's, and keeps its levels, channels and strides::

        neck=[dict(type='mmyolo_ext.YOLOv5PAFPN', ...), dict(type='mmyolo_ext.ASFF', in_channels='auto')]

    Args:
        in_channels: Channels of the maps; or ``'auto'``, which ``YOLODetector`` fills in.
        strides: Of the maps, in their order, shallow to deep or deep to shallow; powers of two of each other.
        weight_channels: Channels from which the weights are computed.
        norm_cfg: Normalization layers; batch norm with YOLOv5's values by default.
        act_cfg: Activations; SiLU by default.
        init_cfg: PyTorch's own initialization by default.

    Raises:
        ValueError: If ``in_channels`` was not filled in, there are fewer than two levels, or ``strides`` do not fit.
    """

    def __init__(
        self,
        in_channels: Sequence[int] | str,
        strides: Sequence[int] = (8, 16, 32),
        weight_channels: int = 16,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg or INIT_CFG)
        check_level_channels('ASFF', in_channels, in_channels)
        levels = len(in_channels)
        exponents = {math.log2(stride / strides[0]) for stride in strides}
        if len(strides) != levels or len(exponents) < levels or any(exponent % 1 for exponent in exponents):
            raise ValueError(
                f'strides must be one for each of the {levels} levels, all different and powers of two of each other, '
                f'got {tuple(strides)}'
            )
        self.in_channels = self.out_channels = tuple(in_channels)
        self.strides = tuple(strides)
        block = {'norm_cfg': norm_cfg or NORM_CFG, 'act_cfg': act_cfg or ACT_CFG}
        self.fusions = nn.ModuleList(
            Fusion(level, self.out_channels, self.strides, weight_channels, block) for level in range(levels)
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps of ``in_channels`` -> as many maps of the same channels and sizes.

        Raises:
            ValueError: If the sizes of the maps do not match the strides.
        """
        widths = [x.shape[-1] for x in inputs]
        if widths != [math.ceil(max(widths) * min(self.strides) / stride) for stride in self.strides]:
            raise ValueError(f'ASFF(strides={self.strides}) got maps of other strides, of the widths {widths}')
        return tuple(fusion(inputs) for fusion in self.fusions)


class Fusion(nn.Module):
    """Fuse all levels into one of them.

    Args:
        level: Index of the output level.
        channels: Channels of all levels.
        strides: Strides of all levels.
        weight_channels: See :class:`ASFF`.
        block: ``norm_cfg`` and ``act_cfg``.
    """

    def __init__(
        self, level: int, channels: Sequence[int], strides: Sequence[int], weight_channels: int, block: dict
    ) -> None:
        super().__init__()
        self.level = level
        width = channels[level]
        self.resize = nn.ModuleList(
            nn.Identity() if i == level else _resize(channels[i], width, strides[i], strides[level], block)
            for i in range(len(channels))
        )
        self.votes = nn.ModuleList(ConvModule(width, weight_channels, 1, **block) for _ in channels)
        self.weigh = nn.Conv2d(weight_channels * len(channels), len(channels), 1)
        self.out_conv = ConvModule(width, width, 3, padding=1, **block)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (N, C_i, H_i, W_i) of all levels -> (N, C, H, W) of this level."""
        size = maps[self.level].shape[-2:]
        resized = []
        for resize, x in zip(self.resize, maps, strict=True):
            x = resize(x)
            # after a convolution of stride 2 the size is right, that of odd sides too
            resized.append(x if x.shape[-2:] == size else F.interpolate(x, size=size, mode='nearest'))
        weights = self.weights(resized)
        return self.out_conv(sum(x * weights[:, i : i + 1] for i, x in enumerate(resized)))

    def weights(self, maps: Sequence[Tensor]) -> Tensor:
        """Resized maps (N, C, H, W) of all levels -> (N, levels, H, W), from 0 to 1, with sum 1 in every cell."""
        reduced = torch.cat([conv(x) for conv, x in zip(self.votes, maps, strict=True)], dim=1)
        return self.weigh(reduced).softmax(dim=1)


def _resize(in_channels: int, out_channels: int, in_stride: int, out_stride: int, block: dict) -> nn.Module:
    """Return the paper's layers: up by a 1x1 convolution; down by a 3x3/2 one, after 3x3/2 max-pools beyond 2."""
    if in_stride > out_stride:
        return ConvModule(in_channels, out_channels, 1, **block)
    pools = [nn.MaxPool2d(3, stride=2, padding=1) for _ in range((out_stride // in_stride).bit_length() - 2)]
    return nn.Sequential(*pools, ConvModule(in_channels, out_channels, 3, stride=2, padding=1, **block))
