"""The neck of YOLOv3-tiny, as published with YOLOv3; it has no paper."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmyolo_ext.models.darknet.defaults import ACT_CFG, NORM_CFG
from mmyolo_ext.models.layers import INIT_CFG
from mmyolo_ext.models.necks.level_channels import check_channels
from mmyolo_ext.registry import MODELS


@MODELS.register_module()
class YOLOv3TinyFPN(BaseModule):
    """Top-down alone: the deepest input made narrow, enlarged and joined to the next, then one 3x3 for each level.

    The deeper map is enlarged (nearest) to the size of the shallower one. Any number of levels from two on.

    Args:
        in_channels: channels of the inputs, shallow to deep; or ``'auto'``, which ``YOLODetector`` fills in.
        out_channels: even channels of the outputs, one per input.
        norm_cfg: normalization layers; Darknet's by default.
        act_cfg: activations; LeakyReLU of slope 0.1 by default.
        init_cfg: PyTorch's own start by default.

    Raises:
        ValueError: ``in_channels`` was not filled in, fewer than two levels, or the two lists differ in length.
    """

    def __init__(
        self,
        in_channels: Sequence[int] | str,
        out_channels: Sequence[int] = (256, 512),
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg or INIT_CFG)
        check_channels('YOLOv3TinyFPN', in_channels, out_channels)
        self.in_channels = tuple(in_channels)
        self.out_channels = tuple(out_channels)
        block = {'norm_cfg': norm_cfg or NORM_CFG, 'act_cfg': act_cfg or ACT_CFG}
        ins, outs = self.in_channels, self.out_channels
        half = [channels // 2 for channels in outs]
        # Each list runs shallow to deep. Entry i of the laterals leads from level i + 1 to level i; what goes on from
        # a level is what its 3x3 convolution sees.
        self.reduce = ConvModule(ins[-1], half[-1], 1, **block)
        fused = [ins[i] + half[i] for i in range(len(outs) - 1)] + [half[-1]]
        self.laterals = nn.ModuleList(ConvModule(fused[i + 1], half[i], 1, **block) for i in range(len(outs) - 1))
        self.out_convs = nn.ModuleList(
            ConvModule(seen, channels, 3, padding=1, **block) for seen, channels in zip(fused, outs, strict=True)
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps of ``in_channels``, shallow to deep -> as many maps of ``out_channels``, of the same sizes."""
        assert len(inputs) == len(self.in_channels), (len(inputs), self.in_channels)
        seen = [self.reduce(inputs[-1])]
        for skip, lateral in zip(inputs[-2::-1], reversed(self.laterals), strict=True):
            enlarged = F.interpolate(lateral(seen[0]), size=skip.shape[-2:], mode='nearest')
            seen.insert(0, torch.cat([enlarged, skip], dim=1))
        return tuple(conv(level) for conv, level in zip(self.out_convs, seen, strict=True))
