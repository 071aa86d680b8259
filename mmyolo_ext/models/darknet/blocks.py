"""The layers of a ``.cfg`` file as modules: each takes its input maps as arguments and gives one map."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from mmyolo_ext.models.darknet.options import Convolution, Pool, Route, Shortcut, Upsample, shares

LEAKY_SLOPE = 0.1
LEAST_SUM = 1e-4  # of fast normalized fusion, arXiv 1911.09070, section 3.3

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    'linear': nn.Identity,
    'leaky': lambda: nn.LeakyReLU(LEAKY_SLOPE, inplace=True),
    'relu': lambda: nn.ReLU(inplace=True),
    'swish': lambda: nn.SiLU(inplace=True),
    'mish': lambda: nn.Mish(inplace=True),
    'logistic': nn.Sigmoid,
}


class ConvLayer(nn.Module):
    """Convolution, batch norm if asked for (else a bias), activation."""

    def __init__(self, options: Convolution, norm_cfg: dict) -> None:
        super().__init__()
        if len(options.sizes) > 1:
            self.conv = MixedConv(options)
        else:
            self.conv = nn.Conv2d(
                options.in_channels,
                options.filters,
                options.sizes[0],
                options.stride,
                options.padding[0],
                groups=options.groups,
                bias=not options.batch_normalize,
            )
        self.bn = build_norm_layer(norm_cfg, options.filters)[1] if options.batch_normalize else None
        self.act = ACTIVATIONS[options.activation]()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, filters, H', W')."""
        x = self.conv(x)
        return self.act(x if self.bn is None else self.bn(x))


class MixedConv(nn.Module):
    """Kernels of several sizes, each for its share of the filters (MixConv, arXiv 1907.09595).

    Every kernel sees all input channels; in a depthwise convolution, where groups are channels, its own share of them.
    """

    def __init__(self, options: Convolution) -> None:
        super().__init__()
        self.widths = shares(options.filters, len(options.sizes))
        self.depthwise = options.groups > 1
        self.convs = nn.ModuleList(
            nn.Conv2d(
                width if self.depthwise else options.in_channels,
                width,
                size,
                options.stride,
                padding,
                groups=width if self.depthwise else 1,
                bias=False,
            )
            for width, size, padding in zip(self.widths, options.sizes, options.padding, strict=True)
        )
        self.bias = None if options.batch_normalize else nn.Parameter(torch.zeros(options.filters))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, filters, H', W')."""
        inputs = x.split(self.widths, dim=1) if self.depthwise else [x] * len(self.widths)
        x = torch.cat([conv(part) for conv, part in zip(self.convs, inputs, strict=True)], dim=1)
        return x if self.bias is None else x + self.bias[:, None, None]


class PoolLayer(nn.Module):
    """Max-pool whose padding may be odd; nothing stands in it, so it never wins."""

    def __init__(self, options: Pool) -> None:
        super().__init__()
        self.size, self.stride = options.size, options.stride
        self.start = options.padding // 2
        self.end = options.padding - self.start

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H', W')."""
        padded = F.pad(x, (self.start, self.end, self.start, self.end), value=float('-inf'))
        return F.max_pool2d(padded, self.size, self.stride)


class UpsampleLayer(nn.Module):
    """Nearest neighbour."""

    def __init__(self, options: Upsample) -> None:
        super().__init__()
        self.factor = options.factor

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, factor * H, factor * W)."""
        return F.interpolate(x, scale_factor=self.factor, mode='nearest')


class RouteLayer(nn.Module):
    """Inputs, or one part of the channels of each, one behind the other."""

    def __init__(self, options: Route) -> None:
        super().__init__()
        self.groups, self.group_id = options.groups, options.group_id

    def forward(self, *maps: Tensor) -> Tensor:
        """Maps (N, C_i, H, W) -> (N, sum of C_i / groups, H, W)."""
        parts = [x.chunk(self.groups, dim=1)[self.group_id] for x in maps]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


class ShortcutLayer(nn.Module):
    """Sum of the first map and of others, each cut off or filled up with zeros to the first one's channels.

    With ``weights_type=per_feature`` every map has one learned weight, with ``per_channel`` one for each channel. What
    multiplies a map follows from its weight w by ``weights_normalization``: ``sigmoid`` (the default) gives
    2 sigma(w), which starts at 1, the plain sum, and stays within 0 and 2; ``sigmoid_mean`` gives sigma(w) * 2 / n for
    n maps, which starts at 1 / n, their mean, as the YOLOv3 code of 2020 does; ``relu`` and ``softmax`` are the
    normalized fusions of arXiv 1911.09070, section 3.3; ``none`` is w itself.
    """

    def __init__(self, options: Shortcut) -> None:
        super().__init__()
        self.act = ACTIVATIONS[options.activation]()
        self.normalization = options.normalization
        width = {'none': 0, 'per_feature': 1, 'per_channel': options.channels}[options.weights_type]
        start = 0.0 if options.normalization in ('sigmoid', 'sigmoid_mean', 'softmax') else 1.0
        # (maps, 1 or channels)
        self.weights = nn.Parameter(torch.full((options.num_inputs, width), start)) if width else None

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        """Maps (N, C_i, H, W) -> (N, C_0, H, W)."""
        channels = first.shape[1]
        maps = [first, *(_fitted(other, channels) for other in others)]
        if self.weights is None:
            return self.act(sum(maps[1:], maps[0]))
        factors = self.factors()[:, None, :, None, None].to(first.dtype)  # (maps, 1, 1 or C, 1, 1)
        return self.act(sum(x * factor for x, factor in zip(maps, factors, strict=True)))

    def factors(self) -> Tensor:
        """What multiplies each map: (maps, 1 or channels)."""
        if self.normalization == 'sigmoid':
            return 2 * self.weights.sigmoid()
        if self.normalization == 'sigmoid_mean':
            return self.weights.sigmoid() * (2 / len(self.weights))
        if self.normalization == 'softmax':
            return self.weights.softmax(dim=0)
        if self.normalization == 'relu':
            positive = self.weights.relu()
            return positive / (positive.sum(dim=0) + LEAST_SUM)
        return self.weights


def _fitted(x: Tensor, channels: int) -> Tensor:
    """The first ``channels`` channels, zeros where there are fewer."""
    missing = channels - x.shape[1]
    return F.pad(x, (0, 0, 0, 0, 0, missing)) if missing > 0 else x[:, :channels]
