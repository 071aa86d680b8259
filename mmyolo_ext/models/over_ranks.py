"""Means over the processes of a training, of numbers that the loss of the whole batch needs.

Every rank scales its losses so that their mean over ranks is the loss of the images of all ranks: a sum over the
elements on this rank is divided by the mean over ranks of their number. DistributedDataParallel takes the mean of the
gradients, so several processes learn what one process learns from all their images. mmdet's heads do the same.

Every rank must take part in every mean, in the same order, whatever its batch holds.
"""

from collections.abc import Sequence

import torch
from mmengine.dist import get_world_size
from torch import Tensor, distributed

from mmyolo_ext.models.task_modules import Positives


class PendingMean:
    """The mean of a tensor over all ranks, whose reduction starts here.

    Args:
        values: Of this rank; on a GPU for NCCL.
    """

    def __init__(self, values: Tensor) -> None:
        self._sum = values.detach().clone()
        self._work = distributed.all_reduce(self._sum, async_op=True)

    def sum(self) -> Tensor:
        """Return the sum over ranks. With NCCL the stream of the device waits for it, the host does not."""
        self._work.wait()
        return self._sum

    def mean(self) -> Tensor:
        """Return the mean over ranks, in float32 for whole numbers."""
        return self.sum() / get_world_size()


def mean_over_ranks(values: Tensor) -> Tensor:
    """Return the mean of a tensor over all ranks; itself where there is one process."""
    return PendingMean(values).mean() if get_world_size() > 1 else values


class BatchCounts:
    """How many images, positives and places the losses of a batch are about, over all ranks.

    With several processes the reduction starts here, and :meth:`wait` ends it.

    Args:
        num_images: Of this rank's batch.
        positives: Of each level.
        num_places: Of each level: the number of its predictions.
        device: Of the predictions.
    """

    def __init__(
        self, num_images: int, positives: Sequence[Positives], num_places: Sequence[int], device: torch.device
    ) -> None:
        counts = [matches.count for matches in positives]
        self._local = num_images, counts, num_places
        self._pending = None
        if get_world_size() > 1:
            # copied without waiting for the device
            known = torch.tensor([num_images, *num_places]).to(device, non_blocking=True)
            padded = any(isinstance(count, Tensor) for count in counts)
            matched = torch.stack(counts) if padded else torch.tensor(counts).to(device, non_blocking=True)
            self._pending = PendingMean(torch.cat([known, matched]))

    def wait(self) -> tuple[int | Tensor, list[int | Tensor], list[int | Tensor]]:
        """Return the number of images of all ranks, and of each level the divisors of means.

        Returns:
            Images of all ranks; of each level the positives, counted as 1 where there are none; of each level the
            places. Positives and places are means over ranks.
        """
        num_images, counts, num_places = self._local
        if self._pending is None:
            return num_images, [max(n, 1) if isinstance(n, int) else n.clamp(min=1) for n in counts], list(num_places)
        sums = self._pending.sum()
        means = sums.clamp(min=1) / get_world_size()
        levels = len(counts)
        return sums[0].float(), [*means[1 + levels :]], [*means[1 : 1 + levels]]
