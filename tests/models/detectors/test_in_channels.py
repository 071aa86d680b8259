"""``in_channels='auto'`` in necks and heads of mmdet: a list or one number, as each takes it."""

from pathlib import Path

import mmdet
import pytest
import torch
from fitting_parts import SIZE_HW, detector, resnet, sample
from mmdet.models import dense_heads, necks
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import DefaultScope

from mmyolo_ext.models.detectors.in_channels import takes_one_number
from mmyolo_ext.registry import MODELS

CONFIGS = Path(mmdet.__file__).parent / '.mim' / 'configs'

# As mmdet's own configs write in_channels: read from all of them once, which none contradicts.
LIST_HEADS = {'PISASSDHead', 'SSDHead', 'YOLOV3Head'}
NUMBER_HEADS = {
    'ATSSHead', 'ATSSVLFusionHead', 'AutoAssignHead', 'BoxInstBboxHead', 'CenterNetHead', 'CenterNetUpdateHead',
    'CentripetalHead', 'CondInstBboxHead', 'CornerHead', 'DDODHead', 'DecoupledSOLOHead', 'DecoupledSOLOLightHead',
    'FCOSHead', 'FSAFHead', 'FoveaHead', 'FreeAnchorRetinaHead', 'GARPNHead', 'GARetinaHead', 'GFLHead', 'LADHead',
    'LDHead', 'NASFCOSHead', 'PAAHead', 'PISARetinaHead', 'RPNHead', 'RTMDetHead', 'RTMDetInsSepBNHead',
    'RTMDetSepBNHead', 'RepPointsHead', 'RetinaHead', 'RetinaSepBNHead', 'SABLRetinaHead', 'SOLOHead', 'SOLOV2Head',
    'TOODHead', 'VFNetHead', 'YOLACTHead', 'YOLACTProtonet', 'YOLOFHead', 'YOLOXHead',
}  # fmt: skip
LIST_NECKS = {
    'CLRFPN', 'CSPNeXtPAFPN', 'ChannelMapper', 'FPG', 'FPN', 'FPN_CARAFE', 'FPN_DropBlock', 'HRFPN', 'NASFCOS_FPN',
    'NASFPN', 'PAFPN', 'RFP', 'SSDNeck', 'YOLOV3Neck', 'YOLOXPAFPN',
}  # fmt: skip
NUMBER_NECKS = {'BFP', 'CTResNetNeck', 'DilatedEncoder', 'DyHead'}


@pytest.mark.parametrize('name', sorted(LIST_HEADS | NUMBER_HEADS | LIST_NECKS | NUMBER_NECKS))
def test_list_or_number(name: str) -> None:
    assert hasattr(dense_heads, name) or hasattr(necks, name)
    assert takes_one_number({'type': f'mmdet.{name}'}) == (name in NUMBER_HEADS | NUMBER_NECKS)


@MODELS.register_module(force=True)
class Union(torch.nn.Module):
    """A user's head whose hint is a union."""

    def __init__(self, in_channels: int | list[int]) -> None:
        super().__init__()


@MODELS.register_module(force=True)
class Postponed(torch.nn.Module):
    """A head whose hints are not evaluated, and one of them cannot be."""

    def __init__(self, in_channels: 'int', other: 'NowhereDefined' = None) -> None:  # noqa: F821
        super().__init__()


@MODELS.register_module(force=True)
class PassesOn(dense_heads.FCOSHead):
    """A head that passes its arguments to its base class."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)


@pytest.mark.parametrize(
    ('kind', 'one'),
    [
        ('mmyolo_ext.YOLOv5Head', False),
        ('mmyolo_ext.YOLOv5PAFPN', False),
        ('mmyolo_ext.Union', False),
        ('mmyolo_ext.Postponed', True),
        ('mmyolo_ext.PassesOn', True),
        (dense_heads.GFLHead, True),
        (dense_heads.SSDHead, False),
        ('mmyolo_ext.NotRegistered', False),
    ],
)
def test_list_or_number_of_others(kind: str | type, one: bool) -> None:
    assert takes_one_number({'type': kind}) == one


def test_scope_of_the_run() -> None:
    with DefaultScope.overwrite_default_scope('mmdet'):
        assert takes_one_number({'type': 'FCOSHead'})
    assert takes_one_number({'type': 'FCOSHead', '_scope_': 'mmdet'})


def small(node: object) -> None:
    """In place: narrow heads, no downloaded weights, and every in_channels of neck and head 'auto'."""
    if isinstance(node, dict):
        for key, value in list(node.items()):
            if key in ('feat_channels', 'out_channels') and isinstance(value, int):
                node[key] = 32  # which group norm divides into its usual 32
            elif key == 'init_cfg' and 'Pretrained' in str(value):
                node[key] = None
            else:
                small(value)
    elif isinstance(node, list | tuple):
        for value in node:
            small(value)


OF_MMDET = (
    'retinanet/retinanet_r50_fpn_1x_coco',
    'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco',
    'gfl/gfl_r50_fpn_1x_coco',
    'atss/atss_r50_fpn_1x_coco',
    'paa/paa_r50_fpn_1x_coco',
    'tood/tood_r50_fpn_1x_coco',
    'vfnet/vfnet_r50_fpn_1x_coco',
    'ddod/ddod_r50_fpn_1x_coco',
    'foveabox/fovea_r50_fpn_4xb4-1x_coco',
    'fsaf/fsaf_r50_fpn_1x_coco',
    'free_anchor/freeanchor_r50_fpn_1x_coco',
    'autoassign/autoassign_r50-caffe_fpn_1x_coco',
    'nas_fcos/nas-fcos_r50-caffe_fpn_fcoshead-gn-head_4xb4-1x_coco',
    'reppoints/reppoints-moment_r50_fpn_1x_coco',
    'sabl/sabl-retinanet_r50_fpn_1x_coco',
    'guided_anchoring/ga-retinanet_r50_fpn_1x_coco',
    'yolof/yolof_r50-c5_8xb8-1x_coco',
    'yolox/yolox_tiny_8xb8-300e_coco',
    'rtmdet/rtmdet_tiny_8xb32-300e_coco',
    'yolo/yolov3_mobilenetv2_8xb24-320-300e_coco',  # its neck counts levels from the deepest on
    'dyhead/atss_r50_fpn_dyhead_1x_coco',  # two necks: FPN takes a list, DyHead a number
)
OUT_INDICES = {1: (3,), 3: (1, 2, 3), 4: (0, 1, 2, 3)}  # by the number of levels


@pytest.mark.parametrize('name', OF_MMDET)
def test_heads_of_mmdet(name: str) -> None:
    """Neck and head of mmdet's own config, both with 'auto', on our choice of backbone: a step of training."""
    torch.manual_seed(0)
    MessageHub.get_current_instance().update_info('epoch', 0)  # TOOD's loss depends on it
    config = Config.fromfile(CONFIGS / f'{name}.py').model.to_dict()
    parts = config['neck'] if isinstance(config['neck'], list) else [config['neck']]
    levels = parts[0]['in_channels']
    small(config)
    for part in (*parts, config['bbox_head']):
        part['in_channels'] = 'auto'
    backbone = resnet(OUT_INDICES[len(levels) if isinstance(levels, list) else 1])
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(
            detector(backbone, config['neck'], config['bbox_head'], train_cfg=config.get('train_cfg'))
        )
        losses = model.loss(torch.rand(2, 3, *SIZE_HW), [sample(), sample()])
    total = sum(value.sum() for item in losses.values() for value in (item if isinstance(item, list) else [item]))
    total.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
