"""SimOTA against the rules written as loops, on a batch worked out by hand, and where boxes crowd."""

import math

import pytest
import torch
from mmengine.structures import InstanceData
from torch import Tensor

from mmyolo_ext.boxes import cxcywh_to_xyxy, paired_iou
from mmyolo_ext.models.heads import YOLOv3Head, YOLOv5Head
from mmyolo_ext.models.task_modules import Positives, Predictions, YOLOv5SimOTAAssigner
from mmyolo_ext.models.task_modules.simota_assigner import choose

STRIDES = (8, 16)
ANCHORS_PX = torch.tensor([[[10.0, 13], [16, 30]], [[30, 61], [62, 45]]])
GRIDS_HW = [(6, 10), (3, 5)]  # an image of 48 x 80 px
NUM_PLACES = 2 * (6 * 10 + 3 * 5)
NUM_CLASSES = 3


def places() -> list[tuple[int, int, int, int]]:
    """Level, anchor, row and column of every place, in order."""
    return [
        (level, anchor, row, column)
        for level, (rows, columns) in enumerate(GRIDS_HW)
        for anchor in range(2)
        for row in range(rows)
        for column in range(columns)
    ]


def predictions(num_images: int, seed: int) -> Predictions:
    """Boxes around their cells, of about their anchor's size."""
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.tensor(
        [
            [(column + 0.5) * STRIDES[level], (row + 0.5) * STRIDES[level], *ANCHORS_PX[level, anchor]]
            for level, anchor, row, column in places()
        ]
    ).expand(num_images, -1, -1)
    growth = torch.exp(torch.randn(num_images, NUM_PLACES, 2, generator=generator) * 0.4)
    shift = torch.randn(num_images, NUM_PLACES, 2, generator=generator) * 3
    boxes = torch.cat([boxes[..., :2] + shift, boxes[..., 2:] * growth], dim=2)
    return Predictions(
        cxcywh_to_xyxy(boxes),
        torch.rand(num_images, NUM_PLACES, generator=generator),
        torch.rand(num_images, NUM_PLACES, NUM_CLASSES, generator=generator),
    )


def truth(count: int, num_images: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.rand(count, 2, generator=generator) * torch.tensor([80.0, 48])
    centers[::4] = (centers[::4] / 4).round() * 4  # on the borders and middles of cells
    boxes = torch.cat([centers, torch.rand(count, 2, generator=generator) * 50 + 4], dim=1)
    image = torch.randint(0, num_images, (count,), generator=generator)
    return boxes, image, torch.randint(0, NUM_CLASSES, (count,), generator=generator)


def assign(boxes: Tensor, image: Tensor, labels: Tensor, decoded: Predictions, **kwargs) -> list[Positives]:
    assigner = YOLOv5SimOTAAssigner(**{'center_radius': 2.5, **kwargs})
    return assigner.assign(boxes, image, ANCHORS_PX, STRIDES, GRIDS_HW, labels=labels, predictions=decoded)


def as_rows(levels: list[Positives]) -> set[tuple]:
    """(level, image, anchor, row, column, box) of all positives."""
    fields = [(level, p.image, p.anchor, p.cell_y, p.cell_x, p.gt) for level, p in enumerate(levels)]
    rows = [(level, *row) for level, *parts in fields for row in zip(*(f.tolist() for f in parts), strict=True)]
    assert len(set(rows)) == len(rows)
    return set(rows)


def assign_by_loops(
    boxes: Tensor, image: Tensor, labels: Tensor, decoded: Predictions, radius: float = 2.5, topk: int = 10
) -> set[tuple]:
    """The five steps of the class, one box and place at a time."""
    costs: list[dict[int, float]] = []
    holders: dict[tuple[int, int], int] = {}  # (image, place): box
    wishes: list[list[int]] = []
    for g, (box, n, label) in enumerate(zip(boxes, image.tolist(), labels.tolist(), strict=True)):
        cost, overlaps = {}, []
        for m, (level, _, row, column) in enumerate(places()):
            x, y = (box[:2] / STRIDES[level]).tolist()
            rows, columns = GRIDS_HW[level]
            x, y = min(max(x, 0), columns), min(max(y, 0), rows)
            if abs(column + 0.5 - x) >= radius or abs(row + 0.5 - y) >= radius:
                continue
            iou = paired_iou(decoded.boxes_xyxy[n, m], cxcywh_to_xyxy(box)).item()
            overlaps.append(iou)
            cost[m] = -3 * math.log(iou + 1e-8)
            for c in range(NUM_CLASSES):
                p = math.sqrt(decoded.class_scores[n, m, c].item() * decoded.objectness[n, m].item())
                p = min(max(p, 1e-6), 1 - 1e-6)
                cost[m] -= math.log(p if c == label else 1 - p)
        k = max(int(sum(sorted(overlaps, reverse=True)[:topk])), 1)
        costs.append(cost)
        wishes.append(sorted(cost, key=cost.get)[:k])
        for m in wishes[g]:
            rival = holders.get((n, m))
            if rival is None or cost[m] < costs[rival][m]:
                holders[n, m] = g
    while True:
        asking: dict[tuple[int, int], int] = {}
        for g, n in enumerate(image.tolist()):
            free = [m for m in costs[g] if (n, m) not in holders]
            if g in holders.values() or not free:
                continue
            m = min(free, key=costs[g].get)
            rival = asking.get((n, m))
            if rival is None or costs[g][m] < costs[rival][m]:
                asking[n, m] = g
        if not asking:
            break
        holders.update(asking)
    return {(places()[m][0], n, *places()[m][1:], g) for (n, m), g in holders.items()}


@pytest.mark.parametrize(('count', 'seed'), [(3, 0), (12, 1), (50, 2)])
def test_equals_the_loops(count: int, seed: int) -> None:
    boxes, image, labels = truth(count, num_images=3, seed=seed)
    decoded = predictions(3, seed + 10)
    expected = assign_by_loops(boxes, image, labels, decoded)
    assert as_rows(assign(boxes, image, labels, decoded)) == expected
    assert len({row[-1] for row in expected}) == count


@pytest.mark.parametrize('radius', [0.6, 1.0, 2.2, 3.5])
def test_equals_the_loops_at_any_radius(radius: float) -> None:
    boxes, image, labels = truth(20, num_images=2, seed=5)
    boxes[:2, :2] = torch.tensor([[0.0, 0.0], [80.0, 48.0]])  # corners of the image
    decoded = predictions(2, 6)
    found = as_rows(assign(boxes, image, labels, decoded, center_radius=radius, topk=5))
    assert found == assign_by_loops(boxes, image, labels, decoded, radius, topk=5)


def exact(place_ious: dict[int, tuple[float, float]]) -> tuple[Tensor, Predictions]:
    """A box of 16 x 16 px around (28, 20), and places that predict it cut to a share of its width, at scores p."""
    box = torch.tensor([[28.0, 20, 16, 16]])
    decoded = Predictions(
        torch.zeros(1, NUM_PLACES, 4), torch.ones(1, NUM_PLACES), torch.full((1, NUM_PLACES, 1), 0.01)
    )
    for place, (iou, score) in place_ious.items():
        decoded.boxes_xyxy[0, place] = torch.tensor([20, 12, 20 + 16 * iou, 28])
        decoded.class_scores[0, place, 0] = score**2  # objectness is 1, and the score a square root
    return box, decoded


def test_dynamic_k_by_hand() -> None:
    # Cells of 8 px: the centre is (3.5, 2.5), so rows 0 to 4 and columns 1 to 5 are near. Places of anchor 0 there:
    # row * 10 + column. IoUs 0.9, 0.8, 0.7, all other candidates 0: k = floor(2.4) = 2.
    # Costs: -3 ln 0.9 - ln 0.5 = 0.316 + 0.693 = 1.009; -3 ln 0.8 - ln 0.9 = 0.669 + 0.105 = 0.775;
    # -3 ln 0.7 - ln 0.99 = 1.070 + 0.010 = 1.080: the second and the first are the cheapest.
    box, decoded = exact({23: (0.9, 0.5), 22: (0.8, 0.9), 13: (0.7, 0.99)})
    nothing = torch.zeros(1).long()
    assert as_rows(assign(box, nothing, nothing, decoded)) == {(0, 0, 0, 2, 3, 0), (0, 0, 0, 2, 2, 0)}
    # without the overlap only the scores count
    found = as_rows(assign(box, nothing, nothing, decoded, iou_weight=0.0))
    assert found == {(0, 0, 0, 1, 3, 0), (0, 0, 0, 2, 2, 0)}
    # the greatest overlap alone: k = floor(0.9) -> 1
    assert as_rows(assign(box, nothing, nothing, decoded, topk=1)) == {(0, 0, 0, 2, 2, 0)}


def test_far_cells_are_no_candidates() -> None:
    # column 6: its middle, 6.5, is 3 cells from 3.5; perfect, but too far
    box, decoded = exact({26: (1.0, 0.99), 24: (0.3, 0.5)})
    assert as_rows(assign(box, torch.zeros(1).long(), torch.zeros(1).long(), decoded)) == {(0, 0, 0, 2, 4, 0)}


def test_a_place_goes_to_the_cheaper_box_and_the_other_gets_its_next_best() -> None:
    inf = float('inf')
    # boxes 0 and 1 ask for place 7; box 0 pays 1, box 1 pays 2; box 1's next free one is place 5
    cost = torch.tensor([[1.0, 5, inf], [2, 9, 3]])
    place = torch.tensor([[7, 8, 0], [7, 6, 5]])
    assert choose(cost, torch.tensor([1, 1]), place).tolist() == [[True, False, False], [False, False, True]]
    # equal costs: the first box
    cost[1, 0] = 1
    assert choose(cost, torch.tensor([1, 1]), place)[0].tolist() == [True, False, False]
    # box 1 asks for two, loses one, keeps the other, and gets no third
    assert choose(cost, torch.tensor([1, 2]), place).tolist() == [[True, False, False], [False, False, True]]


def test_the_same_place_of_another_image_is_another_place() -> None:
    boxes, _, labels = truth(1, 1, seed=0)
    decoded = predictions(1, 1)
    twice = Predictions(*(field.repeat(2, *[1] * (field.dim() - 1)) for field in decoded))
    alone = as_rows(assign(boxes, torch.zeros(1).long(), labels, decoded))
    both = as_rows(assign(boxes.repeat(2, 1), torch.tensor([0, 1]), labels.repeat(2), twice))
    assert both == alone | {(level, 1, *rest, 1) for level, _, *rest, _ in alone}


def test_batch_equals_its_images() -> None:
    boxes, image, labels = truth(30, num_images=3, seed=8)
    decoded = predictions(3, 9)
    together = as_rows(assign(boxes, image, labels, decoded))
    for n in range(3):
        own = torch.nonzero(image == n).squeeze(1)
        one = Predictions(*(field[n : n + 1] for field in decoded))
        alone = as_rows(assign(boxes[own], torch.zeros(len(own)).long(), labels[own], one))
        assert {(level, n, *rest, int(own[g])) for level, _, *rest, g in alone} == {r for r in together if r[1] == n}


def test_more_boxes_than_places() -> None:
    boxes = torch.tensor([[28.0, 20, 16, 16]]).repeat(300, 1)
    nothing = torch.zeros(300).long()
    found = as_rows(assign(boxes, nothing, nothing, predictions(1, 0), topk=1))  # k = 1 for all
    # near (28, 20): 5 x 5 cells of the first level; (1.75, 1.25) in cells of 16 px, so columns 0 to 3 and rows 0 to 2
    # of the second; two anchors each: all are held, by one box each
    assert len(found) == 2 * (5 * 5 + 4 * 3)
    assert len({row[-1] for row in found}) == len(found)


def test_no_boxes() -> None:
    nothing = torch.zeros(0).long()
    for level in assign(torch.zeros(0, 4), nothing, nothing, predictions(2, 0)):
        assert len(level) == 0
        assert all(field.dtype == torch.long and field.shape == (0,) for field in (*level[:4], level.gt))


def test_default_radius_is_the_reach_of_the_box_code() -> None:
    """The centre of a box can be said by all cells that are asked to: YOLOv5's code spans [-0.5, 1.5] of a cell."""
    boxes, image, labels = truth(60, num_images=1, seed=3)
    levels = YOLOv5SimOTAAssigner().assign(
        boxes, image, ANCHORS_PX, STRIDES, GRIDS_HW, labels=labels, predictions=predictions(1, 4)
    )
    for positives, stride in zip(levels, STRIDES, strict=True):
        assert len(positives) > 10
        cells = torch.stack([positives.cell_x, positives.cell_y], dim=1)
        offset = boxes[positives.gt, :2] / stride - cells
        assert offset.min() > -0.5 and offset.max() < 1.5


@pytest.mark.parametrize('bad', [{'center_radius': 0.5}])
def test_numbers_out_of_range(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        YOLOv5SimOTAAssigner(**bad)


@pytest.mark.parametrize('loss_cls', ['mmyolo_ext.BCELoss', 'mmdet.CrossEntropyLoss'])
@pytest.mark.parametrize('kind', [YOLOv5Head, YOLOv3Head])
def test_in_the_heads(kind: type, loss_cls: str) -> None:
    torch.manual_seed(0)
    head = kind(
        NUM_CLASSES,
        [8, 8, 8],
        assigner={'type': 'mmyolo_ext.YOLOv5SimOTAAssigner'},
        loss_cls={'type': loss_cls},
    )
    feats = [torch.randn(2, 8, 64 // stride, 96 // stride) for stride in head.strides]
    truth = [
        InstanceData(bboxes=torch.tensor([[8.0, 12, 40, 52], [50, 20, 86, 40]]), labels=torch.tensor([0, 2])),
        InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long()),
    ]
    metas = [{'batch_input_shape': (64, 96)}] * 2
    for boxes in (truth, truth[1:] * 2):
        head.zero_grad()
        losses = head.loss_by_feat(*head(feats), boxes, metas)
        total = sum(losses[f'loss_{term}'] for term in ('cls', 'bbox', 'obj'))
        total.backward()
        assert all(parameter.grad.isfinite().all() for parameter in head.parameters())
        assert (losses['loss_bbox'].item() > 0) == (len(boxes[0]) > 0)
