"""Building blocks shared by several networks, and the scaling of their widths and depths.

Blocks that mmdet has as well are used from there: ``CSPLayer`` is YOLOv5's block of three convolutions (CSPNet, arXiv
1911.11929), ``SPPBottleneck`` its spatial pyramid pooling (arXiv 1406.4729).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmdet.models.backbones.csp_darknet import Focus
from mmengine.model import BaseModule
from torch import Tensor, nn

NORM_CFG = {'type': 'BN', 'momentum': 0.03, 'eps': 1e-3}
ACT_CFG = {'type': 'SiLU', 'inplace': True}
# Darknet's epsilon, so that its weights give its numbers. Its momentum, 0.01, was tuned for batches of 64.
DARKNET_NORM_CFG = {'type': 'BN', 'momentum': 0.03, 'eps': 1e-5}
DARKNET_ACT_CFG = {'type': 'LeakyReLU', 'negative_slope': 0.1, 'inplace': True}
# PyTorch's own initialization of convolutions, with which the recipe was tuned; ConvModule's constructor uses another
INIT_CFG = {
    'type': 'Kaiming',
    'layer': 'Conv2d',
    'a': math.sqrt(5),
    'distribution': 'uniform',
    'mode': 'fan_in',
    'nonlinearity': 'leaky_relu',
}
AUTO_CHANNELS = "in_channels='auto' is filled in by mmyolo_ext.YOLODetector only; elsewhere give the channels"
STEMS = ('conv_maxpool', 'stem_block', 'focus')


def scaled_width(channels: int, widen_factor: float) -> int:
    """Return ``channels * widen_factor``, rounded up to a multiple of 8.

    >>> scaled_width(1024, 0.33)
    344
    """
    return math.ceil(channels * widen_factor / 8) * 8


def scaled_depth(blocks: int, deepen_factor: float) -> int:
    """Return ``blocks * deepen_factor`` rounded, at least 1.

    >>> scaled_depth(9, 0.33), scaled_depth(1, 0.33)
    (3, 1)
    """
    return max(round(blocks * deepen_factor), 1)


def check_level_channels(neck: str, in_channels: Sequence[int] | str, out_channels: Sequence[int]) -> None:
    """Check the channels of a neck that gives as many levels as it takes.

    Args:
        neck: Name of the class, for the message.
        in_channels: Channels of the inputs.
        out_channels: Channels of the outputs.

    Raises:
        ValueError: If ``in_channels`` is still ``'auto'``, there are fewer than two levels, or the two differ in
            length.
    """
    if isinstance(in_channels, str):
        raise ValueError(AUTO_CHANNELS)
    if len(in_channels) != len(out_channels) or len(out_channels) < 2:
        raise ValueError(
            f'{neck} needs two levels or more, and one of out_channels for each of in_channels (out_indices of the '
            f'backbone), got in_channels={tuple(in_channels)}, out_channels={tuple(out_channels)}'
        )


class SPPF(BaseModule):
    """Spatial pyramid pooling by chained max-pools: three pools of size 5 equal parallel pools of sizes 5, 9 and 13.

    Args:
        in_channels: Channels of the input; half of them are pooled.
        out_channels: Channels of the output.
        kernel_size: Odd size of each pool.
        num_pools: Number of chained pools.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 5,
        num_pools: int = 3,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        mid_channels = in_channels // 2
        block = {'norm_cfg': norm_cfg or NORM_CFG, 'act_cfg': act_cfg or ACT_CFG}
        self.conv1 = ConvModule(in_channels, mid_channels, 1, **block)
        self.pool = nn.MaxPool2d(kernel_size, stride=1, padding=kernel_size // 2)
        self.num_pools = num_pools
        self.conv2 = ConvModule(mid_channels * (num_pools + 1), out_channels, 1, **block)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H, W)."""
        pooled = [self.conv1(x)]
        for _ in range(self.num_pools):
            pooled.append(self.pool(pooled[-1]))
        return self.conv2(torch.cat(pooled, dim=1))


class FocusStem(Focus):
    """mmdet's Focus (space to depth, then a convolution) for any input size.

    An odd height or width is padded by one row or column of zeros at its end, as in a padded convolution.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out_channels, ceil(H / 2), ceil(W / 2))."""
        height, width = x.shape[-2:]
        if height % 2 or width % 2:
            x = F.pad(x, (0, width % 2, 0, height % 2))
        return super().forward(x)


class ConvStem(nn.Module):
    """A convolution of stride 2 and, optionally, a 3x3/2 max-pool.

    Args:
        conv: (N, C, H, W) -> (N, out_channels, ceil(H / 2), ceil(W / 2)).
        with_pool: Add the pool.
    """

    def __init__(self, conv: nn.Module, with_pool: bool) -> None:
        super().__init__()
        self.conv = conv
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if with_pool else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out_channels, H', W') at stride 2, or 4 with the pool."""
        return self.pool(self.conv(x))


class StemBlock(nn.Module):
    """PeleeNet's stem (arXiv 1804.06882, figure 3): stride 4 by two branches, convolutions and a max-pool.

    Args:
        in_channels: Channels of the image.
        out_channels: Even; the 1x1 convolution of the first branch has half of them.
        block: ``norm_cfg`` and ``act_cfg`` of its convolutions.
    """

    def __init__(self, in_channels: int, out_channels: int, **block: dict) -> None:
        super().__init__()
        self.conv = ConvModule(in_channels, out_channels, 3, stride=2, padding=1, **block)
        self.branch_conv = nn.Sequential(
            ConvModule(out_channels, out_channels // 2, 1, **block),
            ConvModule(out_channels // 2, out_channels, 3, stride=2, padding=1, **block),
        )
        self.branch_pool = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        self.fuse = ConvModule(2 * out_channels, out_channels, 1, **block)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out_channels, ceil(H / 4), ceil(W / 4))."""
        x = self.conv(x)
        return self.fuse(torch.cat([self.branch_conv(x), self.branch_pool(x)], dim=1))


def build_stem(stem: str, in_channels: int, out_channels: int, with_pool: bool, **block: dict) -> nn.Module:
    """Build the first layers of a light backbone.

    Args:
        stem: ``'conv_maxpool'``: a 3x3/2 convolution; ``'focus'``: space to depth, then a 3x3 convolution;
            ``'stem_block'``: :class:`StemBlock`, which has stride 4.
        in_channels: Channels of the image.
        out_channels: Channels of the output.
        with_pool: Bring the first two from stride 2 to stride 4 by a max-pool.
        block: ``norm_cfg`` and ``act_cfg`` of its convolutions.

    Raises:
        ValueError: If ``stem`` is unknown.
    """
    if stem not in STEMS:
        raise ValueError(f'stem must be one of {STEMS}, got {stem!r}')
    if stem == 'stem_block':
        return StemBlock(in_channels, out_channels, **block)
    if stem == 'focus':
        return ConvStem(FocusStem(in_channels, out_channels, kernel_size=3, **block), with_pool)
    return ConvStem(ConvModule(in_channels, out_channels, 3, stride=2, padding=1, **block), with_pool)
