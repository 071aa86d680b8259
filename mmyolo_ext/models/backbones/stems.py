"""The first layers of a light backbone, in three forms of equal width."""

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from mmyolo_ext.models.layers import FocusStem

STEMS = ('conv_maxpool', 'stem_block', 'focus')


class ConvStem(nn.Module):
    """A convolution of stride 2 and, where asked for, a 3x3/2 max-pool.

    Args:
        conv: (N, C, H, W) -> (N, out_channels, ceil(H / 2), ceil(W / 2)).
        with_pool: halve the map once more.
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

    Odd sizes are rounded up in both branches.

    Args:
        in_channels: of the picture.
        out_channels: even; the 1x1 convolution of the first branch has half of them.
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


def check_stem(stem: str) -> None:
    """Raise ValueError for a name that is not one of :data:`STEMS`."""
    if stem not in STEMS:
        raise ValueError(f'stem must be one of {STEMS}, got {stem!r}')


def build_stem(stem: str, in_channels: int, out_channels: int, with_pool: bool, **block: dict) -> nn.Module:
    """One of :data:`STEMS`.

    Args:
        stem: ``'conv_maxpool'``: a 3x3/2 convolution; ``'focus'``: space to depth, then a 3x3 convolution;
            ``'stem_block'``: :class:`StemBlock`, which has stride 4 by itself.
        in_channels: of the picture.
        out_channels: of its map.
        with_pool: bring the first two from stride 2 to stride 4 by a max-pool.
        block: ``norm_cfg`` and ``act_cfg`` of its convolutions.
    """
    check_stem(stem)
    if stem == 'stem_block':
        return StemBlock(in_channels, out_channels, **block)
    if stem == 'focus':
        return ConvStem(FocusStem(in_channels, out_channels, kernel_size=3, **block), with_pool)
    return ConvStem(ConvModule(in_channels, out_channels, 3, stride=2, padding=1, **block), with_pool)
