"""The detector as one graph that includes NMS.

Letters: N images, L candidates, P candidates of the image that has most of them, C classes, K detections per image at
most, S selections.
"""

import torch
from mmcv.ops import nms
from torch import Tensor, nn

from mmyolo_ext.export.graph import RawGraph, best_candidates

NMS_OUTPUTS = ('num_dets', 'boxes', 'scores', 'labels')


class NMSGraph(nn.Module):
    """``images`` -> ``num_dets`` (N, 1), ``boxes`` (N, K, 4), ``scores`` (N, K), ``labels`` (N, K).

    Names and order are those of TensorRT's EfficientNMS, which inference servers know. Detections are sorted by score;
    after the first ``num_dets`` boxes and scores are 0 and labels -1. Counts and labels are int64.

    Args:
        raw: Graph of the boxes and scores before NMS.
        rule: See :meth:`RawGraph.rule`; K is its ``max_per_img``.

    Raises:
        ValueError: If the rule has no upper limit of detections.
    """

    def __init__(self, raw: RawGraph, rule: dict) -> None:
        super().__init__()
        if rule['max_per_img'] < 1:
            raise ValueError(f'NMS inside the graph needs a max_per_img of at least 1, got {rule["max_per_img"]}')
        self.raw = raw
        self.rule = rule

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return counts, boxes, scores and labels; see the class."""
        rule, score_thr, count = self.rule, self.rule['score_thr'], self.rule['max_per_img']
        # NMS costs by the number of candidates: keep those with a class score above the threshold
        image, boxes, scores = self.raw.likely(images, score_thr)
        chosen = torch.nonzero(scores.amax(dim=1) > score_thr).squeeze(1)
        boxes, scores = by_image(image[chosen], boxes[chosen], scores[chosen], images.shape[0])
        if not rule['multi_label']:  # only the best class of each candidate
            best = scores.argmax(dim=-1, keepdim=True) == torch.arange(scores.shape[-1])
            scores = torch.where(best, scores, torch.zeros_like(scores))
        scores = best_candidates(scores, score_thr, rule['nms_pre'])
        # (N, P, C) -> (N, C, P), or (N, 1, P) regardless of the class
        rivals = scores.amax(dim=2)[:, None] if rule['class_agnostic'] else scores.transpose(1, 2)
        chosen = SelectBoxes.apply(boxes, rivals, count, rule['nms_iou'], score_thr)
        chosen = with_best_class(chosen, scores) if rule['class_agnostic'] else chosen
        return arrange(boxes, scores, chosen, count)


def by_image(image: Tensor, boxes: Tensor, scores: Tensor, images: int | Tensor) -> tuple[Tensor, Tensor]:
    """Group candidates by image: boxes (L, 4), scores (L, C) -> (N, P, 4), (N, P, C), padded with zeros.

    Args:
        image: (L,) image index of each candidate, in any order.
        boxes: (L, 4).
        scores: (L, C).
        images: N.
    """
    mine = (image[:, None] == torch.arange(images)).long()  # (L, N)
    most = mine.sum(dim=0).amax().clamp(min=1)  # P
    rank = mine.cumsum(dim=0).gather(1, image[:, None]).squeeze(1) - 1
    slot = image * most + rank
    boxes, scores = (rows.new_zeros(images * most, rows.shape[1]).index_put((slot,), rows) for rows in (boxes, scores))
    boxes, scores = (rows.reshape(images, most, -1) for rows in (boxes, scores))
    return boxes.index_select(2, torch.arange(4)), scores  # OpenVINO's NMS needs a known last side, which Gather has


def with_best_class(chosen: Tensor, scores: Tensor) -> Tensor:
    """Replace the class of selections (S, 3) by the best class of the candidate, by scores (N, P, C)."""
    image, _, candidate = chosen.unbind(dim=1)
    best = scores.argmax(dim=2).reshape(-1)
    return torch.stack([image, best[image * scores.shape[1] + candidate], candidate], dim=1)


def arrange(boxes: Tensor, scores: Tensor, chosen: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sort the selections of each image by score and pad them to ``count``.

    Args:
        boxes: (N, P, 4).
        scores: (N, P, C), none below 0.
        chosen: (S, 3) image, class, candidate.
        count: K.

    Returns:
        See :class:`NMSGraph`.
    """
    images, candidates, classes = scores.shape
    flat = scores.reshape(-1)
    image, label, candidate = chosen.unbind(dim=1)
    index = (image * candidates + candidate) * classes + label
    kept = torch.zeros_like(flat).scatter(0, index, flat[index]).reshape(images, candidates * classes)
    # topk needs K scores even for a small image
    padded = torch.cat([kept, kept.new_zeros(1, 1).expand(images, count)], dim=1)
    best, index = padded.topk(count, dim=1)
    found = best > 0
    candidate = (index // classes).clamp(max=candidates - 1)
    best_boxes = boxes.gather(1, candidate[..., None].expand(-1, -1, 4)) * found[..., None]
    labels = torch.where(found, index % classes, torch.full_like(index, -1))
    return found.long().sum(dim=1, keepdim=True), best_boxes, best, labels


class SelectBoxes(torch.autograd.Function):
    """ONNX's ``NonMaxSuppression``: boxes (N, P, 4), scores (N, C, P) -> (S, 3) image, class, candidate."""

    @staticmethod
    def forward(ctx, boxes: Tensor, scores: Tensor, max_per_class: int, iou_thr: float, score_thr: float) -> Tensor:
        """Do in PyTorch, by mmcv, what the operator does."""
        chosen = [scores.new_zeros(0, 3, dtype=torch.long)]
        for image, label in torch.nonzero((scores > score_thr).any(dim=2)).tolist():
            candidates = torch.nonzero(scores[image, label] > score_thr).squeeze(1)
            _, keep = nms(boxes[image, candidates], scores[image, label, candidates], iou_thr)
            kept = candidates[keep[:max_per_class]]
            where = kept.new_tensor([image, label]).expand(len(kept), 2)
            chosen.append(torch.cat([where, kept[:, None]], dim=1))
        return torch.cat(chosen)

    @staticmethod
    def symbolic(g, boxes, scores, max_per_class: int, iou_thr: float, score_thr: float):
        """Add the operator to an exported graph."""
        limits = (torch.tensor([max_per_class]), torch.tensor([iou_thr]), torch.tensor([score_thr]))
        return g.op('NonMaxSuppression', boxes, scores, *(g.op('Constant', value_t=limit) for limit in limits))
