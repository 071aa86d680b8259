"""What the objectness loss of a level is taught, and which of its places count.

Letters: N images, A priors of the level, P positives, K ignore regions of the batch.
"""

from collections.abc import Sequence

from mmdet.models.task_modules.prior_generators import AnchorGenerator
from mmdet.structures.bbox import bbox_overlaps
from torch import Tensor

from mmyolo_ext.models.heads.batch_boxes import BatchBoxes, flat_index
from mmyolo_ext.models.task_modules import Positives


def objectness_targets(positives: Positives, values: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    """0, and at the positives their values; the highest wins where several fall in one place.

    So the target does not hang on the order in which a device writes.

    Args:
        positives: P of them.
        values: (P,), not negative.
        shape: (N, A, H, W).

    Returns:
        Tensor of that shape.
    """
    background = values.new_zeros(shape).flatten()
    return background.scatter_reduce(0, flat_index(positives, shape), values, reduce='amax').view(shape)


def counted_places(
    ignored: BatchBoxes,
    positives: Positives,
    priors_xyxy: Tensor,
    shape: tuple[int, int, int, int],
    iof_thr: float,
) -> Tensor:
    """Which places add objectness loss: not those whose prior lies in an ignore region of their own picture.

    Args:
        ignored: K ignore regions.
        positives: they count wherever they lie.
        priors_xyxy: (H*W*A, 4) px, as mmdet's ``grid_priors`` orders them.
        shape: (N, A, H, W).
        iof_thr: a prior lies in a region that covers this share of its area.

    Returns:
        Bool tensor of that shape.
    """
    num_images, num_priors, height, width = shape
    covered = bbox_overlaps(priors_xyxy, ignored.boxes_xyxy, mode='iof') >= iof_thr  # (H*W*A, K)
    regions = priors_xyxy.new_zeros(num_images, len(priors_xyxy)).index_add(0, ignored.image, covered.T.float())
    # (N, H*W*A) -> (N, A, H, W)
    is_free = (regions == 0).view(num_images, height, width, num_priors).permute(0, 3, 1, 2)
    return is_free.flatten().index_fill(0, flat_index(positives, shape), True).view(shape)


def counted_by_level(
    ignored: BatchBoxes,
    positives: Sequence[Positives],
    prior_generator: AnchorGenerator,
    objectnesses: Sequence[Tensor],
    iof_thr: float,
) -> list[Tensor | None]:
    """:func:`counted_places` of every level, flattened: (N*A*H*W,) bool; None where there is no ignore region."""
    if len(ignored.image) == 0:
        return [None] * len(objectnesses)
    priors = prior_generator.grid_priors([level.shape[-2:] for level in objectnesses], device=ignored.image.device)
    return [
        counted_places(ignored, matches, level_priors, level.shape, iof_thr).flatten()
        for level, matches, level_priors in zip(objectnesses, positives, priors, strict=True)
    ]
