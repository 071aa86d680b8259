"""Repulsion: by hand, against loops over images and boxes, and where nothing can repel."""

import math

import pytest
import torch

from mmyolo_ext.boxes import paired_iou
from mmyolo_ext.models.losses import RepulsionLoss
from mmyolo_ext.models.losses.repulsion_loss import Crowd, smooth_ln

# two objects side by side, 4 x 4, half of each covered by the other
OBJECTS = torch.tensor([[0.0, 0, 4, 4], [2, 0, 6, 4]])
ONE_IMAGE = torch.zeros(2).long()


def crowd_of(image: list[int], gt: list[int], gt_image: list[int], gt_xyxy: torch.Tensor) -> Crowd:
    return Crowd(torch.tensor(image), torch.tensor(gt), torch.tensor(gt_image), gt_xyxy)


def random_crowd(num_boxes: int = 40) -> tuple[torch.Tensor, Crowd]:
    generator = torch.Generator().manual_seed(0)
    gt_image = torch.tensor([0, 0, 0, 2, 2, 3])  # no object in image 1, one in image 3
    corner = torch.rand(6, 2, generator=generator) * 6
    gt_xyxy = torch.cat([corner, corner + 3 + 3 * torch.rand(6, 2, generator=generator)], 1).double()
    gt = torch.randint(0, 6, (num_boxes,), generator=generator)
    boxes = gt_xyxy[gt] + torch.randn(num_boxes, 4, generator=generator)
    return boxes, Crowd(gt_image[gt], gt, gt_image, gt_xyxy)


def by_loops(boxes: torch.Tensor, crowd: Crowd, gt_sigma: float, box_sigma: float) -> tuple[float, float]:
    """RepGT and RepBox, one pair at a time."""

    def curve(x: float, sigma: float) -> float:
        return -math.log(1 - x) if x <= sigma else (x - sigma) / (1 - sigma) - math.log(1 - sigma)

    def overlap_area(a: list[float], b: list[float]) -> float:
        return max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)

    rows, objects = boxes.tolist(), crowd.gt_xyxy.tolist()
    from_objects, from_boxes = 0.0, []
    for i, box in enumerate(rows):
        others = [
            g
            for g in range(len(objects))
            if crowd.gt_image[g] == crowd.image[i] and g != crowd.gt[i] and overlap_area(box, objects[g]) > 0
        ]
        if others:
            nearest = max(others, key=lambda g: paired_iou(boxes[i], crowd.gt_xyxy[g]).item())
            x1, y1, x2, y2 = objects[nearest]
            from_objects += curve(overlap_area(box, objects[nearest]) / ((x2 - x1) * (y2 - y1)), gt_sigma)
        for j in range(i):
            iou = paired_iou(boxes[i], boxes[j]).item()
            if crowd.image[i] == crowd.image[j] and crowd.gt[i] != crowd.gt[j] and iou > 0:
                from_boxes.append(curve(iou, box_sigma))
    return from_objects / len(rows), sum(from_boxes) / max(len(from_boxes), 1)


def test_smooth_ln_by_hand() -> None:
    x = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    # -ln(1 - x) up to 1/2, then slope 2 from ln 2
    expected = [0, -math.log(0.75), math.log(2), math.log(2) + 0.5, math.log(2) + 1]
    assert smooth_ln(x, 0.5).tolist() == pytest.approx(expected)
    assert smooth_ln(x, 0.0).tolist() == pytest.approx(x.tolist())


@pytest.mark.parametrize('sigma', [0.0, 0.5, 0.9])
def test_smooth_ln_gradient(sigma: float) -> None:
    x = torch.tensor([0.1, 0.45, 0.55, 0.85, 0.95, 1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: smooth_ln(x, sigma), x)


def test_by_hand() -> None:
    crowd = crowd_of([0, 0], [0, 1], [0, 0], OBJECTS)
    # each box covers half of the other object: -ln(1/2); the two boxes have IoU 8 / 24, straight for sigma 0
    objects, boxes = math.log(2), 1 / 3
    assert RepulsionLoss()(OBJECTS, OBJECTS, crowd=crowd).item() == pytest.approx(0.5 * objects + 0.5 * boxes)
    loss = RepulsionLoss(gt_weight=2.0, box_weight=0.0, loss_weight=3.0)
    assert loss(OBJECTS, OBJECTS, crowd=crowd).item() == pytest.approx(6 * objects)
    loss = RepulsionLoss(gt_weight=0.0, box_weight=2.0, box_sigma=0.5)
    assert loss(OBJECTS, OBJECTS, crowd=crowd).item() == pytest.approx(2 * -math.log(2 / 3))
    # RepGT over another number of boxes; a weight on the first box, and so on the pair
    loss = RepulsionLoss(gt_weight=1.0, box_weight=1.0)
    weight = torch.tensor([0.5, 1.0])
    expected = 1.5 * objects / 4 + 0.5 * boxes
    assert loss(OBJECTS, OBJECTS, weight, avg_factor=4, crowd=crowd).item() == pytest.approx(expected)
    columns = weight[:, None].expand(2, 4)
    assert loss(OBJECTS, OBJECTS, columns, avg_factor=4, crowd=crowd).item() == pytest.approx(expected)


@pytest.mark.parametrize('sigmas', [(0.9, 0.0), (0.5, 0.5), (0.0, 0.3)])
def test_against_loops(sigmas: tuple[float, float]) -> None:
    boxes, crowd = random_crowd()
    from_objects, from_boxes = by_loops(boxes, crowd, *sigmas)
    assert from_objects > 0.1
    assert from_boxes > 0.1
    kwargs = dict(zip(('gt_sigma', 'box_sigma'), sigmas, strict=True))
    gt_alone, box_alone = (RepulsionLoss(*weights, **kwargs) for weights in ((1.0, 0.0), (0.0, 1.0)))
    assert gt_alone(boxes, boxes, crowd=crowd).item() == pytest.approx(from_objects, rel=1e-6)
    assert box_alone(boxes, boxes, crowd=crowd).item() == pytest.approx(from_boxes, rel=1e-6)


def test_gradient_against_finite_differences() -> None:
    boxes, crowd = random_crowd(12)
    assert torch.autograd.gradcheck(lambda b: RepulsionLoss()(b, b, crowd=crowd), boxes.requires_grad_())


def test_a_step_down_the_gradient_parts_two_boxes() -> None:
    boxes = OBJECTS.clone().requires_grad_()
    RepulsionLoss()(boxes, OBJECTS, crowd=crowd_of([0, 0], [0, 1], [0, 0], OBJECTS)).backward()
    # the left one's right side goes left, the right one's left side goes right
    assert -boxes.grad[0, 2] < 0
    assert -boxes.grad[1, 0] > 0


@pytest.mark.parametrize(
    'crowd',
    [
        crowd_of([0, 1], [0, 1], [0, 1], OBJECTS),  # two images
        crowd_of([0, 0], [0, 0], [0], OBJECTS[:1]),  # one object
        crowd_of([0, 0], [0, 1], [0, 0], OBJECTS + torch.tensor([[0.0], [50.0]])),  # RepGT: far apart
    ],
)
def test_nothing_to_repel(crowd: Crowd) -> None:
    boxes = crowd.gt_xyxy[crowd.gt].clone().requires_grad_()
    loss = RepulsionLoss()(boxes, boxes.detach(), crowd=crowd)
    loss.backward()
    assert loss.item() == 0
    assert (boxes.grad == 0).all()


@pytest.mark.parametrize('objects', [OBJECTS, OBJECTS[:0]])
def test_no_boxes(objects: torch.Tensor) -> None:
    nothing = torch.zeros(0, 4, requires_grad=True)
    loss = RepulsionLoss()(nothing, nothing, avg_factor=1, crowd=crowd_of([], [], [0] * len(objects), objects))
    loss.backward()
    assert loss.item() == 0


def test_degenerate_boxes_are_finite_under_autocast() -> None:
    boxes = torch.tensor([[1.0, 1, 1, 1], [3, 3, 1, 1], [0, 0, 4, 4], [-1e6, -1e6, 1e6, 1e6]], requires_grad=True)
    objects = torch.tensor([[0.0, 0, 4, 4], [1, 1, 1, 1], [2, 2, 2, 9], [0, 0, 4, 4]])
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = RepulsionLoss()(boxes, objects, crowd=crowd_of([0] * 4, [0, 1, 2, 3], [0] * 4, objects))
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert boxes.grad.isfinite().all()


def test_errors() -> None:
    with pytest.raises(ValueError, match='which boxes share an image'):
        RepulsionLoss()(OBJECTS, OBJECTS)
    with pytest.raises(ValueError, match='box_sigma must be from 0 to below 1, got 1'):
        RepulsionLoss(box_sigma=1)
