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
    """Every level becomes a weighted sum of all levels, whose weights each cell chooses (eq. 1 and 2).

    All levels are brought to the size and channels of one, a 1x1 convolution gives each a map of few channels, another
    turns these into one number a level and cell, a softmax over the levels makes them weights, and a 3x3 convolution
    follows the sum. It stands behind a neck, ours or mmdet's, and keeps levels, channels and strides as they are::

        neck=[dict(type='mmyolo_ext.YOLOv5PAFPN', ...), dict(type='mmyolo_ext.ASFF', in_channels='auto')]

    Args:
        in_channels: channels of the maps; or ``'auto'``, which ``YOLODetector`` fills in.
        strides: of the maps, in their order, shallow to deep or deep to shallow; powers of two of each other.
        weight_channels: of the maps that the weights come from.
        norm_cfg: normalization layers; YOLOv5's by default.
        act_cfg: activations; SiLU by default.
        init_cfg: PyTorch's own start by default.

    Raises:
        ValueError: ``in_channels`` was not filled in, fewer than two levels, or strides that do not fit them.
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
        _check_strides(strides, len(in_channels))
        self.in_channels = self.out_channels = tuple(in_channels)
        self.strides = tuple(strides)
        block = {'norm_cfg': norm_cfg or NORM_CFG, 'act_cfg': act_cfg or ACT_CFG}
        self.fusions = nn.ModuleList(
            Fusion(level, self.out_channels, self.strides, weight_channels, block)
            for level in range(len(self.out_channels))
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps of ``in_channels`` -> as many maps of the same channels and sizes.

        Raises:
            ValueError: the sizes of the maps do not belong to the strides.
        """
        _check_sizes(inputs, self.strides)
        return tuple(fusion(inputs) for fusion in self.fusions)


class Fusion(nn.Module):
    """All levels -> one of them.

    Args:
        level: which.
        channels: of all levels.
        strides: of all levels.
        weight_channels: see :class:`ASFF`.
        block: normalization and activation.
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
        """Maps (N, C_i, H_i, W_i) of all levels -> (N, C, H, W), those of this one."""
        size = maps[self.level].shape[-2:]
        same = [_exactly(resize(x), size) for resize, x in zip(self.resize, maps, strict=True)]
        weights = self.weights(same)
        return self.out_conv(sum(x * weights[:, i : i + 1] for i, x in enumerate(same)))

    def weights(self, same: Sequence[Tensor]) -> Tensor:
        """Levels of one size, (N, C, H, W) each -> (N, levels, H, W), from 0 to 1 and of sum 1 in every cell."""
        votes = torch.cat([vote(x) for vote, x in zip(self.votes, same, strict=True)], dim=1)
        return self.weigh(votes).softmax(dim=1)


def _resize(in_channels: int, out_channels: int, in_stride: int, out_stride: int, block: dict) -> nn.Module:
    """Of the paper: up by a 1x1 convolution (and nearest neighbour); down by 3x3/2, after max-pools 3x3/2 beyond 2."""
    if in_stride > out_stride:
        return ConvModule(in_channels, out_channels, 1, **block)
    pools = [nn.MaxPool2d(3, stride=2, padding=1) for _ in range((out_stride // in_stride).bit_length() - 2)]
    return nn.Sequential(*pools, ConvModule(in_channels, out_channels, 3, stride=2, padding=1, **block))


def _exactly(x: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Enlarged to a size; what a convolution of stride 2 shrank has it already, odd sizes too."""
    return x if x.shape[-2:] == size_hw else F.interpolate(x, size=size_hw, mode='nearest')


def _check_sizes(maps: Sequence[Tensor], strides: Sequence[int]) -> None:
    """Each map has the size of the finest, divided by their strides' ratio and rounded up."""
    sizes = [tuple(x.shape[-2:]) for x in maps]
    finest = min(strides)
    height, width = sizes[strides.index(finest)] if len(sizes) == len(strides) else (0, 0)
    ratios = [stride // finest for stride in strides]
    expected = [(math.ceil(height / ratio), math.ceil(width / ratio)) for ratio in ratios]
    if sizes != expected:
        raise ValueError(f'ASFF(strides={strides}) takes maps of such strides, got maps of height and width {sizes}')


def _check_strides(strides: Sequence[int], levels: int) -> None:
    ratios = [max(a, b) / min(a, b) for a in strides for b in strides if min(strides) > 0]
    powers = all(ratio % 1 == 0 and int(ratio).bit_count() == 1 for ratio in ratios)
    if len(strides) != levels or len(set(strides)) < levels or not ratios or not powers:
        raise ValueError(
            f'strides must be one for each of the {levels} levels, all different and powers of two of each other, got '
            f'{tuple(strides)}'
        )
