"""SimOTA (YOLOX, arXiv 2107.08430, section 2.1) on anchors: each box chooses, by what the network says, who learns it.

Letters: G boxes of all pictures, K candidates of a box, A anchors of a level, C classes, N images, M places of a
picture.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from mmyolo_ext.boxes import cxcywh_to_xyxy, paired_iou
from mmyolo_ext.models.task_modules.positives import Positives
from mmyolo_ext.models.task_modules.simota_candidates import Candidates, candidates_around
from mmyolo_ext.registry import TASK_UTILS

LEAST_IOU = 1e-8  # of a logarithm
PROBABILITY_MARGIN = 1e-6


class DecodedPlaces(Protocol):
    """What the network says of every place; the M places of a picture run level, anchor, row, column."""

    boxes_xyxy: Tensor  # (N, M, 4) px
    objectness: Tensor  # (N, M) in [0, 1]
    class_scores: Tensor  # (N, M, C) in [0, 1], not multiplied by objectness


@TASK_UTILS.register_module()
class YOLOv5SimOTAAssigner:
    """A dynamic match: the cheapest places around a box's centre, as many as their overlaps add up to.

    1. Candidates: all anchors of the cells within ``center_radius`` of the centre, on every level.
    2. Cost of a candidate: cross-entropy of its scores, sqrt(objectness * class), with the box's class, plus
       ``iou_weight`` times -log IoU (eq. 1).
    3. A box takes its k cheapest candidates; k is the sum of its ``topk`` greatest IoUs, rounded down, at least 1.
    4. A place that two boxes take goes to the one for which it is cheaper.
    5. A box left with nothing takes the cheapest of its candidates that is free, so that it is left out only if others
       hold them all. YOLOX has no such step.

    Args:
        center_radius: in cells of the level, above 1/2. A place is not to be taught a centre that its box code cannot
            say: YOLOv5's reaches 1 cell from the middle of its own, YOLOv3's half a cell (take 0.51). YOLOX, whose
            code has no such bound, takes 2.5.
        topk: q; how many overlaps are added up.
        iou_weight: lambda.

    Raises:
        ValueError: a number out of its range.
    """

    # what `assign` takes beyond boxes, anchors and grids; a head that sees the names hands these over
    wants = ('labels', 'predictions')

    def __init__(self, center_radius: float = 1.0, topk: int = 10, iou_weight: float = 3.0) -> None:
        if not center_radius > 0.5:
            raise ValueError(f'center_radius must be above 0.5 cells, got {center_radius}')
        if topk < 1:
            raise ValueError(f'topk must be 1 or more, got {topk}')
        if not iou_weight >= 0:
            raise ValueError(f'iou_weight must not be negative, got {iou_weight}')
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
        predictions: DecodedPlaces,
    ) -> list[Positives]:
        """Match the boxes of all pictures of a batch, at once.

        Args:
            boxes_cxcywh: (G, 4) px of the network input, of positive size.
            image: (G,) long, the picture of each box.
            anchors_wh: of each level (A, 2), px; their number is what counts here.
            strides: of each level, px.
            grid_sizes_hw: of each level, cells.
            labels: (G,) long.
            predictions: of the same batch and grids.

        Returns:
            The positives of each level; no place is in them twice.
        """
        num_anchors = [len(level) for level in anchors_wh]
        candidates = candidates_around(boxes_cxcywh[:, :2], self.center_radius, num_anchors, strides, grid_sizes_hw)
        overlap = self._overlap(boxes_cxcywh, image, candidates, predictions)
        cost = self.iou_weight * -(overlap + LEAST_IOU).log() + class_cost(image, labels, candidates, predictions)
        cost = cost.masked_fill(~candidates.inside, float('inf'))
        num_places = predictions.boxes_xyxy.shape[1]
        taken = choose(cost, self._counts(overlap, candidates.inside), image[:, None] * num_places + candidates.place)
        gt, candidate = torch.nonzero(taken, as_tuple=True)
        return [_positives(gt, candidate, image, candidates, level) for level in range(len(strides))]

    def _overlap(
        self, boxes_cxcywh: Tensor, image: Tensor, candidates: Candidates, predictions: DecodedPlaces
    ) -> Tensor:
        """IoU of each box with what its candidates predict: (G, K), 0 where there is no candidate."""
        predicted = predictions.boxes_xyxy[image[:, None], candidates.place]
        overlap = paired_iou(predicted, cxcywh_to_xyxy(boxes_cxcywh)[:, None])
        return overlap * candidates.inside

    def _counts(self, overlap: Tensor, inside: Tensor) -> Tensor:
        """k of each box, from 1 to its number of candidates: (G,)."""
        best = overlap.topk(min(self.topk, overlap.shape[1]), dim=1).values
        return torch.minimum(best.sum(1).long().clamp(min=1), inside.sum(1))


def class_cost(image: Tensor, labels: Tensor, candidates: Candidates, predictions: DecodedPlaces) -> Tensor:
    """Cross-entropy of sqrt(objectness * class), summed over the classes: (G, K).

    Level by level, since (G, K, C) is the largest tensor there is.
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
    """Which candidates each box takes.

    Args:
        cost: (G, K), infinite where there is no candidate.
        count: (G,), how many a box asks for, at most what it has.
        place: (G, K) long, one number for each place of the whole batch.

    Returns:
        (G, K) bool; no place twice. A box has at least one unless others hold all of its candidates.
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
    """Of all that ask for one place, the one of the lowest cost, the first box if they are equal: (G, K) bool."""
    gt, candidate = torch.nonzero(asks, as_tuple=True)
    _, wanted = place[gt, candidate].unique(return_inverse=True)
    price = cost[gt, candidate]
    # sorted by place, then by price; the sort keeps the order of the boxes
    order = price.argsort(stable=True)
    order = order[wanted[order].argsort(stable=True)]
    first = torch.ones_like(order, dtype=torch.bool)
    first[1:] = wanted[order][1:] != wanted[order][:-1]
    winners = order[first]
    taken = torch.zeros_like(asks)
    taken[gt[winners], candidate[winners]] = True
    return taken


def _positives(gt: Tensor, candidate: Tensor, image: Tensor, candidates: Candidates, level: int) -> Positives:
    """Those of one level."""
    here = candidates.level[candidate] == level
    gt, candidate = gt[here], candidate[here]
    return Positives(
        image=image[gt],
        anchor=candidates.anchor[candidate],
        cell_y=candidates.cell_y[gt, candidate],
        cell_x=candidates.cell_x[gt, candidate],
        gt=gt,
    )
