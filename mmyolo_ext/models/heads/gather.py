"""Read the predictions at the positives of a level, with a gradient that is written once.

The gradient of a map is zero except at the positives and in the objectness channel, and maps are large: 34 million
numbers for 16 images of 640 px and 80 classes. So the backward pass fills one tensor in the layout of the map with
zeros and adds what is not zero.

Letters: N images, A anchors of the level, C classes, P positives, K predictions, D = 5 + C numbers of a prediction.
"""

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from mmyolo_ext.boxes import at_least_float32
from mmyolo_ext.models.task_modules import Positives

# channel order of an anchor: x, y, w, h, objectness, classes
OBJECTNESS = 4


def gather_positives(pred_map: Tensor, num_anchors: int, positives: Positives) -> tuple[Tensor, Tensor]:
    """Return the predictions of positives, and objectness everywhere.

    Args:
        pred_map: (N, A*D, H, W), anchor-major.
        num_anchors: A.
        positives: P matches of this level.

    Returns:
        (P, D) in float32 or better, zeros at padding so that nothing there is infinite; objectness (N, A, H, W).
    """
    rows, objectness = _RowsAndObjectness.apply(pred_map, num_anchors, *positives[:4])
    rows = at_least_float32(rows)
    return rows if positives.valid is None else rows.masked_fill(~positives.valid[:, None], 0), objectness


def objectness_of(pred_map: Tensor, num_anchors: int) -> Tensor:
    """Return the objectness channels as a view: (N, A*D, H, W) -> (N, A, H, W)."""
    count, _, height, width = pred_map.shape
    return pred_map.view(count, num_anchors, -1, height, width)[:, :, OBJECTNESS]


def take_predictions(pred_map: Tensor, num_anchors: int, index: Tensor) -> Tensor:
    """Return the D numbers of K predictions, given by their index (K,) in the flattened (N, A, H, W): (K, D).

    By indices into the flattened map: to index by image, anchor, row and column an exported graph would transpose the
    whole map.
    """
    cells = pred_map.shape[2] * pred_map.shape[3]
    per_anchor = pred_map.shape[1] // num_anchors
    first = index // cells * (per_anchor * cells) + index % cells
    return pred_map.take(first[:, None] + torch.arange(per_anchor, device=pred_map.device) * cells)


class _RowsAndObjectness(Function):
    """The D numbers at P positives of a map (N, A*D, H, W), and its objectness (N, A, H, W).

    Gradients of one prediction in several positives add up. On the CPU they are added in the order of the positives,
    whereas the gradient of advanced indexing depends on the threads: a resumed run must be bit-identical.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, pred_map: Tensor, num_anchors: int, *place: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        if not (pred_map.is_contiguous() or pred_map.is_contiguous(memory_format=torch.channels_last)):
            pred_map = pred_map.contiguous()
        image, anchor, cell_y, cell_x = place
        of_image, of_channel, of_row, of_column = pred_map.stride()
        per_anchor = pred_map.shape[1] // num_anchors
        first = image * of_image + anchor * (per_anchor * of_channel) + cell_y * of_row + cell_x * of_column
        offsets = first[:, None] + torch.arange(per_anchor, device=pred_map.device) * of_channel  # (P, D)
        # an empty tensor with the dtype of the map, which nothing else keeps until the backward pass
        ctx.save_for_backward(offsets, pred_map.new_empty(0))
        ctx.shape, ctx.stride, ctx.num_anchors = pred_map.shape, pred_map.stride(), num_anchors
        rows = _memory(pred_map).index_select(0, offsets.flatten()).view_as(offsets)
        return rows, objectness_of(pred_map, num_anchors).clone(memory_format=torch.contiguous_format)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_rows: Tensor | None, grad_objectness: Tensor | None) -> tuple:
        offsets, like = ctx.saved_tensors
        gradient = torch.empty_strided(ctx.shape, ctx.stride, dtype=like.dtype, device=like.device).zero_()
        if grad_objectness is not None:
            objectness_of(gradient, ctx.num_anchors).copy_(grad_objectness)
        if grad_rows is not None:
            _memory(gradient).index_add_(0, offsets.flatten(), grad_rows.flatten())
        return gradient, *[None] * (len(ctx.needs_input_grad) - 1)


def _memory(dense: Tensor) -> Tensor:
    """Return all numbers in the order of their memory, as a view."""
    return dense.as_strided((dense.numel(),), (1,))
