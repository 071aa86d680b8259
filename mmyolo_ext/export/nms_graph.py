"""The graph with suppression of duplicates inside.

Letters: N images, L places that may hold an object, P of them on the image that has most, C classes, K detections an
image at most, S selections.
"""

from typing import NamedTuple

import torch
from mmcv.ops import nms
from torch import Tensor, nn

from mmyolo_ext.export.graph import RawGraph

NMS_OUTPUTS = ('num_dets', 'boxes', 'scores', 'labels')


class NMSRule(NamedTuple):
    """How detections are made of scores: the head's ``test_cfg``, with ``multi_label`` as the head carries it out."""

    score_thr: float
    iou_thr: float
    max_per_img: int
    nms_pre: int
    multi_label: bool
    class_agnostic: bool = False


def rule_of(head: nn.Module) -> NMSRule:
    """The rule of a head's ``test_cfg``.

    Raises:
        ValueError: a suppression other than the plain one, which no runtime of ours carries out.
    """
    cfg, kind = head.test_cfg, dict(head.test_cfg['nms'])
    if kind.get('type', 'nms') != 'nms':
        raise ValueError(
            "an exported detector drops what overlaps: test_cfg.nms must be dict(type='nms', iou_threshold=X), with "
            f'class_agnostic=True if you like, got {kind}; set it by --cfg-options'
        )
    return NMSRule(
        cfg['score_thr'],
        kind['iou_threshold'],
        cfg['max_per_img'],
        cfg['nms_pre'],
        head.takes_several_labels(cfg),
        bool(kind.get('class_agnostic', False)),
    )


class NMSGraph(nn.Module):
    """``images`` -> ``num_dets`` (N, 1), ``boxes`` (N, K, 4), ``scores`` (N, K), ``labels`` (N, K).

    The names and the order are those of TensorRT's EfficientNMS, which servers of detectors know. Best score first;
    beyond ``num_dets`` boxes and scores are 0 and labels -1. Counts and labels are int64.

    Args:
        raw: what it gets its scores from.
        rule: K is its ``max_per_img``.

    Raises:
        ValueError: a rule without an upper limit of detections.
    """

    def __init__(self, raw: RawGraph, rule: NMSRule) -> None:
        super().__init__()
        if rule.max_per_img < 1:
            raise ValueError(f'suppression inside the graph needs max_per_img of 1 or more, got {rule.max_per_img}')
        self.raw = raw
        self.rule = rule

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See the class."""
        rule = self.rule
        # what follows costs by the number of places, and few are left
        places = with_score_above(rule.score_thr, *self.raw.likely(images, rule.score_thr))
        boxes, scores = by_image(*places, images.shape[0])
        scores = scores if rule.multi_label else best_class_only(scores)
        scores = best_candidates(scores, rule.score_thr, rule.nms_pre)
        # (N, P, C) -> (N, C, P), or (N, 1, P): what a box is does not matter
        rivals = scores.amax(dim=2)[:, None] if rule.class_agnostic else scores.transpose(1, 2)
        chosen = SelectBoxes.apply(boxes, rivals, rule.max_per_img, rule.iou_thr, rule.score_thr)
        chosen = with_best_class(chosen, scores) if rule.class_agnostic else chosen
        return arrange(boxes, scores, chosen, rule.max_per_img)


def with_score_above(score_thr: float, image: Tensor, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of L places, those of which a class has a score above the threshold."""
    chosen = torch.nonzero(scores.amax(dim=1) > score_thr).squeeze(1)
    return image[chosen], boxes[chosen], scores[chosen]


def by_image(image: Tensor, boxes: Tensor, scores: Tensor, images: int | Tensor) -> tuple[Tensor, Tensor]:
    """Places of a batch, in any mixture -> boxes (N, P, 4) and scores (N, P, C), zeros behind those of each image.

    Args:
        image: (L,) which one a place is on.
        boxes: (L, 4).
        scores: (L, C).
        images: N.
    """
    mine = (image[:, None] == torch.arange(images)).long()  # (L, N)
    most = mine.sum(dim=0).amax().clamp(min=1)  # P
    rank = mine.cumsum(dim=0).gather(1, image[:, None]).squeeze(1) - 1
    slot = image * most + rank
    return tuple(
        rows.new_zeros(images * most, rows.shape[1]).index_put((slot,), rows).reshape(images, most, -1)
        for rows in (boxes, scores)
    )


def best_class_only(scores: Tensor) -> Tensor:
    """Scores (N, P, C) with all but the highest of each place at 0."""
    classes = torch.arange(scores.shape[-1])
    return torch.where(scores.argmax(dim=-1, keepdim=True) == classes, scores, torch.zeros_like(scores))


def with_best_class(chosen: Tensor, scores: Tensor) -> Tensor:
    """Selections (S, 3) image, class, place with the best class of each place by scores (N, P, C)."""
    image, _, place = chosen.unbind(dim=1)
    best = scores.argmax(dim=2).reshape(-1)
    return torch.stack([image, best[image * scores.shape[1] + place], place], dim=1)


def best_candidates(scores: Tensor, score_thr: float, nms_pre: int) -> Tensor:
    """Scores (N, P, C) with all but an image's ``nms_pre`` highest at 0; all of them if it is not positive."""
    if nms_pre < 1:
        return scores
    too_many = (scores > score_thr).flatten(1).long().sum(dim=1) > nms_pre  # (N,)
    # sorted only where there are too many
    count = torch.where(too_many.any(), nms_pre, 1)
    least = scores.flatten(1).topk(count, dim=1).values[:, -1]
    kept = (scores >= least[:, None, None]) | ~too_many[:, None, None]
    return torch.where(kept, scores, torch.zeros_like(scores))


def arrange(boxes: Tensor, scores: Tensor, chosen: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Selections in the order of the score, ``count`` a picture.

    Args:
        boxes: (N, P, 4).
        scores: (N, P, C), none below 0.
        chosen: (S, 3) image, class, place.
        count: K.

    Returns:
        See :class:`NMSGraph`.
    """
    images, places, classes = scores.shape
    flat = scores.reshape(-1)
    image, label, place = chosen.unbind(dim=1)
    index = (image * places + place) * classes + label
    kept = torch.zeros_like(flat).scatter(0, index, flat[index]).reshape(images, places * classes)
    # so that a small picture has K scores to choose from too
    padded = torch.cat([kept, kept.new_zeros(1, 1).expand(images, count)], dim=1)
    best, index = padded.topk(count, dim=1)
    found = best > 0
    place = (index // classes).clamp(max=places - 1)
    best_boxes = boxes.gather(1, place[..., None].expand(-1, -1, 4)) * found[..., None]
    labels = torch.where(found, index % classes, torch.full_like(index, -1))
    return found.long().sum(dim=1, keepdim=True), best_boxes, best, labels


class SelectBoxes(torch.autograd.Function):
    """The operator ``NonMaxSuppression`` of ONNX: boxes (N, P, 4), scores (N, C, P) -> (S, 3) image, class, place."""

    @staticmethod
    def forward(ctx, boxes: Tensor, scores: Tensor, max_per_class: int, iou_thr: float, score_thr: float) -> Tensor:
        """What the operator does, by mmcv, for a graph that is run in PyTorch."""
        chosen = [scores.new_zeros(0, 3, dtype=torch.long)]
        for image, label in torch.nonzero((scores > score_thr).any(dim=2)).tolist():
            places = torch.nonzero(scores[image, label] > score_thr).squeeze(1)
            _, keep = nms(boxes[image, places], scores[image, label, places], iou_thr)
            kept = places[keep[:max_per_class]]
            where = kept.new_tensor([image, label]).expand(len(kept), 2)
            chosen.append(torch.cat([where, kept[:, None]], dim=1))
        return torch.cat(chosen)

    @staticmethod
    def symbolic(g, boxes, scores, max_per_class: int, iou_thr: float, score_thr: float):
        """The operator itself, in an exported graph."""
        limits = (torch.tensor([max_per_class]), torch.tensor([iou_thr]), torch.tensor([score_thr]))
        return g.op('NonMaxSuppression', boxes, scores, *(g.op('Constant', value_t=limit) for limit in limits))
