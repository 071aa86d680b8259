"""From scored boxes to detections in pixels of the original images.

Letters: N images, C classes, K scored boxes or detections of the batch.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from mmcv.ops import batched_nms
from mmengine.structures import InstanceData
from torch import Tensor

# number of detections per NMS call on a GPU; the cost grows with its square, and each call waits for the device
TOGETHER = 5000


def by_image(found: InstanceData, images: int) -> list[InstanceData]:
    """Split the detections of a batch, image after image, into those of its N images."""
    if images == 1:
        return [found]
    stops = torch.bincount(found.image, minlength=images).cumsum(0).tolist()
    return [found[start:stop] for start, stop in pairwise([0, *stops])]


def detect(
    scored: tuple[Tensor, Tensor, Tensor],
    batch_img_metas: Sequence[dict],
    cfg: dict,
    multi_label: bool,
    rescale: bool,
    with_nms: bool,
) -> list[InstanceData]:
    """Return the detections of each image: ``bboxes`` (K, 4) xyxy px, ``scores`` (K,), ``labels`` (K,) long.

    Args:
        scored: Image (K,), boxes (K, 4) px of the network input and scores (K, C) of a batch.
        batch_img_metas: Of each image, see :func:`to_original_pixels`.
        cfg: ``score_thr``, ``nms_pre``, ``nms``, ``max_per_img``.
        multi_label: Whether a box may have several classes.
        rescale: Return pixels of the original image, else of the network input.
        with_nms: Suppress duplicates.
    """
    images = len(batch_img_metas)
    found = pick_candidates(*scored, images, cfg['score_thr'], multi_label, cfg['nms_pre'])
    if with_nms:
        found = suppress(found, images, cfg['nms'], cfg['max_per_img'])
    size = 'img_shape'
    if rescale:
        found.bboxes, size = to_original_pixels(found.bboxes, found.image, batch_img_metas), 'ori_shape'
    borders = found.bboxes.new_tensor(
        [(width, height) * 2 for height, width in (m[size][:2] for m in batch_img_metas)]
    )
    found.bboxes = torch.minimum(found.bboxes.clamp(min=0), borders[found.image])
    results = by_image(found, images)
    for result in results:
        result.pop('image')
    return results


def pick_candidates(
    image: Tensor,
    boxes_xyxy: Tensor,
    scores: Tensor,
    images: int,
    score_thr: float,
    multi_label: bool,
    nms_pre: int,
) -> InstanceData:
    """Return the scores above the threshold as detections of a batch, image after image.

    They have ``image`` (K,) long, ascending, ``bboxes`` (K, 4) xyxy, ``scores`` (K,) and ``labels`` (K,) long.

    Args:
        image: (K,) long.
        boxes_xyxy: (K, 4).
        scores: (K, C).
        images: N.
        score_thr: A score must be greater.
        multi_label: Make a detection for every class above the threshold, else for the best class alone.
        nms_pre: Keep only this number of the best of an image, best first; all if not positive.
    """
    if multi_label:
        index, label = torch.nonzero(scores > score_thr, as_tuple=True)
        score = scores[index, label]
    else:
        best_score, best_label = scores.max(dim=1)
        index = torch.nonzero(best_score > score_thr).squeeze(1)
        score, label = best_score[index], best_label[index]
    found = InstanceData(image=image[index], bboxes=boxes_xyxy[index], scores=score, labels=label)
    if images > 1:  # predictions are in the order of levels
        found = found[found.image.argsort(stable=True)]
    if 0 < nms_pre < len(score):
        parts = []
        for one in by_image(found, images):
            too_many = len(one) > nms_pre
            parts.append(one[one.scores.argsort(descending=True, stable=True)[:nms_pre]] if too_many else one)
        found = InstanceData.cat(parts)
    return found


def to_original_pixels(boxes_xyxy: Tensor, image: Tensor, batch_img_metas: Sequence[dict]) -> Tensor:
    """Map boxes of the network input to the original images: subtract the padding, then undo the scaling.

    Args:
        boxes_xyxy: (K, 4) px of the network input.
        image: (K,) image of the batch of each box.
        batch_img_metas: ``scale_factor`` (w, h), and ``pad_param`` (top, bottom, left, right) px if there is padding
            at the top or left.
    """
    if any('pad_param' in img_meta for img_meta in batch_img_metas):
        pads = [img_meta.get('pad_param', (0, 0, 0, 0)) for img_meta in batch_img_metas]
        boxes_xyxy = boxes_xyxy - boxes_xyxy.new_tensor([(left, top) * 2 for top, _, left, _ in pads])[image]
    scales_wh = [tuple(img_meta['scale_factor'][:2]) * 2 for img_meta in batch_img_metas]
    return boxes_xyxy / boxes_xyxy.new_tensor(scales_wh)[image]


def suppress(
    found: InstanceData, images: int, nms_cfg: dict, max_per_img: int, together: bool | None = None
) -> InstanceData:
    """Apply class-wise non-maximum suppression of mmcv in each image, highest score first.

    Args:
        found: Of a batch, see :func:`pick_candidates`.
        images: N.
        nms_cfg: As for mmcv's ``batched_nms``.
        max_per_img: Maximum number of detections; all if not positive.
        together: Process several images in one call; by default on a GPU, where calls cost more than boxes.
    """
    together = found.bboxes.is_cuda if together is None else together
    plain = nms_cfg is not None and nms_cfg.get('type', 'nms') == 'nms'
    if together and plain and images > 1:
        parts = [_suppress_together(part, images, nms_cfg, max_per_img) for part in _calls(found, images)]
    else:
        parts = [suppress_duplicates(one, nms_cfg, max_per_img) for one in by_image(found, images)]
    return InstanceData.cat(parts)


def suppress_duplicates(candidates: InstanceData, nms_cfg: dict, max_per_img: int) -> InstanceData:
    """Apply :func:`suppress` to ``bboxes`` (K, 4), ``scores`` and ``labels`` (K,) of one image."""
    if len(candidates) == 0:
        return candidates
    # mmcv separates classes by an offset that assumes no negative coordinate; a shift changes no overlap
    shifted = candidates.bboxes - candidates.bboxes.min()
    kept_boxes, keep = batched_nms(shifted, candidates.scores, candidates.labels, nms_cfg)
    keep = keep[:max_per_img] if max_per_img > 0 else keep
    kept = candidates[keep]
    kept.scores = kept_boxes[: len(keep), -1]  # which soft-NMS changes
    return kept


def _calls(found: InstanceData, images: int) -> Iterator[InstanceData]:
    """Yield consecutive images with at most ``TOGETHER`` detections, or one image that has more."""
    counts, start, stop = torch.bincount(found.image, minlength=images).tolist(), 0, 0
    for count in counts:
        if stop > start and stop + count - start > TOGETHER:
            yield found[start:stop]
            start = stop
        stop += count
    yield found[start:stop]


def _suppress_together(found: InstanceData, images: int, nms_cfg: dict, max_per_img: int) -> InstanceData:
    """Separate classes along x and images along y: this loses the fewest bits of a coordinate."""
    if len(found.scores) == 0:
        return found
    boxes_xyxy = found.bboxes - found.bboxes.min()
    width, height = (boxes_xyxy[:, axis].max() + 1 for axis in (2, 3))
    right = torch.zeros_like(found.scores) if nms_cfg.get('class_agnostic') else found.labels * width
    down = found.image * height
    shifted = boxes_xyxy + torch.stack([right, down, right, down], dim=1)
    in_one = {**nms_cfg, 'class_agnostic': True, 'split_thr': len(shifted) + 1}
    keep = batched_nms(shifted, found.scores, found.labels, in_one)[1]
    kept = found[keep]  # best first over all images
    kept = kept[kept.image.argsort(stable=True)]
    if max_per_img < 1:
        return kept
    counts = torch.bincount(kept.image, minlength=images)
    rank = torch.arange(len(kept.image), device=kept.image.device) - (counts.cumsum(0) - counts)[kept.image]
    return kept[rank < max_per_img]
