"""The layers of a ``.cfg`` file up to its predictions, as a backbone."""

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmyolo_ext.models.darknet.blocks import ConvLayer, PoolLayer, RouteLayer, ShortcutLayer, UpsampleLayer
from mmyolo_ext.models.darknet.graph import PICTURE, Graph, Layer
from mmyolo_ext.models.layers import DARKNET_NORM_CFG, INIT_CFG


class DarknetNetwork(BaseModule):
    """What the [yolo] sections' 1x1 convolutions see, in the order of these sections (mostly deep to shallow).

    ``layers['i']`` is layer i of the file; the predicting convolutions and the [yolo] sections have none, for they
    belong to the head. ``out_channels`` and ``out_strides`` say what ``forward`` gives.

    Args:
        graph: a file that was read.
        norm_cfg: normalization layers; Darknet's batch norm by default.
        norm_eval: keep every normalization in eval mode.
        init_cfg: PyTorch's own start by default.
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
        self.layers = nn.ModuleDict({str(layer.index): _module(layer, norm_cfg or DARKNET_NORM_CFG) for layer in own})
        self.inputs = {layer.index: layer.inputs for layer in own}
        # an output is kept no longer than it is needed
        self.last_use = {source: layer.index for layer in own for source in layer.inputs}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Pictures (N, C, H, W) -> one map for each [yolo] section."""
        maps = {PICTURE: x}
        for index, sources in self.inputs.items():
            maps[index] = self.layers[str(index)](*(maps[source] for source in sources))
            for source in set(sources) - set(self.outputs):
                if self.last_use[source] == index:
                    del maps[source]
        return tuple(maps[index] for index in self.outputs)

    def train(self, mode: bool = True) -> 'DarknetNetwork':
        """Switch the mode, but for the norms under ``norm_eval``."""
        super().train(mode)
        if self.norm_eval:
            for layer in self.layers.values():
                if getattr(layer, 'bn', None) is not None:
                    layer.bn.eval()
        return self


def _module(layer: Layer, norm_cfg: dict) -> nn.Module:
    if layer.section.kind == 'convolutional':
        return ConvLayer(layer.options, norm_cfg)
    if layer.section.kind == 'dropout':
        return nn.Dropout(layer.options.probability)
    kinds = {'maxpool': PoolLayer, 'route': RouteLayer, 'shortcut': ShortcutLayer, 'upsample': UpsampleLayer}
    return kinds[layer.section.kind](layer.options)
