"""YOLOv5's neck: a path-aggregation pyramid (arXiv 1803.01534) of CSP blocks without shortcuts."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmdet.models.layers import CSPLayer
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmyolo_ext.models.layers import ACT_CFG, INIT_CFG, NORM_CFG, check_level_channels, scaled_depth, scaled_width
from mmyolo_ext.registry import MODELS


@MODELS.register_module()
class YOLOv5PAFPN(BaseModule):
    """Top-down, then bottom-up fusion; each level keeps its stride, which must double from one input to the next.

    The deeper map is enlarged (nearest neighbour) to the size of the shallower one, so that images of any size pass.
    The attribute ``out_channels`` has the scaled channels.

    Args:
        in_channels: Channels of the inputs, shallow to deep; or ``'auto'``, which ``YOLODetector`` fills in.
        out_channels: Channels of the outputs before scaling, one per input.
        deepen_factor: Scales ``num_csp_blocks``.
        widen_factor: Scales ``out_channels``.
        num_csp_blocks: Bottlenecks of each CSP block.
        norm_cfg: Normalization layers; batch norm with YOLOv5's values by default.
        act_cfg: Activations; SiLU by default.
        init_cfg: PyTorch's own initialization by default.

    Raises:
        ValueError: If ``in_channels`` was not filled in, there are fewer than two levels, or the two lists differ in
            length.
    """

    def __init__(
        self,
        in_channels: Sequence[int] | str,
        out_channels: Sequence[int],
        deepen_factor: float = 1.0,
        widen_factor: float = 1.0,
        num_csp_blocks: int = 3,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg or INIT_CFG)
        check_level_channels('YOLOv5PAFPN', in_channels, out_channels)
        self.in_channels = tuple(in_channels)
        self.out_channels = tuple(scaled_width(channels, widen_factor) for channels in out_channels)
        depth = scaled_depth(num_csp_blocks, deepen_factor)
        block = {'norm_cfg': norm_cfg or NORM_CFG, 'act_cfg': act_cfg or ACT_CFG}

        def csp(fused_channels: int, channels: int) -> CSPLayer:
            return CSPLayer(fused_channels, channels, num_blocks=depth, add_identity=False, **block)

        # Lists run shallow to deep; entry i joins the levels i and i + 1.
        ins, outs = self.in_channels, self.out_channels
        joints = range(len(outs) - 1)
        to_reduce = (*outs[1:-1], ins[-1])
        self.reduce_layers = nn.ModuleList(ConvModule(to_reduce[i], outs[i], 1, **block) for i in joints)
        self.top_down_layers = nn.ModuleList(csp(outs[i] + ins[i], outs[i]) for i in joints)
        self.downsample_layers = nn.ModuleList(
            ConvModule(outs[i], outs[i], 3, stride=2, padding=1, **block) for i in joints
        )
        self.bottom_up_layers = nn.ModuleList(csp(2 * outs[i], outs[i + 1]) for i in joints)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps of ``in_channels``, shallow to deep -> as many maps of ``out_channels``, of the same sizes."""
        assert len(inputs) == len(self.in_channels), (len(inputs), self.in_channels)
        reduced = []  # deep to shallow
        x = inputs[-1]
        for lateral, reduce, fuse in zip(
            inputs[-2::-1], reversed(self.reduce_layers), reversed(self.top_down_layers), strict=True
        ):
            reduced.append(reduce(x))
            enlarged = F.interpolate(reduced[-1], size=lateral.shape[-2:], mode='nearest')
            x = fuse(torch.cat([enlarged, lateral], dim=1))

        outputs = [x]
        for lateral, downsample, fuse in zip(
            reversed(reduced), self.downsample_layers, self.bottom_up_layers, strict=True
        ):
            x = fuse(torch.cat([downsample(x), lateral], dim=1))
            outputs.append(x)
        return tuple(outputs)
