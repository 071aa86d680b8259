"""What losses and predictions need of the network's maps: all numbers at some places, objectness everywhere.

The gradient of a map is zero but at the positives, and the maps are large: of 16 pictures of 640 px and 80 classes
they hold 34 million numbers. So a gradient is written once, in the layout of its map: zeros, and on them what is not
zero.

Letters: N images, A anchors of the level, C classes, P positives, K places, D numbers an anchor predicts.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from mmyolo_ext.boxes import at_least_float32
from mmyolo_ext.models.task_modules import Positives

# which of the D = 5 + C numbers of an anchor is its objectness; the box stands before it, the classes after
OBJECTNESS = 4


class Reading(NamedTuple):
    """What the network says of one level; zeros at padding among the positives.

    Attributes:
        class_logits: (P, C), float32 or better.
        raw_boxes: (P, 4), likewise.
        objectness: (N, A, H, W), as the network gives it.
    """

    class_logits: Tensor
    raw_boxes: Tensor
    objectness: Tensor


class SplitMaps(NamedTuple):
    """The maps of a level as a head's ``forward`` gives them: (N, A*C, H, W), (N, A*4, H, W), (N, A, H, W)."""

    cls_score: Tensor
    bbox_pred: Tensor
    objectness: Tensor

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """N, A, H, W."""
        return tuple(self.objectness.shape)

    def split(self) -> 'SplitMaps':
        """Itself."""
        return self

    def read(self, positives: Positives) -> Reading:
        """Each map gets a gradient of its own."""
        num_anchors = self.shape[1]
        class_logits, raw_boxes = (
            _RowsAndChannel.apply(pred, num_anchors, None, *positives.place)[0]
            for pred in (self.cls_score, self.bbox_pred)
        )
        return Reading(_told(class_logits, positives), _told(raw_boxes, positives), self.objectness)

    def at(self, place: Tensor) -> tuple[Tensor, Tensor]:
        """Raw boxes (K, 4) and classes (K, C) at places (K,), counted along the flattened objectness; no gradient."""
        num_anchors = self.shape[1]
        return _at(self.bbox_pred, num_anchors, place), _at(self.cls_score, num_anchors, place)


class WholeMap(NamedTuple):
    """The same in one piece, as the convolution of the level gives it: (N, A*(5+C), H, W), anchor-major; and A."""

    pred: Tensor
    num_anchors: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """N, A, H, W."""
        return len(self.pred), self.num_anchors, *self.pred.shape[-2:]

    @property
    def objectness(self) -> Tensor:
        """(N, A, H, W), a view."""
        return _channel(self.pred, self.num_anchors, OBJECTNESS)

    def split(self) -> SplitMaps:
        """Boxes and classes are copies."""
        per_prior = self.pred.unflatten(1, (self.num_anchors, -1))  # (N, A, 5+C, H, W)
        boxes, classes = per_prior[:, :, :OBJECTNESS], per_prior[:, :, OBJECTNESS + 1 :]
        return SplitMaps(classes.flatten(1, 2), boxes.flatten(1, 2), per_prior[:, :, OBJECTNESS])

    def read(self, positives: Positives) -> Reading:
        """The map gets its gradient at once."""
        rows, objectness = _RowsAndChannel.apply(self.pred, self.num_anchors, OBJECTNESS, *positives.place)
        raw_boxes, _, class_logits = _told(rows, positives).tensor_split([OBJECTNESS, OBJECTNESS + 1], dim=1)
        return Reading(class_logits, raw_boxes, objectness)

    def at(self, place: Tensor) -> tuple[Tensor, Tensor]:
        """Raw boxes (K, 4) and classes (K, C) at places (K,), counted along the flattened objectness; no gradient."""
        rows = _at(self.pred, self.num_anchors, place)
        return rows[:, :OBJECTNESS], rows[:, OBJECTNESS + 1 :]


def _at(pred: Tensor, num_anchors: int, place: Tensor) -> Tensor:
    """Of a map (N, A*D, H, W) the D numbers at K places of (N, A, H, W) flattened: (K, D).

    Taken by their numbers along the flattened map, for an exported graph would turn the whole map around to index it
    by image, anchor, row and column.
    """
    cells = pred.shape[2] * pred.shape[3]
    per_prior = pred.shape[1] // num_anchors
    first = place // cells * (per_prior * cells) + place % cells
    return pred.take(first[:, None] + torch.arange(per_prior, device=pred.device) * cells)


def _told(rows: Tensor, positives: Positives) -> Tensor:
    """(P, D) in float32 or better; padding says 0, so that nothing there can be infinite."""
    rows = at_least_float32(rows)
    return rows if positives.valid is None else rows.masked_fill(~positives.valid[:, None], 0)


class _RowsAndChannel(Function):
    """Of a map (N, A*D, H, W) the D numbers at P places, (P, D), and one of them everywhere, (N, A, H, W) or None.

    A place that is named twice gets the sum of both gradients. On the CPU they are added one by one in the order of
    the places, where the gradient of indexing by tensors depends on the threads: a resumed run must repeat the last
    bit.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, pred: Tensor, num_anchors: int, channel: int | None, *place: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        ctx.set_materialize_grads(False)
        pred = _dense(pred)
        offsets = _offsets(pred, num_anchors, *place)
        # an empty tensor of its kind in place of the map, which nothing else keeps until the backward pass
        ctx.save_for_backward(offsets, pred.new_empty(0))
        ctx.shape, ctx.stride, ctx.num_anchors, ctx.channel = pred.shape, pred.stride(), num_anchors, channel
        rows = _memory(pred).index_select(0, offsets.flatten()).view_as(offsets)
        return rows, None if channel is None else _channel(pred, num_anchors, channel).clone(
            memory_format=torch.contiguous_format
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_rows: Tensor | None, grad_channel: Tensor | None) -> tuple[Tensor | None, ...]:
        offsets, like = ctx.saved_tensors
        gradient = torch.empty_strided(ctx.shape, ctx.stride, dtype=like.dtype, device=like.device).zero_()
        if grad_channel is not None:
            _channel(gradient, ctx.num_anchors, ctx.channel).copy_(grad_channel)
        if grad_rows is not None:
            _memory(gradient).index_add_(0, offsets.flatten(), grad_rows.flatten())
        return gradient, *[None] * (len(ctx.needs_input_grad) - 1)


def _offsets(pred: Tensor, num_anchors: int, image: Tensor, anchor: Tensor, cell_y: Tensor, cell_x: Tensor) -> Tensor:
    """Where in the memory of a map the numbers at P places lie: (P, D)."""
    of_image, of_channel, of_row, of_column = pred.stride()
    per_prior = pred.shape[1] // num_anchors
    first = image * of_image + anchor * (per_prior * of_channel) + cell_y * of_row + cell_x * of_column
    return first[:, None] + torch.arange(per_prior, device=pred.device) * of_channel


def _channel(pred: Tensor, num_anchors: int, channel: int) -> Tensor:
    """One of the D numbers everywhere, as a view: (N, A*D, H, W) -> (N, A, H, W)."""
    return pred.unflatten(1, (num_anchors, -1))[:, :, channel]


def _dense(pred: Tensor) -> Tensor:
    """Itself if it fills its memory in one of the two common layouts, else a copy."""
    is_dense = pred.is_contiguous() or pred.is_contiguous(memory_format=torch.channels_last)
    return pred if is_dense else pred.contiguous()


def _memory(dense: Tensor) -> Tensor:
    """All numbers as they lie, as a view: (N * A*D * H * W,)."""
    return dense.as_strided((dense.numel(),), (1,))
