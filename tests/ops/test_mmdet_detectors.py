"""MMDetection's detectors on our ops: each builds from its own config, trains a step and predicts.

The images are small, proposals few and weights random; the test checks that every op exists and gives finite
numbers in both directions.
"""

from collections.abc import Iterator
from pathlib import Path

import mmdet
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import DefaultScope

pytestmark = pytest.mark.slow

CONFIGS = Path(mmdet.__file__).parent / '.mim' / 'configs'
FAMILIES = {
    # one stage: NMS over classes
    'retinanet/retinanet_r18_fpn_1x_coco': 128,
    'fcos/fcos_r18_fpn_gn-head-center-normbbox-centeronreg-giou_8xb8-amp-lsj-200e_coco': 128,
    'atss/atss_r18_fpn_8xb8-amp-lsj-200e_coco': 128,
    'gfl/gfl_r50_fpn_1x_coco': 64,
    'paa/paa_r50_fpn_1x_coco': 64,
    'free_anchor/freeanchor_r50_fpn_1x_coco': 64,
    'tood/tood_r50_fpn_1x_coco': 64,
    'ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco': 320,
    'yolo/yolov3_mobilenetv2_8xb24-320-300e_coco': 128,
    'yolox/yolox_tiny_8xb8-300e_coco': 128,
    'rtmdet/rtmdet_tiny_8xb32-300e_coco': 128,
    'rtmdet/rtmdet-ins_tiny_8xb32-300e_coco': 128,
    # deformable convolution
    'vfnet/vfnet_r50-mdconv-c3-c5_fpn_ms-2x_coco': 64,
    'reppoints/reppoints-moment_r50_fpn_1x_coco': 64,
    'dyhead/atss_r50_fpn_dyhead_1x_coco': 64,
    'centernet/centernet_r18-dcnv2_8xb16-crop512-140e_coco': 128,
    # two stages: RoIAlign
    'faster_rcnn/faster-rcnn_r18_fpn_8xb8-amp-lsj-200e_coco': 128,
    'faster_rcnn/faster-rcnn_r50_fpn_soft-nms_1x_coco': 64,
    'mask_rcnn/mask-rcnn_r18_fpn_8xb8-amp-lsj-200e_coco': 128,
    'cascade_rcnn/cascade-rcnn_r18_fpn_8xb8-amp-lsj-200e_coco': 128,
    'point_rend/point-rend_r50-caffe_fpn_ms-1x_coco': 64,
    # NMS groups, masked convolution, CARAFE, deformable RoI pooling
    'pisa/faster-rcnn_r50_fpn_pisa_1x_coco': 64,
    'guided_anchoring/ga-retinanet_r50_fpn_1x_coco': 64,
    'carafe/faster-rcnn_r50_fpn-carafe_1x_coco': 64,
    'dcnv2/faster-rcnn_r50_fpn_mdpool_1x_coco': 64,
    # queries
    'detr/detr_r18_8xb2-500e_coco': 64,
    'deformable_detr/deformable-detr_r50_16xb2-50e_coco': 64,
    'dino/dino-4scale_r50_8xb2-12e_coco': 64,
    'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco': 64,
    # corner pooling
    'cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco': 128,
}
"""Config of mmdet, and the side of the image in pixels."""

SHORTENED = {'max_per_img': 30, 'nms_pre': 100, 'num_queries': 40, 'num_proposals': 40, 'num': 32, 'num_stacks': 1}

MAY_FIND_NOTHING = ('rtmdet/', 'cornernet/')
"""With random weights the boxes of RTMDet have negative sizes and no two corners of CornerNet match."""


@pytest.fixture(autouse=True)
def mmdet_scope() -> Iterator[None]:
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def shorten(node: object) -> None:
    """In place: no downloaded weights, no image enlarged, few proposals, and no prediction too poor to pass NMS."""
    if isinstance(node, dict):
        for key, value in list(node.items()):
            if key in ('pretrained', 'batch_augments') or (key == 'init_cfg' and 'Pretrained' in str(value)):
                node[key] = None
            elif key in SHORTENED and isinstance(value, int):
                node[key] = min(value, SHORTENED[key]) if value > 0 else value
            elif key == 'score_thr':
                node[key] = 0.0
            else:
                shorten(value)
    elif isinstance(node, list | tuple):
        for child in node:
            shorten(child)


def complete(model: torch.nn.Module) -> None:
    """What training leaves in the message hub (TOOD asks for the epoch), and what SSD's head forgets to have."""
    MessageHub.get_current_instance().update_info('epoch', 0)
    for module in model.modules():
        if type(module).__name__ == 'SSDHead':
            module.loss_cls = None


@pytest.mark.parametrize('name', FAMILIES, ids=lambda name: name.split('/')[1].split('_coco')[0])
def test_trains_a_step_and_predicts(name: str) -> None:
    config = Config.fromfile(CONFIGS / f'{name}.py').model
    shorten(config)
    model = MODELS.build(config)
    model.init_weights()
    shape = (3, FAMILIES[name], FAMILIES[name])
    # RTMDet without masks takes those it is given for boxes.
    batch = demo_mm_inputs(2, [shape] * 2, num_items=[3, 2], num_classes=10, with_mask='mask' in str(config))
    complete(model)

    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    model.train()
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    total, _ = model.parse_losses(losses)
    assert total.isfinite(), losses
    total.backward()
    gradients = {key: value.grad for key, value in model.named_parameters() if value.grad is not None}
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    optimizer.step()
    assert any(not torch.equal(before[key], value) for key, value in model.named_parameters())

    model.eval()
    with torch.no_grad():
        predictions = model.test_step(demo_mm_inputs(1, [shape], num_items=[2]))[0].pred_instances
    assert len(predictions) or name.startswith(MAY_FIND_NOTHING)
    assert predictions.bboxes.isfinite().all() and predictions.scores.isfinite().all()
