"""Maps of a head, (N, A*(5+C), H, W) per level, split into classes, boxes and objectness, and merged from them."""

from collections.abc import Sequence

import torch
from torch import Tensor

Split = tuple[list[Tensor], list[Tensor], list[Tensor]]


def split_maps(pred_maps: Sequence[Tensor], num_anchors: int = 3) -> Split:
    """Return class logits (N, A*C, H, W), raw boxes (N, A*4, H, W) and objectness (N, A, H, W) of each level."""
    per_anchor = [pred_map.unflatten(1, (num_anchors, -1)) for pred_map in pred_maps]
    return (
        [level[:, :, 5:].flatten(1, 2) for level in per_anchor],
        [level[:, :, :4].flatten(1, 2) for level in per_anchor],
        [level[:, :, 4] for level in per_anchor],
    )


def merge_maps(cls_scores: Sequence[Tensor], bbox_preds: Sequence[Tensor], objectnesses: Sequence[Tensor]) -> list:
    """Return the map of each level."""
    maps = []
    for cls_score, bbox_pred, objectness in zip(cls_scores, bbox_preds, objectnesses, strict=True):
        anchors = objectness.shape[1]
        parts = bbox_pred.unflatten(1, (anchors, -1)), objectness[:, :, None], cls_score.unflatten(1, (anchors, -1))
        maps.append(torch.cat(parts, dim=2).flatten(1, 2))
    return maps
