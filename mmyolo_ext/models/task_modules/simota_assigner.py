"""SimOTA (YOLOX, arXiv 2107.08430, section 2.1) on anchors: predictions decide which anchors a box is assigned to.

Letters: G boxes of the batch, K candidates of a box, A anchors of a level, C classes, N images, M predictions of an
image in the order level, anchor, row, column.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mmyolo_ext.boxes import cxcywh_to_xyxy, paired_iou
from mmyolo_ext.models.task_modules.yolov5_assigner import Positives
from mmyolo_ext.registry import TASK_UTILS

LEAST_IOU = 1e-8  # of a logarithm
PROBABILITY_MARGIN = 1e-6


class Predictions(NamedTuple):
    """All decoded predictions of a batch, before any threshold."""

    boxes_xyxy: Tensor  # (N, M, 4) px of the network input
    objectness: Tensor  # (N, M) in [0, 1]
    class_scores: Tensor  # (N, M, C) in [0, 1], not multiplied by objectness


class Candidates(NamedTuple):
    """The K candidates of each box, the same number for all. Long tensors.

    Attributes:
        level: (K,).
        anchor: (K,).
        cell_y: (G, K).
        cell_x: (G, K).
        place: (G, K), from 0 to M - 1.
        inside: (G, K) bool: within the radius of the centre, and in the grid; the others are padding.
    """

    level: Tensor
    anchor: Tensor
    cell_y: Tensor
    cell_x: Tensor
    place: Tensor
    inside: Tensor


@TASK_UTILS.register_module()
class YOLOv5SimOTAAssigner:
    """Dynamic assignment of each box to the cheapest predictions around its centre.

    1. Candidates: all anchors of the cells within ``center_radius`` of the centre, on every level.
    2. Cost of a candidate: cross-entropy of its scores, sqrt(objectness * class), with the class of the box, plus
       ``iou_weight`` times -log IoU (eq. 1).
    3. A box takes its k cheapest candidates; k is the sum of its ``topk`` highest IoUs, rounded down, at least 1.
    4. A prediction that two boxes take goes to the one for which it is cheaper.
    5. A box left without any takes the cheapest of its candidates that is free. YOLOX has no such step.

    Args:
        center_radius: In cells of the level, above 1/2. The centre must be within reach of the box coder: YOLOv5's
            reaches 1 cell from the middle of its own, YOLOv3's half a cell (use 0.51). YOLOX, whose coder is
            unbounded, uses 2.5.
        topk: Number of IoUs that are added up.
        iou_weight: lambda.

    Raises:
        ValueError: If a number is out of range.
    """

    # arguments of `assign` beyond boxes, anchors and grids, passed by the head
    wants = ('labels', 'predictions')

    def __init__(self, center_radius: float = 1.0, topk: int = 10, iou_weight: float = 3.0) -> None:
        if not center_radius > 0.5:
            raise ValueError(f'center_radius must be above 0.5 cells, got {center_radius}')
        self.center_radius = center_radius
        self.topk = topk
        self.iou_weight = iou_weight

    @torch.no_grad()
    def assign(
        self,
        boxes_cxcywh: Tensor,
        image: Tensor,
        anchors_wh: Sequence[Tensor],
        strides: Sequence[int],
        grid_sizes_hw: Sequence[tuple[int, int]],
        labels: Tensor,
        predictions: Predictions,
    ) -> list[Positives]:
        """Match the boxes of all images of a batch.

        Args:
            boxes_cxcywh: (G, 4) px of the network input, of positive size.
            image: (G,) long, the image of each box.
            anchors_wh: Of each level (A, 2), px; only their number matters.
            strides: Of each level, px.
            grid_sizes_hw: Of each level, cells.
            labels: (G,) long.
            predictions: Of the same batch and grids.

        Returns:
            The positives of each level; no prediction twice.
        """
        num_anchors = [len(level) for level in anchors_wh]
        candidates = candidates_around(boxes_cxcywh[:, :2], self.center_radius, num_anchors, strides, grid_sizes_hw)
        predicted = predictions.boxes_xyxy[image[:, None], candidates.place]
        overlap = paired_iou(predicted, cxcywh_to_xyxy(boxes_cxcywh)[:, None]) * candidates.inside  # (G, K)
        cost = self.iou_weight * -(overlap + LEAST_IOU).log() + class_cost(image, labels, candidates, predictions)
        cost = cost.masked_fill(~candidates.inside, float('inf'))
        # k of each box, from 1 to its number of candidates
        best = overlap.topk(min(self.topk, overlap.shape[1]), dim=1).values
        count = torch.minimum(best.sum(1).long().clamp(min=1), candidates.inside.sum(1))
        place = image[:, None] * predictions.boxes_xyxy.shape[1] + candidates.place
        gt, candidate = torch.nonzero(choose(cost, count, place), as_tuple=True)
        levels = []
        for level in range(len(strides)):
            here = candidates.level[candidate] == level
            box, column = gt[here], candidate[here]
            cells = candidates.cell_y[box, column], candidates.cell_x[box, column]
            levels.append(Positives(image[box], candidates.anchor[column], *cells, box))
        return levels


def candidates_around(
    centers: Tensor,
    radius: float,
    num_anchors: Sequence[int],
    strides: Sequence[int],
    grid_sizes_hw: Sequence[tuple[int, int]],
) -> Candidates:
    """Return the cells whose middle is closer to the centre than ``radius`` cells of their level, along both axes.

    Args:
        centers: (G, 2) px; moved to the border if outside the image.
        radius: In cells, above 1/2, so that the cell of the centre is always included.
        num_anchors: A of each level.
        strides: Of each level, px.
        grid_sizes_hw: Of each level, cells.
    """
    first_place, parts = 0, []
    for level, (count, stride, (height, width)) in enumerate(zip(num_anchors, strides, grid_sizes_hw, strict=True)):
        cell_x, in_x = _cells_along(centers[:, 0] / stride, radius, width)
        cell_y, in_y = _cells_along(centers[:, 1] / stride, radius, height)
        anchor = torch.arange(count, device=centers.device)
        # (G, A, rows, columns) -> (G, A * rows * columns)
        shape = (len(centers), count, cell_y.shape[1], cell_x.shape[1])
        y = cell_y[:, None, :, None].expand(shape).flatten(1)
        x = cell_x[:, None, None, :].expand(shape).flatten(1)
        inside = (in_y[:, None, :, None] & in_x[:, None, None, :]).expand(shape).flatten(1)
        anchors = anchor[:, None, None].expand(shape[1:]).flatten()
        place = first_place + (anchors * height + y) * width + x
        parts.append(Candidates(torch.full_like(anchors, level), anchors, y, x, place, inside))
        first_place += count * height * width
    return Candidates(*(torch.cat(field, dim=-1) for field in zip(*parts, strict=True)))


def _cells_along(centers: Tensor, radius: float, size: int) -> tuple[Tensor, Tensor]:
    """Return for each centre (G,) cells (G, ceil(2 radius)) of an axis of ``size`` cells, and which are near."""
    centers = centers.clamp(min=0, max=size)
    # the middle of cell i is i + 1/2: the first one above centre - radius
    first = (centers - radius - 0.5).floor() + 1
    cells = first[:, None] + torch.arange(math.ceil(2 * radius), device=centers.device)
    near = (cells + 0.5 - centers[:, None]).abs() < radius
    inside = near & (cells >= 0) & (cells < size)
    return cells.clamp(0, size - 1).long(), inside


def class_cost(image: Tensor, labels: Tensor, candidates: Candidates, predictions: Predictions) -> Tensor:
    """Return the cross-entropy of sqrt(objectness * class), summed over the classes: (G, K).

    Level by level, since (G, K, C) is the largest tensor.
    """
    costs = []
    for level in range(int(candidates.level[-1]) + 1):
        at = (image[:, None], candidates.place[:, candidates.level == level])
        joint = predictions.class_scores[at] * predictions.objectness[at][..., None]
        score = joint.sqrt().clamp(PROBABILITY_MARGIN, 1 - PROBABILITY_MARGIN)  # (G, K of the level, C)
        own = score.gather(2, labels[:, None, None].expand(-1, score.shape[1], 1)).squeeze(2)
        absent = -(-score).log1p().sum(2)
        costs.append(absent + (-own).log1p() - own.log())
    return torch.cat(costs, dim=1)


def choose(cost: Tensor, count: Tensor, place: Tensor) -> Tensor:
    """Return which candidates each box takes.

    Args:
        cost: (G, K), infinite for padding.
        count: (G,), how many a box takes, at most its number of candidates.
        place: (G, K) long, one number for each prediction of the batch.

    Returns:
        (G, K) bool; no prediction twice. A box has at least one unless others hold all of its candidates.
    """
    rank = cost.argsort(dim=1, stable=True).argsort(dim=1)
    taken = cheapest_box_wins(rank < count[:, None], cost, place)
    while True:
        held = torch.isin(place, place[taken])
        free_cost = cost.masked_fill(held | taken.any(1, keepdim=True), float('inf'))
        best_cost, best = free_cost.min(dim=1)
        asks = torch.zeros_like(taken).scatter(1, best[:, None], best_cost.isfinite()[:, None])
        if not asks.any():
            return taken
        taken |= cheapest_box_wins(asks, cost, place)


def cheapest_box_wins(asks: Tensor, cost: Tensor, place: Tensor) -> Tensor:
    """Return for each prediction that boxes ask for the box of the lowest cost, the first of equals: (G, K) bool."""
    gt, candidate = torch.nonzero(asks, as_tuple=True)
    _, wanted = place[gt, candidate].unique(return_inverse=True)
    # sorted by place, then by cost; the stable sort keeps the order of the boxes
    order = cost[gt, candidate].argsort(stable=True)
    order = order[wanted[order].argsort(stable=True)]
    first = torch.ones_like(order, dtype=torch.bool)
    first[1:] = wanted[order][1:] != wanted[order][:-1]
    winners = order[first]
    taken = torch.zeros_like(asks)
    taken[gt[winners], candidate[winners]] = True
    return taken
