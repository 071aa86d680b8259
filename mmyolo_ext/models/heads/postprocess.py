"""From all that the network says to detections in original pixels.

Letters: N images, M places of the network that predict a box, C classes, K some of the places, or detections.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from mmyolo_ext.models.heads.found import Found, join
from mmyolo_ext.models.heads.suppression import suppress


class Predictions(NamedTuple):
    """What the network says of every place, before any threshold. The M places run level, anchor, row, column."""

    boxes_xyxy: Tensor  # (N, M, 4) px of the network input
    objectness: Tensor  # (N, M) in [0, 1]
    class_scores: Tensor  # (N, M, C) in [0, 1], not multiplied by objectness


class LikelyPlaces(NamedTuple):
    """The places of a batch that may hold an object; those of one image in the order of :class:`Predictions`."""

    image: Tensor  # (K,) long
    boxes_xyxy: Tensor  # (K, 4) px of the network input
    scores: Tensor  # (K, C) in [0, 1], objectness times class


def detect(
    likely: LikelyPlaces, batch_img_metas: Sequence[dict], cfg: dict, multi_label: bool, rescale: bool, with_nms: bool
) -> list[InstanceData]:
    """Detections of each picture: ``bboxes`` (K, 4) xyxy px, ``scores`` (K,), ``labels`` (K,) long.

    Args:
        likely: of a batch.
        batch_img_metas: of each picture, see :func:`to_original_pixels`.
        cfg: ``score_thr``, ``nms_pre``, ``nms``, ``max_per_img``.
        multi_label: whether a box may have several classes.
        rescale: give pixels of the original picture, else of the network input.
        with_nms: suppress duplicates.
    """
    images = len(batch_img_metas)
    found = pick_candidates(likely, images, cfg['score_thr'], multi_label, cfg['nms_pre'])
    if with_nms:
        found = suppress(found, images, cfg['nms'], cfg['max_per_img'])
    if rescale:
        boxes_xyxy = to_original_pixels(found.boxes_xyxy, found.image, batch_img_metas)
        sizes_hw = [img_meta['ori_shape'][:2] for img_meta in batch_img_metas]
    else:
        boxes_xyxy, sizes_hw = found.boxes_xyxy, [img_meta['img_shape'][:2] for img_meta in batch_img_metas]
    found = found._replace(boxes_xyxy=clip_boxes(boxes_xyxy, found.image, sizes_hw))
    return [
        InstanceData(bboxes=one.boxes_xyxy, scores=one.scores, labels=one.labels) for one in found.by_image(images)
    ]


def pick_candidates(likely: LikelyPlaces, images: int, score_thr: float, multi_label: bool, nms_pre: int) -> Found:
    """The scores above the threshold, as detections.

    Args:
        likely: places of a batch.
        images: N.
        score_thr: a score must be greater.
        multi_label: a box gives a detection for every class above the threshold, else for its best class alone.
        nms_pre: keep only so many of the best of an image, best first; all if not positive.
    """
    if multi_label:
        place, label = torch.nonzero(likely.scores > score_thr, as_tuple=True)
        score = likely.scores[place, label]
    else:
        best_score, best_label = likely.scores.max(dim=1)
        place = torch.nonzero(best_score > score_thr).squeeze(1)
        score, label = best_score[place], best_label[place]
    found = Found(likely.image[place], likely.boxes_xyxy[place], score, label)
    if images > 1:  # places run level by level
        found = found.take(found.image.argsort(stable=True))
    if 0 < nms_pre < len(score):
        found = join(best_first(one, nms_pre) for one in found.by_image(images))
    return found


def best_first(found: Found, most: int) -> Found:
    """The best ``most`` of an image if there are more, else all as they are."""
    if len(found.scores) <= most:
        return found
    return found.take(found.scores.argsort(descending=True, stable=True)[:most])


def to_original_pixels(boxes_xyxy: Tensor, image: Tensor, batch_img_metas: Sequence[dict]) -> Tensor:
    """Boxes of the network input on the pictures they came from: padding off, then the scaling undone.

    Args:
        boxes_xyxy: (K, 4) px of the network input.
        image: (K,) which picture of the batch each lies on.
        batch_img_metas: ``scale_factor`` (w, h), and ``pad_param`` (top, bottom, left, right) px if the padding is not
            on the right and bottom alone.
    """
    if any('pad_param' in img_meta for img_meta in batch_img_metas):
        pads = [img_meta.get('pad_param', (0, 0, 0, 0)) for img_meta in batch_img_metas]
        boxes_xyxy = boxes_xyxy - boxes_xyxy.new_tensor([(left, top) * 2 for top, _, left, _ in pads])[image]
    scales_wh = [tuple(img_meta['scale_factor'][:2]) * 2 for img_meta in batch_img_metas]
    return boxes_xyxy / boxes_xyxy.new_tensor(scales_wh)[image]


def clip_boxes(boxes_xyxy: Tensor, image: Tensor, sizes_hw: Sequence[tuple[int, int]]) -> Tensor:
    """Boxes (K, 4) cut off at the borders of their pictures, given which (K,) and all pictures' sizes."""
    borders = boxes_xyxy.new_tensor([(width, height) * 2 for height, width in sizes_hw])
    return torch.minimum(boxes_xyxy.clamp(min=0), borders[image])
