"""Of detections that lie on each other, the best.

Letters: N images, K detections.
"""

from collections.abc import Iterator

import torch
from mmcv.ops import batched_nms
from mmengine.structures import InstanceData
from torch import Tensor

from mmyolo_ext.models.heads.found import Found, join

# suppressed in one call on a GPU; the cost grows with the square, and each call with a wait for the device
TOGETHER = 5000


def suppress(found: Found, images: int, nms_cfg: dict, max_per_img: int, together: bool | None = None) -> Found:
    """Class-wise non-maximum suppression by mmcv in each image, best score first.

    Args:
        found: of a batch.
        images: N.
        nms_cfg: as mmcv's ``batched_nms`` takes it.
        max_per_img: so many at most; all if not positive.
        together: several images in one call; by default on a GPU, where calls cost more than boxes. On a CPU the cost
            is in the boxes.
    """
    together = found.boxes_xyxy.is_cuda if together is None else together
    plain = nms_cfg is not None and nms_cfg.get('type', 'nms') == 'nms'
    if together and plain and images > 1:
        return join(_suppress_together(part, images, nms_cfg, max_per_img) for part in _calls(found, images))
    return join(_suppress_one(part, nms_cfg, max_per_img) for part in found.by_image(images))


def suppress_duplicates(candidates: InstanceData, nms_cfg: dict, max_per_img: int) -> InstanceData:
    """The same for one image's ``bboxes`` (K, 4), ``scores`` and ``labels`` (K,)."""
    keep, scores = _keep(candidates.bboxes, candidates.scores, candidates.labels, nms_cfg, max_per_img)
    kept = candidates[keep]
    kept.scores = scores
    return kept


def _suppress_one(found: Found, nms_cfg: dict, max_per_img: int) -> Found:
    keep, scores = _keep(found.boxes_xyxy, found.scores, found.labels, nms_cfg, max_per_img)
    return found.take(keep)._replace(scores=scores)


def _keep(
    boxes_xyxy: Tensor, scores: Tensor, labels: Tensor, nms_cfg: dict, max_per_img: int
) -> tuple[Tensor, Tensor]:
    """Index of what is kept, best first, and its scores, which soft-NMS changes."""
    if len(scores) == 0:
        return labels, scores
    # mmcv parts the classes by an offset that assumes no coordinate below zero; overlaps do not change by a shift
    kept_boxes, keep = batched_nms(boxes_xyxy - boxes_xyxy.min(), scores, labels, nms_cfg)
    keep = keep[:max_per_img] if max_per_img > 0 else keep
    return keep, kept_boxes[: len(keep), -1]


def _calls(found: Found, images: int) -> Iterator[Found]:
    """Images that follow each other, with at most :data:`TOGETHER` detections unless one alone has more."""
    counts, start, stop = found.counts(images).tolist(), 0, 0
    for count in counts:
        if stop > start and stop + count - start > TOGETHER:
            yield found.take(slice(start, stop))
            start = stop
        stop += count
    yield found.take(slice(start, stop))


def _suppress_together(found: Found, images: int, nms_cfg: dict, max_per_img: int) -> Found:
    """Classes are set apart along x, images along y: of the bits of a coordinate that costs the fewest."""
    if len(found.scores) == 0:
        return found
    boxes_xyxy = found.boxes_xyxy - found.boxes_xyxy.min()
    width, height = (boxes_xyxy[:, axis].max() + 1 for axis in (2, 3))
    right = torch.zeros_like(found.scores) if nms_cfg.get('class_agnostic') else found.labels * width
    down = found.image * height
    shifted = boxes_xyxy + torch.stack([right, down, right, down], dim=1)
    in_one = {**nms_cfg, 'class_agnostic': True, 'split_thr': len(shifted) + 1}
    keep = batched_nms(shifted, found.scores, found.labels, in_one)[1]
    kept = found.take(keep)  # best first, whatever the image
    kept = kept.take(kept.image.argsort(stable=True))
    if max_per_img < 1:
        return kept
    counts = kept.counts(images)
    rank = torch.arange(len(kept.image), device=kept.image.device) - (counts.cumsum(0) - counts)[kept.image]
    return kept.take(rank < max_per_img)
