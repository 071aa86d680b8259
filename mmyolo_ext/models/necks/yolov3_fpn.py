"""Necks of YOLOv3 (arXiv 1804.02767, section 2.3) and of YOLOv3-tiny, which has no paper."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmdet.models.necks import YOLOV3Neck
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmyolo_ext.models.layers import DARKNET_ACT_CFG, DARKNET_NORM_CFG, INIT_CFG, check_level_channels
from mmyolo_ext.registry import MODELS


@MODELS.register_module()
class YOLOv3FPN(BaseModule):
    """mmdet's ``YOLOV3Neck`` with levels from shallow to deep, and a 3x3 convolution on each output.

    mmdet's neck takes and returns its levels deep to shallow, and leaves the last 3x3 convolution to its head. With
    this class any head may follow. The stride must double from one input to the next.

    Args:
        in_channels: Channels of the inputs, shallow to deep; or ``'auto'``, which ``YOLODetector`` fills in.
        out_channels: Even channels of the outputs, one per input.
        norm_cfg: Normalization layers; Darknet's by default.
        act_cfg: Activations; LeakyReLU of slope 0.1 by default.
        init_cfg: PyTorch's own initialization by default.

    Raises:
        ValueError: If ``in_channels`` was not filled in, there are fewer than two levels, or the two lists differ in
            length.
    """

    def __init__(
        self,
        in_channels: Sequence[int] | str,
        out_channels: Sequence[int] = (256, 512, 1024),
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg or INIT_CFG)
        check_level_channels('YOLOv3FPN', in_channels, out_channels)
        self.in_channels = tuple(in_channels)
        self.out_channels = tuple(out_channels)
        block = {'norm_cfg': norm_cfg or DARKNET_NORM_CFG, 'act_cfg': act_cfg or DARKNET_ACT_CFG}
        half = [channels // 2 for channels in self.out_channels]
        self.pyramid = YOLOV3Neck(len(half), list(self.in_channels[::-1]), half[::-1], **block)
        self.out_convs = nn.ModuleList(
            ConvModule(narrow, wide, 3, padding=1, **block)
            for narrow, wide in zip(half, self.out_channels, strict=True)
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps of ``in_channels``, shallow to deep -> as many maps of ``out_channels``, of the same sizes."""
        maps = reversed(self.pyramid(inputs))
        return tuple(conv(level) for conv, level in zip(self.out_convs, maps, strict=True))


@MODELS.register_module()
class YOLOv3TinyFPN(BaseModule):
    """The top-down neck of YOLOv3-tiny, for two levels or more.

    The deepest input is reduced by a 1x1 convolution, enlarged (nearest neighbour) to the size of the next shallower
    level and concatenated with it; a 3x3 convolution follows on each level.

    Args:
        in_channels: Channels of the inputs, shallow to deep; or ``'auto'``, which ``YOLODetector`` fills in.
        out_channels: Even channels of the outputs, one per input.
        norm_cfg: Normalization layers; Darknet's by default.
        act_cfg: Activations; LeakyReLU of slope 0.1 by default.
        init_cfg: PyTorch's own initialization by default.

    Raises:
        ValueError: If ``in_channels`` was not filled in, there are fewer than two levels, or the two lists differ in
            length.
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
        check_level_channels('YOLOv3TinyFPN', in_channels, out_channels)
        self.in_channels = tuple(in_channels)
        self.out_channels = tuple(out_channels)
        block = {'norm_cfg': norm_cfg or DARKNET_NORM_CFG, 'act_cfg': act_cfg or DARKNET_ACT_CFG}
        ins, outs = self.in_channels, self.out_channels
        half = [channels // 2 for channels in outs]
        # Lists run shallow to deep. laterals[i] leads from level i + 1 to level i; ``fused`` are the inputs of the
        # 3x3 convolutions.
        self.reduce = ConvModule(ins[-1], half[-1], 1, **block)
        fused = [ins[i] + half[i] for i in range(len(outs) - 1)] + [half[-1]]
        self.laterals = nn.ModuleList(ConvModule(fused[i + 1], half[i], 1, **block) for i in range(len(outs) - 1))
        self.out_convs = nn.ModuleList(
            ConvModule(width, channels, 3, padding=1, **block) for width, channels in zip(fused, outs, strict=True)
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps of ``in_channels``, shallow to deep -> as many maps of ``out_channels``, of the same sizes."""
        fused = [self.reduce(inputs[-1])]
        for skip, lateral in zip(inputs[-2::-1], reversed(self.laterals), strict=True):
            enlarged = F.interpolate(lateral(fused[0]), size=skip.shape[-2:], mode='nearest')
            fused.insert(0, torch.cat([enlarged, skip], dim=1))
        return tuple(conv(level) for conv, level in zip(self.out_convs, fused, strict=True))
