"""Parts that do not fit: an error when the detector is built, with the ``out_indices`` that would fit."""

from collections.abc import Sequence

import pytest
import torch
from fitting_parts import detector, fpn, pafpn, resnet, retina_head, yolov5_head
from torch import nn

from mmyolo_ext.models.detectors.in_channels import head_strides
from mmyolo_ext.registry import MODELS


@MODELS.register_module(force=True)
class Reversed(nn.Module):
    """Gives its maps deep to shallow."""

    def __init__(self, out_indices: Sequence[int] = (2, 1, 0)) -> None:
        super().__init__()
        self.out_indices = out_indices
        self.stages = nn.ModuleList(
            nn.Conv2d(3, width, 3, stride, 1) for width, stride in ((8, 8), (16, 16), (32, 32))
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.stages[index](x) for index in self.out_indices)


@MODELS.register_module(force=True)
class NoChoice(nn.Module):
    """Always gives stride 4 alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 4, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.conv(x),)


class LastByDefault(nn.Module):
    """As in mmpretrain: ``out_indices=-1``, the last output only; ``strides`` are those of all outputs."""

    strides: tuple[int, ...] = ()
    keeps_what_is_written = False  # in ``out_indices``; most count from 0 there

    def __init__(self, out_indices: int | Sequence[int] = -1, out_type: str = 'featmap') -> None:
        super().__init__()
        asked = [out_indices] if isinstance(out_indices, int) else list(out_indices)
        self.used = [index % len(self.strides) if index < 0 else index for index in asked]
        assert max(self.used) < len(self.strides)
        self.out_indices = out_indices if self.keeps_what_is_written else self.used
        self.out_type = out_type
        self.stages = nn.ModuleList(nn.Conv2d(3, 8 + i, 3, stride, 1) for i, stride in enumerate(self.strides))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        maps = tuple(self.stages[index](x) for index in self.used)
        return maps if self.out_type == 'featmap' else tuple(item.mean((2, 3)) for item in maps)


@MODELS.register_module(force=True)
class PoolFormerLike(LastByDefault):
    """Four stages, and before three of them an embedding."""

    strides = (4, 8, 8, 16, 16, 32, 32)


@MODELS.register_module(force=True)
class DenseNetLike(LastByDefault):
    """A transition halves the maps after all stages but the last."""

    strides = (8, 16, 32, 32)
    keeps_what_is_written = True


@MODELS.register_module(force=True)
class ViTLike(LastByDefault):
    """Twelve layers of one stride."""

    strides = (16,) * 12


@MODELS.register_module(force=True)
class DeepViTLike(LastByDefault):
    """More layers than are tried one by one."""

    strides = (16,) * 24


def error_of(config: dict) -> str:
    """Return the message of the error that building raises."""
    with pytest.raises(ValueError, match=r'\w') as caught:
        MODELS.build(config)
    return str(caught.value)


# its strides are distances between anchors, not of maps
SSD_ANCHORS = {
    'type': 'mmdet.SSDAnchorGenerator',
    'scale_major': False,
    'input_size': 300,
    'basesize_ratio_range': (0.15, 0.9),
    'strides': [8, 16, 32, 64, 100, 300],
    'ratios': [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
}
SWITCH = "with in_channels='auto' in the neck"
TRY_123 = 'Try out_indices=(1, 2, 3) of '
CSP = {'type': 'mmyolo_ext.YOLOv5CSPDarknet', 'widen_factor': 0.125, 'deepen_factor': 0.33}
SWIN = {'type': 'mmdet.SwinTransformer', 'embed_dims': 8, 'depths': [1] * 4, 'num_heads': [1] * 4}
FIVE = {'add_extra_convs': 'on_input'}


@pytest.mark.parametrize(
    ('config', 'words'),
    [
        # our neck: strides, numbers too few and too many, a gap
        (detector(resnet((0, 1, 2)), pafpn()), ('strides (4, 8, 16)', 'YOLOv5Head have (8, 16, 32)', TRY_123)),
        (detector(resnet((1, 2)), pafpn()), ('ResNet outputs maps of channels (16, 32)', '(now (1, 2))', TRY_123)),
        (detector(resnet((0, 1, 2, 3)), pafpn()), ('cannot be built for them: YOLOv5PAFPN needs', TRY_123)),
        (detector(resnet((0, 1, 3)), pafpn()), ('strides (4, 8, 32); YOLOv5PAFPN', 'does not accept', TRY_123)),
        # the same with numbers in place of 'auto'
        (
            detector(resnet((0, 1, 2)), pafpn(in_channels=[16, 32, 64])),
            ('(in_channels=[16, 32, 64]) does not accept', TRY_123, SWITCH),
        ),
        (
            detector(resnet((1, 2, 3)), pafpn(in_channels=[8, 16, 32])),
            ('of channels (16, 32, 64)', "Write in_channels='auto' in the neck."),
        ),
        # all channels are written and right, but strides do not double: only the dry run detects it
        (
            detector(
                resnet((1, 2, 3), strides=(1, 2, 2, 1)),
                pafpn(in_channels=[16, 32, 64]),
                yolov5_head(in_channels=[16, 32, 64]),
            ),
            ('strides (8, 16, 16)', '0: 4, 1: 8, 2: 16, 3: 16), the neck'),
        ),
        # mmdet's neck
        (detector(resnet((0, 1, 2)), fpn()), ('strides (4, 8, 16)', TRY_123)),
        (detector(resnet((0, 1, 2, 3)), fpn()), ('FPN cannot be built for them: assert', TRY_123)),
        (detector(resnet((0, 1, 3)), fpn()), ('strides (4, 8, 32)', TRY_123)),
        # no neck
        (detector(resnet((0, 1, 2))), ('strides (4, 8, 16)', TRY_123)),
        (detector(resnet((2, 3))), ('YOLOv5Head cannot be built for them', TRY_123)),
        # a neck that adds two levels, and one that also leaves out the first
        (
            detector(resnet((0, 1, 2)), fpn(5, **FIVE), retina_head()),
            ('(4, 8, 16, 32, 64), the anchors of RetinaHead have (8, 16, 32, 64, 128)', TRY_123),
        ),
        (
            detector(resnet((1, 2, 3)), fpn(5, start_level=1, **FIVE), retina_head()),
            ('the strides (16, 32, 64, 128, 256)', '0: 4, 1: 8, 2: 16, 3: 32'),
        ),
        # deep to shallow
        (detector({'type': 'mmyolo_ext.Reversed'}), ('strides (32, 16, 8)', 'Try out_indices=(0, 1, 2) of')),
        # backbones whose index i is not of stride 4 * 2 ** i
        (detector({**SWIN, 'out_indices': (0, 1, 2)}, pafpn()), ('strides (4, 8, 16)', TRY_123)),
        (detector({**CSP, 'out_indices': (1, 2, 3)}, pafpn()), ('strides (4, 8, 16)', 'Try out_indices=(2, 3, 4) of')),
        (
            detector({'type': 'mmdet.MobileNetV2', 'widen_factor': 0.25}, pafpn()),
            ('(now (1, 2, 4, 7))', 'Try out_indices=(2, 4, 7) of'),
        ),
        # two indices have stride 32, the second is the last 1x1 convolution; the default one is suggested
        (
            detector({'type': 'mmyolo_ext.MobileNetV3', 'widen_factor': 0.25, 'out_indices': (1, 2, 3)}, pafpn()),
            ('strides (4, 8, 16)', 'Try out_indices=(2, 3, 4) of'),
        ),
        (
            detector({'type': 'mmyolo_ext.ShuffleNetV2', 'widen_factor': 0.5, 'out_indices': (0, 1, 2)}, pafpn()),
            ('strides (4, 8, 16)', TRY_123),
        ),
        # out_indices=-1 by default: the last output alone
        (
            detector({'type': 'mmyolo_ext.PoolFormerLike'}, fpn()),
            ('the strides (32, 64, 128)', '(now (6,))', 'Try out_indices=(2, 4, 6) of'),
        ),
        (
            detector({'type': 'mmyolo_ext.DenseNetLike'}, fpn()),
            ('the strides (32, 64, 128)', '(now (-1,))', 'Try out_indices=(0, 1, 3) of'),
        ),
        (
            detector({'type': 'mmyolo_ext.DenseNetLike', 'out_indices': (0, 1, 2, -1)}, fpn()),
            ('FPN cannot be built', '(now (0, 1, 2, -1))', 'Try out_indices=(0, 1, 3) of'),
        ),
        (
            detector({'type': 'mmyolo_ext.ViTLike'}, pafpn()),
            ('ViTLike outputs maps of channels (19,) and strides (16,)', '10: 16, 11: 16), the neck'),
        ),
        (detector({'type': 'mmyolo_ext.DeepViTLike'}), ('strides (16,)', '(now (23,);', '10: 16, 11: 16)')),
        (
            detector({'type': 'mmyolo_ext.ViTLike', 'out_type': 'cls_token'}, fpn()),
            ('ViTLike must return a tuple of maps (N, C, H, W)', 'got tuple of [torch.Size([1, 19])]', "'featmap'"),
        ),
        # nothing to choose from
        (
            detector({'type': 'mmyolo_ext.NoChoice'}, fpn()),
            ('strides (4, 8, 16)', 'Change out_indices of NoChoice (now None), the neck'),
        ),
        # it is not for the indices, and nothing is said of them
        (
            detector(resnet((1, 2, 3)), pafpn(), yolov5_head(prior_generator={
                'type': 'mmdet.YOLOAnchorGenerator', 'base_sizes': [[(10, 13)], [(30, 61)]], 'strides': [8, 16]
            })),
            ('YOLOv5Head cannot be built for them', '0: 4, 1: 8, 2: 16, 3: 32'),
        ),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit(config: dict, words: tuple[str, ...]) -> None:
    message = error_of(config)
    for part in words:
        assert part in message


def test_one_number_for_several_channels() -> None:
    message = error_of(detector(resnet((1, 2, 3)), pafpn(), retina_head((8, 16, 32))))
    assert 'mmdet.RetinaHead takes maps of equal channels' in message
    assert 'YOLOv5PAFPN outputs (16, 32, 64)' in message
    assert 'mmdet.FPN or mmdet.ChannelMapper' in message
    equal = detector(resnet((1, 2, 3)), pafpn(out_channels=(256, 256, 256)), retina_head((8, 16, 32)))
    assert MODELS.build(equal).bbox_head.in_channels == 16


def test_necks_one_after_the_other() -> None:
    pair = [fpn(), {'type': 'mmdet.ChannelMapper', 'in_channels': 'auto', 'out_channels': 32}]
    model = MODELS.build(detector(resnet((1, 2, 3)), pair))
    assert model.bbox_head.in_channels == (32, 32, 32)


def test_errors_unrelated_to_channels_get_no_advice() -> None:
    head = retina_head(type='mmdet.FCOSHead', norm_cfg={'type': 'GN', 'num_groups': 5})
    del head['anchor_generator']
    message = error_of(detector(resnet((1, 2, 3)), fpn(5, **FIVE), {**head, 'strides': (8, 16, 32, 64, 128)}))
    assert message.endswith('must be divisible by num_groups (5).')


@pytest.mark.parametrize(
    ('head', 'strides'),
    [
        (yolov5_head(in_channels=[8, 8, 8]), (8, 16, 32)),  # by default
        (retina_head((4, 8), in_channels=8), (4, 8)),
        ({'type': 'mmdet.FCOSHead', 'num_classes': 2, 'in_channels': 8, 'feat_channels': 32}, (4, 8, 16, 32, 64)),
        ({'type': 'mmdet.YOLOXHead', 'num_classes': 2, 'in_channels': 8, 'feat_channels': 8}, (8, 16, 32)),
        ({'type': 'mmdet.YOLOV3Head', 'num_classes': 2, 'in_channels': [8, 8, 8]}, (32, 16, 8)),
        ({'type': 'mmdet.SSDHead', 'num_classes': 2, 'anchor_generator': SSD_ANCHORS}, None),
        ({'type': 'mmdet.CenterNetHead', 'in_channels': 8, 'feat_channels': 8, 'num_classes': 2}, None),
    ],
)
def test_strides_of_heads(head: dict, strides: tuple[int, ...] | None) -> None:
    if head['type'] == 'mmdet.CenterNetHead':
        head = {**head, 'test_cfg': {}}
    assert head_strides(head) == strides
    assert head_strides(MODELS.build(head)) == strides
