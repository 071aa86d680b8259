"""Small detectors overfit two images: loss, gradients, decoding and NMS agree with each other."""

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmyolo_ext.boxes import paired_iou
from mmyolo_ext.models.detectors import YOLODetector

SIZE_HW = (64, 96)
NUM_STEPS = 120
LEARNING_RATE = 5e-3
# boxes (xyxy px) and label of each image; a class is a colour
IMAGES = [
    [((8, 12, 28, 52), 0), ((50, 20, 86, 40), 1)],
    [((30, 8, 70, 58), 1)],
]


def synthetic_batch() -> tuple[torch.Tensor, list[DetDataSample]]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(len(IMAGES), 3, *SIZE_HW, generator=generator) * 0.2
    samples = []
    for image, objects in zip(images, IMAGES, strict=True):
        for (x1, y1, x2, y2), label in objects:
            image[label, y1:y2, x1:x2] += 0.8
        meta = {
            'img_shape': SIZE_HW,
            'ori_shape': SIZE_HW,
            'batch_input_shape': SIZE_HW,
            'scale_factor': (1.0, 1.0),
        }
        sample = DetDataSample(metainfo=meta)
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor([box for box, _ in objects]).float(),
            labels=torch.tensor([label for _, label in objects]),
        )
        samples.append(sample)
    return images, samples


@pytest.mark.slow
@pytest.mark.parametrize(
    'head',
    [
        {'type': 'mmyolo_ext.YOLOv5Head'},
        {'type': 'mmyolo_ext.YOLOv3Head'},
        {'type': 'mmyolo_ext.YOLOv5Head', 'assigner': {'type': 'mmyolo_ext.YOLOv5SimOTAAssigner'}},
    ],
    ids=['yolov5', 'yolov3', 'yolov5-simota'],
)
def test_learns_two_images(head: dict) -> None:
    torch.manual_seed(0)
    # group norm: with two images, running statistics would lag behind the batch's
    size = {'deepen_factor': 0.1, 'widen_factor': 0.125, 'norm_cfg': {'type': 'GN', 'num_groups': 4}}
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
    history = []
    for _ in range(NUM_STEPS):
        losses = detector.loss(images, samples)
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        schedule.step()
        history.append(total.item())
    assert history[-1] < 0.15 * history[0], history[::10]

    detector.eval()
    with torch.no_grad():
        results = detector.predict(images, samples)
    for result, objects in zip(results, IMAGES, strict=True):
        found = result.pred_instances
        assert len(found) == len(objects)
        for box, label in objects:
            overlaps = paired_iou(found.bboxes[found.labels == label], torch.tensor(box).float())
            assert overlaps.max() > 0.85, (box, found)
