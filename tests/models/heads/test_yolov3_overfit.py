"""Small detectors learn two pictures by heart: YOLOv3's head, and the dynamic match in YOLOv5's."""

import pytest
import torch
from test_overfit import PICTURES, synthetic_batch

from mmyolo_ext.boxes import paired_iou
from mmyolo_ext.models.detectors import YOLODetector

NUM_STEPS = 120
LEARNING_RATE = 5e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    'head',
    [
        {'type': 'mmyolo_ext.YOLOv3Head'},
        {'type': 'mmyolo_ext.YOLOv5Head', 'assigner': {'type': 'mmyolo_ext.YOLOv5SimOTAAssigner'}},
    ],
    ids=['yolov3', 'yolov5-simota'],
)
def test_learns_two_pictures(head: dict) -> None:
    torch.manual_seed(0)
    # group norm: with two pictures, running statistics would lag behind the batch's
    size = {'deepen_factor': 0.33, 'widen_factor': 0.125, 'norm_cfg': {'type': 'GN', 'num_groups': 4}}
    detector = YOLODetector(
        backbone={'type': 'mmyolo_ext.YOLOv5CSPDarknet', **size},
        neck={'type': 'mmyolo_ext.YOLOv5PAFPN', 'in_channels': 'auto', 'out_channels': (256, 512, 1024), **size},
        bbox_head={**head, 'num_classes': 2, 'in_channels': 'auto', 'scale_losses': False},
        test_cfg={'score_thr': 0.5, 'nms': {'type': 'nms', 'iou_threshold': 0.5}},
    )
    detector.init_weights()
    images, samples = synthetic_batch()
    optimizer = torch.optim.Adam(detector.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=NUM_STEPS)
    for _ in range(NUM_STEPS):
        losses = detector.loss(images, samples)
        optimizer.zero_grad()
        sum(losses[f'loss_{term}'] for term in ('cls', 'bbox', 'obj')).backward()
        optimizer.step()
        schedule.step()

    detector.eval()
    with torch.no_grad():
        results = detector.predict(images, samples)
    for result, objects in zip(results, PICTURES, strict=True):
        found = result.pred_instances
        assert len(found) == len(objects)
        for box, label in objects:
            overlaps = paired_iou(found.bboxes[found.labels == label], torch.tensor(box).float())
            assert overlaps.max() > 0.85, (box, found)
