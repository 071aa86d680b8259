"""From all that the network says to detections in original pixels.

Letters: N images, M places of the network that predict a box, C classes, K detections.
"""

from typing import NamedTuple

import torch
from mmcv.ops import batched_nms
from mmengine.structures import InstanceData
from torch import Tensor


class Predictions(NamedTuple):
    """What the network says of every place, before any threshold. The M places run level, prior, row, column."""

    boxes_xyxy: Tensor  # (N, M, 4) px of the network input
    objectness: Tensor  # (N, M) in [0, 1]
    class_scores: Tensor  # (N, M, C) in [0, 1], not multiplied by objectness


def detect(
    predictions: Predictions, index: int, img_meta: dict, cfg: dict, multi_label: bool, rescale: bool, with_nms: bool
) -> InstanceData:
    """Detections of one picture: ``bboxes`` (K, 4) xyxy px, ``scores`` (K,), ``labels`` (K,) long.

    Args:
        predictions: of a batch.
        index: which picture of the batch.
        img_meta: its data, see :func:`to_original_pixels`.
        cfg: ``score_thr``, ``nms_pre``, ``nms``, ``max_per_img``.
        multi_label: whether a box may have several classes.
        rescale: give pixels of the original picture, else of the network input.
        with_nms: suppress duplicates.
    """
    # no score exceeds its objectness, so this drops nothing and spares most of the work
    likely = predictions.objectness[index] > cfg['score_thr']
    scores = predictions.objectness[index, likely, None] * predictions.class_scores[index, likely]
    boxes_xyxy = predictions.boxes_xyxy[index, likely]
    found = pick_candidates(boxes_xyxy, scores, cfg['score_thr'], multi_label, cfg['nms_pre'])
    if with_nms:
        found = suppress_duplicates(found, cfg['nms'], cfg['max_per_img'])
    if rescale:
        found.bboxes = clip_boxes(to_original_pixels(found.bboxes, img_meta), img_meta['ori_shape'])
    else:
        found.bboxes = clip_boxes(found.bboxes, img_meta['img_shape'])
    return found


def pick_candidates(
    boxes_xyxy: Tensor, scores: Tensor, score_thr: float, multi_label: bool, nms_pre: int
) -> InstanceData:
    """The scores above the threshold, as detections.

    Args:
        boxes_xyxy: (M, 4).
        scores: (M, C).
        score_thr: a score must be greater.
        multi_label: a box gives a detection for every class above the threshold, else for its best class alone.
        nms_pre: keep only so many of the best; all if not positive.

    Returns:
        ``bboxes`` (K, 4), ``scores`` (K,), ``labels`` (K,) long.
    """
    if multi_label:
        box, label = torch.nonzero(scores > score_thr, as_tuple=True)
        score = scores[box, label]
    else:
        best_score, best_label = scores.max(dim=1)
        box = torch.nonzero(best_score > score_thr).squeeze(1)
        score, label = best_score[box], best_label[box]
    candidates = InstanceData(bboxes=boxes_xyxy[box], scores=score, labels=label)
    if 0 < nms_pre < len(score):
        candidates = candidates[score.argsort(descending=True, stable=True)[:nms_pre]]
    return candidates


def suppress_duplicates(candidates: InstanceData, nms_cfg: dict, max_per_img: int) -> InstanceData:
    """Class-wise non-maximum suppression by mmcv, best score first, at most ``max_per_img`` (all if not positive)."""
    if len(candidates) == 0:
        return candidates
    # mmcv parts the classes by an offset that assumes no coordinate below zero; overlaps do not change by a shift
    boxes_from_zero = candidates.bboxes - candidates.bboxes.min()
    kept_boxes, keep = batched_nms(boxes_from_zero, candidates.scores, candidates.labels, nms_cfg)
    kept = candidates[keep]
    kept.scores = kept_boxes[:, -1]  # soft-NMS changes them
    return kept[:max_per_img] if max_per_img > 0 else kept


def to_original_pixels(boxes_xyxy: Tensor, img_meta: dict) -> Tensor:
    """Boxes of the network input on the picture it came from: padding off, then the scaling undone.

    Args:
        boxes_xyxy: (K, 4) px of the network input.
        img_meta: ``scale_factor`` (w, h), and ``pad_param`` (top, bottom, left, right) px if the padding is not on the
            right and bottom alone.
    """
    if 'pad_param' in img_meta:
        top, _, left, _ = img_meta['pad_param']
        boxes_xyxy = boxes_xyxy - boxes_xyxy.new_tensor([left, top, left, top])
    scale_w, scale_h = img_meta['scale_factor'][:2]
    return boxes_xyxy / boxes_xyxy.new_tensor([scale_w, scale_h, scale_w, scale_h])


def clip_boxes(boxes_xyxy: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Boxes cut off at the borders of a picture."""
    height, width = size_hw[:2]
    return torch.minimum(boxes_xyxy.clamp(min=0), boxes_xyxy.new_tensor([width, height, width, height]))
