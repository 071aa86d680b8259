"""Boxes and scores of mmdet's dense heads, batched and traceable, by the head's own decoding.

A head decodes in ``_predict_by_feat_single``, one image at a time, and drops predictions level by level on the way.
Here that method runs once for a whole batch, which it sees as one tall image, and returns all predictions; what it
would have dropped gets the score 0. One path thus serves every head that inherits the method or has its own.

Letters: N images, H and W the sides of the input, M predictions per image, C classes, A anchors per cell.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

import torch
import torch.nn.functional as F
from mmdet.structures.bbox import get_box_tensor
from mmengine.config import ConfigDict
from torch import Tensor, nn

POSTPROCESSING = ('BaseDenseHead._bbox_post_process', 'YOLOXHead._bbox_post_process')  # plain NMS
TESTED = ('RetinaNet', 'FCOS', 'ATSS', 'GFL', 'RTMDet', 'YOLOX', 'TOOD')
MOST = 1000  # detections per image where test_cfg has no max_per_img; COCO metrics count no more


def is_dense_head(head: nn.Module | None) -> bool:
    """Return whether a head is one of mmdet that :func:`decode` can run."""
    finish = getattr(head, '_bbox_post_process', None)
    own = hasattr(head, '_predict_by_feat_single') and hasattr(head, 'bbox_coder')
    known = getattr(finish, '__qualname__', None) in POSTPROCESSING
    return known and hasattr(head, 'prior_generator') and (own or hasattr(head, '_bbox_decode'))


def takes_best_class_only(head: nn.Module) -> bool:
    """Return whether a prediction has one label only, as that of YOLOX; others have any number."""
    return hasattr(head, '_bbox_decode')


def decode(head: nn.Module, feats: Sequence[Tensor], sides_hw: tuple[int, int]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return boxes (N, M, 4) xyxy in px of the input, scores (N, M, C), and class scores by level.

    Args:
        head: A dense head of mmdet; its ``test_cfg`` is not applied.
        feats: Feature maps by level.
        sides_hw: H and W, to which a head that clips its boxes does so.
    """
    with _traceable_sampling(head, feats[0].shape[0]):
        outputs = [[level.float() for level in levels] for levels in head(feats)]
    shapes = [level.shape[-2:] for level in outputs[0]]
    options = {'dtype': torch.float32, 'device': feats[0].device}
    if takes_best_class_only(head):
        classes, boxes, objectness = ([_rows(level) for level in levels] for levels in outputs)
        priors = torch.cat(head.prior_generator.grid_priors(shapes, with_stride=True, **options))
        boxes = head._bbox_decode(priors, torch.cat(boxes, dim=1))
        scores = [one.sigmoid() * other.sigmoid() for one, other in zip(classes, objectness, strict=True)]
        return boxes, torch.cat(scores, dim=1), scores
    priors = [get_box_tensor(level) for level in head.prior_generator.grid_priors(shapes, **options)]
    return _decode_by_head(head, outputs, priors, sides_hw)


def _decode_by_head(
    head: nn.Module, outputs: list[list[Tensor]], priors: list[Tensor], sides_hw: tuple[int, int]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Run ``_predict_by_feat_single`` on a batch as one image of N * H rows; see :func:`decode`."""
    images = outputs[0][0].shape[0]
    tall = [[level.transpose(0, 1).flatten(1, 2) for level in levels] for levels in outputs]  # (A * ., N * H, W)
    factors = tall[2] if len(tall) > 2 else [None] * len(priors)
    repeated = [level.repeat(images, 1) for level in priors]
    single = type(head)._predict_by_feat_single
    coder = head.bbox_coder
    with (
        mock.patch.dict(single.__globals__, filter_scores_and_topk=_keep_all),
        mock.patch.object(head, '_bbox_post_process', lambda results, **_: results),
        mock.patch.object(coder, 'decode', _clipping_decode(coder, sides_hw)),
    ):
        cfg = ConfigDict(head.test_cfg, nms_pre=-1)
        found = single(head, *tall[:2], factors, repeated, {'img_shape': sides_hw}, cfg)
    # level by level (N * M_l, .), one image after the other -> (N, M, .)
    boxes, classes = (_by_image(rows, repeated, images) for rows in (found.bboxes, found.scores))
    scores = torch.cat(classes, dim=1)
    if 'score_factors' in found:
        scores = scores * torch.cat(_by_image(found.score_factors[:, None], repeated, images), dim=1)
    return torch.cat(boxes, dim=1), scores, classes


def _keep_all(scores: Tensor, score_thr: float, topk: int, results: dict) -> tuple:
    """Stand in for mmdet's ``filter_scores_and_topk``: keep every prediction (M,) with all its classes (M, C)."""
    return scores, scores[:, 0], slice(None), results


def _clipping_decode(coder: object, sides_hw: tuple[int, int]) -> Callable:
    """Return ``coder.decode`` with its clipping done by tensors: sides of any size stay open in a traced graph."""
    own = coder.decode
    height, width = (torch.as_tensor(side, dtype=torch.float32) for side in sides_hw)

    def decode_and_clip(priors: Tensor, predicted: Tensor, max_shape: object = None, **options: object) -> Tensor:
        boxes = get_box_tensor(own(priors, predicted, max_shape=None, **options))
        if max_shape is None or getattr(coder, 'clip_border', True) is False:
            return boxes
        return torch.minimum(boxes.clamp(min=0), torch.stack([width, height, width, height]))

    return decode_and_clip


def _rows(level: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H * W, C)."""
    return level.flatten(2).transpose(1, 2)


def _by_image(rows: Tensor, levels: list[Tensor], images: int) -> list[Tensor]:
    """Split rows (N * M, .), level by level, into (N, M_l, .); ``levels`` have as many rows each."""
    parts, start = [], 0
    for level in levels:
        end = start + level.shape[0]
        parts.append(rows[start:end].reshape(images, -1, rows.shape[1]))
        start = end
    return parts


@contextmanager
def _traceable_sampling(head: nn.Module, images: int) -> Iterator[None]:
    """Let TOOD's head sample and repeat its anchors by operators that a graph of open batch size can have."""
    if not hasattr(head, 'deform_sampling'):
        yield
        return
    own = head.prior_generator.single_level_grid_priors

    def repeated(*args: object, **kwargs: object) -> Tensor:
        # the head repeats them by a loop over the batch, which a trace, of one image, would fix to one
        return own(*args, **kwargs).repeat(images if torch.jit.is_tracing() else 1, 1)

    with (
        mock.patch.object(head, 'deform_sampling', sample),
        mock.patch.object(head.prior_generator, 'single_level_grid_priors', repeated),
    ):
        yield


def sample(feat: Tensor, offset: Tensor) -> Tensor:
    """Return each channel of (N, C, H, W) at its cell plus ``offset`` (N, 2 C, H, W), rows before columns.

    This is the deformable 1x1 convolution with weight 1 that mmdet calls; 0 outside the map.
    """
    height, width = feat.shape[-2:]
    rows = torch.arange(height, device=feat.device)[:, None]
    columns = torch.arange(width, device=feat.device)
    offset = offset.float().reshape(-1, 2, height, width)  # (N * C, 2, H, W)
    grid = torch.stack([(2 * (offset[:, 1] + columns) + 1) / width - 1, (2 * (offset[:, 0] + rows) + 1) / height - 1])
    sampled = F.grid_sample(feat.reshape(-1, 1, height, width), grid.permute(1, 2, 3, 0), align_corners=False)
    return sampled.reshape(feat.shape)
