"""Means over the processes of a training, of numbers that the loss of the whole batch needs.

Every rank scales its losses so that their mean over ranks is the loss of the images of all ranks: a sum over the
elements on this rank is divided by the mean over ranks of their number. DistributedDataParallel averages gradients, so
that several processes get the gradients of one process with all images. mmdet's heads do the same.

Every rank must take part in every mean, in the same order, whatever its batch contains.
"""

from collections.abc import Sequence

import torch
from mmengine.dist import get_world_size
from torch import Tensor, distributed

from mmyolo_ext.models.task_modules import Positives


def mean_over_ranks(values: Tensor) -> Tensor:
    """Return the mean of a tensor over all ranks; the tensor itself in a single process."""
    if get_world_size() == 1:
        return values
    total = values.detach().clone()
    distributed.all_reduce(total)
    return total / get_world_size()


def batch_divisors(
    num_images: int, positives: Sequence[Positives], num_predictions: Sequence[int], device: torch.device
) -> tuple[int | Tensor, list[int | Tensor], list[int | Tensor]]:
    """Return the number of images of all ranks, and for each level the divisors of means.

    Args:
        num_images: Of the batch of this rank.
        positives: Of each level.
        num_predictions: Of each level.
        device: Of the predictions.

    Returns:
        Images of all ranks; of each level the positives, at least 1; of each level the predictions. Positives and
        predictions are means over ranks.
    """
    counts = [matches.count for matches in positives]
    if get_world_size() == 1:
        return num_images, [max(n, 1) if isinstance(n, int) else n.clamp(min=1) for n in counts], list(num_predictions)
    # copied without waiting for the device
    known = torch.tensor([num_images, *num_predictions]).to(device, non_blocking=True)
    padded = any(isinstance(count, Tensor) for count in counts)
    sums = torch.cat([known, torch.stack(counts) if padded else torch.tensor(counts).to(device, non_blocking=True)])
    distributed.all_reduce(sums)
    means = sums.clamp(min=1) / get_world_size()
    levels = len(counts)
    return sums[0].float(), [*means[1 + levels :]], [*means[1 : 1 + levels]]
