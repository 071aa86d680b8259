"""Building blocks that YOLOv5's networks share and mmdet does not have, and the scaling of their widths and depths.

Blocks that are the same in mmdet are used from there: ``CSPLayer`` is YOLOv5's block of three convolutions
(CSPNet, arXiv 1911.11929), ``SPPBottleneck`` its spatial pyramid pooling (arXiv 1406.4729).
"""

import math

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmdet.models.backbones.csp_darknet import Focus
from mmengine.model import BaseModule
from torch import Tensor, nn

NORM_CFG = {'type': 'BN', 'momentum': 0.03, 'eps': 1e-3}
ACT_CFG = {'type': 'SiLU', 'inplace': True}
# PyTorch's own start for convolutions, with which the recipe was tuned; ConvModule's constructor has another
INIT_CFG = {
    'type': 'Kaiming',
    'layer': 'Conv2d',
    'a': math.sqrt(5),
    'distribution': 'uniform',
    'mode': 'fan_in',
    'nonlinearity': 'leaky_relu',
}


def scaled_width(channels: int, widen_factor: float) -> int:
    """``channels * widen_factor``, rounded up to a multiple of 8.

    >>> scaled_width(1024, 0.33)
    344
    """
    return math.ceil(channels * widen_factor / 8) * 8


def scaled_depth(blocks: int, deepen_factor: float) -> int:
    """``blocks * deepen_factor`` rounded, at least 1.

    >>> scaled_depth(9, 0.33), scaled_depth(1, 0.33)
    (3, 1)
    """
    return max(round(blocks * deepen_factor), 1)


class SPPF(BaseModule):
    """Spatial pyramid pooling by chained max-pools: k pools of size 5 see what pools of size 5, 9, 13 see at once.

    Args:
        in_channels: channels of the input; half of them are pooled.
        out_channels: channels of the output.
        kernel_size: odd size of each pool.
        num_pools: how many are chained.
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
    """mmdet's Focus (space to depth, then a convolution) that takes odd sizes too.

    An odd height or width gets one row or column of zeros at its end, as a padded convolution would give it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out_channels, ceil(H / 2), ceil(W / 2))."""
        height, width = x.shape[-2:]
        if height % 2 or width % 2:
            x = F.pad(x, (0, width % 2, 0, height % 2))
        return super().forward(x)
