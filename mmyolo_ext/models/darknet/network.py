"""The layers of a ``.cfg`` file as modules, and the network up to its predictions as a backbone."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmyolo_ext.models.darknet.cfg import IMAGE, Graph
from mmyolo_ext.models.layers import DARKNET_NORM_CFG, INIT_CFG

LEAKY_SLOPE = 0.1
FUSION_EPS = 1e-4  # of fast normalized fusion, arXiv 1911.09070, section 3.3

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    'linear': nn.Identity,
    'leaky': lambda: nn.LeakyReLU(LEAKY_SLOPE, inplace=True),
    'relu': lambda: nn.ReLU(inplace=True),
    'swish': lambda: nn.SiLU(inplace=True),
    'mish': lambda: nn.Mish(inplace=True),
    'logistic': nn.Sigmoid,
}


class DarknetNetwork(BaseModule):
    """The inputs of the 1x1 convolutions of the [yolo] sections, in the order of these (mostly deep to shallow).

    ``layers['i']`` is layer i of the file, without the predicting convolutions and the [yolo] sections, which belong
    to the head, and without layers that no [yolo] needs. ``out_channels`` and ``out_strides`` declare the outputs.

    Args:
        graph: See :func:`read_graph`.
        norm_cfg: Normalization layers; Darknet's batch norm by default.
        norm_eval: Keep every normalization in eval mode.
        init_cfg: PyTorch's own initialization by default.
    """

    def __init__(
        self,
        graph: Graph,
        norm_cfg: dict | None = None,
        norm_eval: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg or INIT_CFG)
        self.norm_eval = norm_eval
        self.outputs = [level.feature.index for level in graph.levels]
        self.out_channels = tuple(level.feature.shape.channels for level in graph.levels)
        self.out_strides = tuple(level.stride for level in graph.levels)
        of_head = {layer.index for level in graph.levels for layer in (level.prediction, level.yolo)}
        own = [layer for layer in graph.layers if layer.index not in of_head and layer.index <= max(self.outputs)]
        self.layers = nn.ModuleDict()
        for layer in own:
            options = dict(layer.options)
            if layer.section.kind == 'convolutional':
                options['norm_cfg'] = norm_cfg or DARKNET_NORM_CFG
            self.layers[str(layer.index)] = MODULES[layer.section.kind](**options)
        self.inputs = {layer.index: layer.inputs for layer in own}
        # a map is released after its last use
        self.last_use = {source: layer.index for layer in own for source in layer.inputs}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (N, C, H, W) -> one map for each [yolo] section."""
        maps = {IMAGE: x}
        for index, sources in self.inputs.items():
            maps[index] = self.layers[str(index)](*(maps[source] for source in sources))
            for source in set(sources) - set(self.outputs):
                if self.last_use[source] == index:
                    del maps[source]
        return tuple(maps[index] for index in self.outputs)

    def train(self, mode: bool = True) -> 'DarknetNetwork':
        """Set the mode, except for the norms with ``norm_eval``."""
        super().train(mode)
        if self.norm_eval:
            for layer in self.layers.values():
                if getattr(layer, 'bn', None) is not None:
                    layer.bn.eval()
        return self


class ConvLayer(nn.Module):
    """Convolution, batch norm (otherwise a bias), activation; of several ``sizes``, a mixed convolution."""

    def __init__(
        self,
        in_channels: int,
        filters: int,
        sizes: tuple[int, ...],
        stride: tuple[int, int],
        padding: tuple[int, ...],
        groups: int,
        batch_normalize: bool,
        activation: str,
        norm_cfg: dict,
    ) -> None:
        super().__init__()
        bias = not batch_normalize
        if len(sizes) > 1:
            self.conv = MixedConv(in_channels, filters, sizes, stride, padding, groups, bias)
        else:
            self.conv = nn.Conv2d(in_channels, filters, sizes[0], stride, padding[0], groups=groups, bias=bias)
        self.bn = build_norm_layer(norm_cfg, filters)[1] if batch_normalize else None
        self.act = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, filters, H', W')."""
        x = self.conv(x)
        return self.act(x if self.bn is None else self.bn(x))


class MixedConv(nn.Module):
    """Kernels of several sizes, each for its share of the filters (MixConv, arXiv 1907.09595).

    Every kernel sees all input channels; in a depthwise convolution (``groups`` = channels) its own share of them.
    """

    def __init__(
        self,
        in_channels: int,
        filters: int,
        sizes: tuple[int, ...],
        stride: tuple[int, int],
        padding: tuple[int, ...],
        groups: int,
        bias: bool,
    ) -> None:
        super().__init__()
        self.widths = shares(filters, len(sizes))
        self.depthwise = groups > 1
        self.convs = nn.ModuleList()
        for width, size, pad in zip(self.widths, sizes, padding, strict=True):
            seen, groups = (width, width) if self.depthwise else (in_channels, 1)
            self.convs.append(nn.Conv2d(seen, width, size, stride, pad, groups=groups, bias=False))
        self.bias = nn.Parameter(torch.zeros(filters)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, filters, H', W')."""
        inputs = x.split(self.widths, dim=1) if self.depthwise else [x] * len(self.widths)
        x = torch.cat([conv(part) for conv, part in zip(self.convs, inputs, strict=True)], dim=1)
        return x if self.bias is None else x + self.bias[:, None, None]


def shares(total: int, parts: int) -> list[int]:
    """Return the filters of each kernel of a mixed convolution: equal shares, the first with the remainder."""
    return [total // parts + total % parts, *[total // parts] * (parts - 1)]


class PoolLayer(nn.Module):
    """Max-pool with ``padding`` cells of -inf in all, the odd one at the end."""

    def __init__(self, size: int, stride: tuple[int, int], padding: int) -> None:
        super().__init__()
        self.size, self.stride = size, stride
        self.start, self.end = padding // 2, padding - padding // 2

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H', W')."""
        padded = F.pad(x, (self.start, self.end, self.start, self.end), value=float('-inf'))
        return F.max_pool2d(padded, self.size, self.stride)


class RouteLayer(nn.Module):
    """Concatenation of the inputs, or of the part ``group_id`` of ``groups`` of each."""

    def __init__(self, groups: int, group_id: int) -> None:
        super().__init__()
        self.groups, self.group_id = groups, group_id

    def forward(self, *maps: Tensor) -> Tensor:
        """Maps (N, C_i, H, W) -> (N, sum of C_i / groups, H, W)."""
        parts = [x.chunk(self.groups, dim=1)[self.group_id] for x in maps]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


class ShortcutLayer(nn.Module):
    """Sum of maps, each cut or zero-padded to the channels of the first.

    With ``weights_type='per_feature'`` every map has one learned weight w, with ``'per_channel'`` one per channel. The
    factor of a map follows from ``normalization``: ``'sigmoid'``: 2 sigma(w), initially 1, the plain sum;
    ``'sigmoid_mean'``: sigma(w) * 2 / n for n maps, initially 1 / n, as in the YOLOv3 code of 2020; ``'relu'`` and
    ``'softmax'``: the normalized fusions of arXiv 1911.09070, section 3.3; ``'none'``: w.
    """

    def __init__(self, num_inputs: int, channels: int, activation: str, weights_type: str, normalization: str) -> None:
        super().__init__()
        self.act = ACTIVATIONS[activation]()
        self.normalization = normalization
        width = {'none': 0, 'per_feature': 1, 'per_channel': channels}[weights_type]
        start = 0.0 if normalization in ('sigmoid', 'sigmoid_mean', 'softmax') else 1.0
        # (maps, 1 or channels)
        self.weights = nn.Parameter(torch.full((num_inputs, width), start)) if width else None

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        """Maps (N, C_i, H, W) -> (N, C_0, H, W)."""
        maps = [first]
        for x in others:
            missing = first.shape[1] - x.shape[1]
            maps.append(F.pad(x, (0, 0, 0, 0, 0, missing)) if missing > 0 else x[:, : first.shape[1]])
        if self.weights is None:
            return self.act(sum(maps[1:], maps[0]))
        factors = self.factors()[:, None, :, None, None].to(first.dtype)  # (maps, 1, 1 or C, 1, 1)
        return self.act(sum(x * factor for x, factor in zip(maps, factors, strict=True)))

    def factors(self) -> Tensor:
        """Return the factor of each map: (maps, 1 or channels)."""
        if self.normalization == 'sigmoid':
            return 2 * self.weights.sigmoid()
        if self.normalization == 'sigmoid_mean':
            return self.weights.sigmoid() * (2 / len(self.weights))
        if self.normalization == 'softmax':
            return self.weights.softmax(dim=0)
        if self.normalization == 'relu':
            positive = self.weights.relu()
            return positive / (positive.sum(dim=0) + FUSION_EPS)
        return self.weights


MODULES = {
    'convolutional': ConvLayer,
    'dropout': nn.Dropout,
    'maxpool': PoolLayer,
    'route': RouteLayer,
    'shortcut': ShortcutLayer,
    'upsample': nn.Upsample,  # nearest neighbour
}
