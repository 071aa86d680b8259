"""ShuffleNetV2 (Ma et al., arXiv 1807.11164): units that process half of the channels, then shuffle both halves."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from mmyolo_ext.checkpoint.backbone_keys import shufflenet_v2_keys
from mmyolo_ext.models.backbones.staged_backbone import StagedBackbone
from mmyolo_ext.models.layers import build_stem
from mmyolo_ext.registry import MODELS

STEM_CHANNELS = 24
STAGE_BLOCKS = (4, 8, 4)
# table 5 of the paper: channels of the three stages
STAGE_CHANNELS = {0.5: (48, 96, 192), 1.0: (116, 232, 464), 1.5: (176, 352, 704), 2.0: (244, 488, 976)}
LAST_CHANNELS = {2.0: 2048}
OTHER_LAST_CHANNELS = 1024


class ShuffleUnit(nn.Module):
    """The unit of figure 3, (c) for stride 1 and (d) for stride 2.

    With stride 1 the first half of the channels is passed through; with stride 2 both branches see all channels. The
    channels of the two branches are interleaved.

    Args:
        in_channels: Channels of the input; with stride 1 the same as ``out_channels``.
        out_channels: Even.
        stride: 1 or 2.
        norm_cfg: Normalization layers.
        act_cfg: Activations.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm_cfg: dict, act_cfg: dict) -> None:
        super().__init__()
        half = out_channels // 2
        halves = stride == 1

        def pointwise(channels: int) -> ConvModule:
            return ConvModule(channels, half, 1, norm_cfg=norm_cfg, act_cfg=act_cfg)

        def depthwise(channels: int) -> ConvModule:
            return ConvModule(
                channels, channels, 3, stride, padding=1, groups=channels, norm_cfg=norm_cfg, act_cfg=None
            )

        self.branch1 = None if halves else nn.Sequential(depthwise(in_channels), pointwise(in_channels))
        self.branch2 = nn.Sequential(pointwise(half if halves else in_channels), depthwise(half), pointwise(half))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        if self.branch1 is None:
            kept, x = x.chunk(2, dim=1)
        else:
            kept = self.branch1(x)
        # (N, 2, C/2, H, W) -> (N, C/2, 2, H, W) -> (N, C, H, W): interleaved
        return torch.stack([kept, self.branch2(x)], dim=2).flatten(1, 2)


@MODELS.register_module()
class ShuffleNetV2(StagedBackbone):
    """Stem of stride 4 (0), three stages of strides 8, 16, 32 (1 to 3), the classifier's last 1x1 convolution (4).

    Args:
        widen_factor: 0.5, 1.0, 1.5 or 2.0, the widths of the paper; ignored if ``stage_channels`` is given.
        stem: ``'conv_maxpool'`` as in the paper, ``'stem_block'`` or ``'focus'``, see :func:`build_stem`.
        in_channels: Channels of the image.
        stage_channels: Three even numbers, instead of the paper's.
        stage_blocks: Number of units of each stage.
        out_indices: See :class:`StagedBackbone`.
        norm_cfg: Normalization layers; batch norm with PyTorch's values by default.
        act_cfg: Activations; ReLU by default.
        **kwargs: ``frozen_stages``, ``norm_eval``, ``with_cp`` and ``init_cfg`` of :class:`StagedBackbone`, which
            loads weights of torchvision and mmpretrain, too.

    Raises:
        ValueError: If the width or stem is unknown, channels or blocks are invalid or an index is out of range.
    """

    def __init__(
        self,
        widen_factor: float = 1.0,
        stem: str = 'conv_maxpool',
        in_channels: int = 3,
        stage_channels: Sequence[int] | None = None,
        stage_blocks: Sequence[int] = STAGE_BLOCKS,
        out_indices: Sequence[int] = (1, 2, 3),
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        **kwargs: Any,
    ) -> None:
        block = {'norm_cfg': norm_cfg or {'type': 'BN'}, 'act_cfg': act_cfg or {'type': 'ReLU'}}
        channels = (
            STEM_CHANNELS,
            *(_stage_channels(widen_factor) if stage_channels is None else stage_channels),
            LAST_CHANNELS.get(widen_factor, OTHER_LAST_CHANNELS),
        )

        def layers() -> Iterator[nn.Module]:
            yield build_stem(stem, in_channels, channels[0], with_pool=True, **block)
            for before, after, num_blocks in zip(channels[:-2], channels[1:-1], stage_blocks, strict=True):
                units = [ShuffleUnit(before, after, 2, **block)]
                units += [ShuffleUnit(after, after, 1, **block) for _ in range(num_blocks - 1)]
                yield nn.Sequential(*units)
            yield ConvModule(channels[-2], channels[-1], 1, **block)

        super().__init__(layers(), channels, (4, 8, 16, 32, 32), out_indices, **kwargs)

    def translate(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename weights of torchvision or mmpretrain to the names of this backbone."""
        return shufflenet_v2_keys(state_dict)


def _stage_channels(widen_factor: float) -> tuple[int, int, int]:
    if widen_factor not in STAGE_CHANNELS:
        raise ValueError(
            f'widen_factor must be one of {tuple(STAGE_CHANNELS)}, got {widen_factor}; for another width give '
            'stage_channels'
        )
    return STAGE_CHANNELS[widen_factor]
