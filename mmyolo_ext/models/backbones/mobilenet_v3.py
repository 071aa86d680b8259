"""MobileNetV3 (Howard et al., arXiv 1905.02244): inverted residuals with squeeze-excitation and h-swish."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from mmcv.cnn import ConvModule
from mmdet.models.layers import InvertedResidual
from mmdet.models.utils import make_divisible
from torch import Tensor, nn

from mmyolo_ext.checkpoint.backbone_keys import mobilenet_v3_keys
from mmyolo_ext.models.backbones.staged_backbone import StagedBackbone
from mmyolo_ext.models.layers import build_stem
from mmyolo_ext.registry import MODELS

# values of the paper's implementation
NORM_CFG = {'type': 'BN', 'momentum': 0.01, 'eps': 1e-3}
RE, HS = {'type': 'ReLU'}, {'type': 'HSwish'}
STEM_CHANNELS = 16
LAST_EXPANSION = 6


class Block(NamedTuple):
    """A row of tables 1 and 2: kernel, expanded and output channels, squeeze-excitation, activation, stride."""

    kernel_size: int
    mid_channels: int
    out_channels: int
    with_se: bool
    act_cfg: dict
    stride: int


# tables 1 and 2 of the paper; each tuple is a stage, the last is the tail
ARCHITECTURES = {
    'large': (
        (Block(3, 16, 16, False, RE, 1), Block(3, 64, 24, False, RE, 2), Block(3, 72, 24, False, RE, 1)),
        (Block(5, 72, 40, True, RE, 2), Block(5, 120, 40, True, RE, 1), Block(5, 120, 40, True, RE, 1)),
        (
            Block(3, 240, 80, False, HS, 2),
            Block(3, 200, 80, False, HS, 1),
            Block(3, 184, 80, False, HS, 1),
            Block(3, 184, 80, False, HS, 1),
            Block(3, 480, 112, True, HS, 1),
            Block(3, 672, 112, True, HS, 1),
        ),
        (Block(5, 672, 160, True, HS, 2), Block(5, 960, 160, True, HS, 1), Block(5, 960, 160, True, HS, 1)),
    ),
    'small': (
        (Block(3, 16, 16, True, RE, 2),),
        (Block(3, 72, 24, False, RE, 2), Block(3, 88, 24, False, RE, 1)),
        (
            Block(5, 96, 40, True, HS, 2),
            Block(5, 240, 40, True, HS, 1),
            Block(5, 240, 40, True, HS, 1),
            Block(5, 120, 48, True, HS, 1),
            Block(5, 144, 48, True, HS, 1),
        ),
        (Block(5, 288, 96, True, HS, 2), Block(5, 576, 96, True, HS, 1), Block(5, 576, 96, True, HS, 1)),
    ),
}


@MODELS.register_module()
class MobileNetV3(StagedBackbone):
    """Stem of stride 2 (0), four stages of strides 4, 8, 16, 32 (1 to 4), the last 1x1 convolution (5).

    With ``stem='stem_block'`` the stem has stride 4 already, and the first stage keeps it.

    Args:
        arch: ``'small'`` or ``'large'``.
        widen_factor: Scales all channels, which are rounded to multiples of 8.
        stem: ``'conv_maxpool'``: a 3x3/2 convolution as in the paper (here without a pool); ``'stem_block'`` or
            ``'focus'``: see :func:`build_stem`.
        reduced_tail: Halve the channels of the last stage, as the paper does for detection (section 6.3).
        in_channels: Channels of the image.
        out_indices: See :class:`StagedBackbone`.
        norm_cfg: Normalization layers; batch norm with the paper's values by default.
        act_cfg: One activation for all layers except squeeze-excitation; by default the paper's two, ReLU in the
            shallow stages and h-swish elsewhere.
        **kwargs: ``frozen_stages``, ``norm_eval``, ``with_cp`` and ``init_cfg`` of :class:`StagedBackbone`, which
            loads weights of torchvision and mmpretrain, too.

    Raises:
        ValueError: If ``arch`` or ``stem`` is unknown or an index is out of range.
    """

    def __init__(
        self,
        arch: str = 'small',
        widen_factor: float = 1.0,
        stem: str = 'conv_maxpool',
        reduced_tail: bool = False,
        in_channels: int = 3,
        out_indices: Sequence[int] = (2, 3, 4),
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        **kwargs: Any,
    ) -> None:
        if arch not in ARCHITECTURES:
            raise ValueError(f'arch must be one of {tuple(ARCHITECTURES)}, got {arch!r}')
        norm_cfg = norm_cfg or NORM_CFG
        stages = _scaled(ARCHITECTURES[arch], widen_factor, reduced_tail)
        if stem == 'stem_block':
            stages[0] = [block._replace(stride=1) for block in stages[0]]
        stem_channels = make_divisible(STEM_CHANNELS * widen_factor, 8)
        stage_channels = [stage[-1].out_channels for stage in stages]
        channels = (stem_channels, *stage_channels, LAST_EXPANSION * stage_channels[-1])
        block = {'norm_cfg': norm_cfg, 'act_cfg': act_cfg or HS}

        def layers() -> Iterator[nn.Module]:
            yield build_stem(stem, in_channels, stem_channels, with_pool=False, **block)
            for before, stage in zip(channels, stages, strict=False):
                yield _stage(before, stage, norm_cfg, act_cfg)
            yield ConvModule(channels[-2], channels[-1], 1, **block)

        strides = (4 if stem == 'stem_block' else 2, 4, 8, 16, 32, 32)
        super().__init__(layers(), channels, strides, out_indices, **kwargs)

    def translate(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename weights of torchvision or mmpretrain to the names of this backbone."""
        return mobilenet_v3_keys(state_dict, [len(stage) for stage in self.layers[1:5]])


def _scaled(stages: Sequence[Sequence[Block]], widen_factor: float, reduced_tail: bool) -> list[list[Block]]:
    """Scale the stages; in a reduced tail all channels after its first expansion are halved."""

    def scaled(block: Block, mid_divisor: int, out_divisor: int) -> Block:
        return block._replace(
            mid_channels=make_divisible(block.mid_channels // mid_divisor * widen_factor, 8),
            out_channels=make_divisible(block.out_channels // out_divisor * widen_factor, 8),
        )

    *body, (down, *rest) = stages
    divisor = 2 if reduced_tail else 1
    return [
        *([scaled(block, 1, 1) for block in stage] for stage in body),
        [scaled(down, 1, divisor), *(scaled(block, divisor, divisor) for block in rest)],
    ]


def _stage(in_channels: int, blocks: Sequence[Block], norm_cfg: dict, act_cfg: dict | None) -> nn.Sequential:
    layers = []
    for block in blocks:
        layers.append(
            InvertedResidual(
                in_channels,
                block.out_channels,
                block.mid_channels,
                block.kernel_size,
                block.stride,
                se_cfg=_squeeze(block.mid_channels) if block.with_se else None,
                with_expand_conv=block.mid_channels != in_channels,
                norm_cfg=norm_cfg,
                act_cfg=act_cfg or block.act_cfg,
            )
        )
        in_channels = block.out_channels
    return nn.Sequential(*layers)


def _squeeze(channels: int) -> dict:
    """Return squeeze-excitation on a quarter of the channels, rounded to a multiple of 8."""
    squeezed = make_divisible(channels // 4, 8)
    return {
        'channels': channels,
        # mmdet's layer takes int(channels / ratio); the half prevents a rounding error
        'ratio': channels / (squeezed + 0.5),
        'act_cfg': (RE, {'type': nn.Hardsigmoid}),  # mmcv's HSigmoid warns on construction
    }
