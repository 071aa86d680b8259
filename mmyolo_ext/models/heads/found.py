"""Detections of a batch in a few long tensors.

Letters: N images, K detections.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor


class Found(NamedTuple):
    """Detections of a batch, image after image."""

    image: Tensor  # (K,) long, rising
    boxes_xyxy: Tensor  # (K, 4)
    scores: Tensor  # (K,)
    labels: Tensor  # (K,) long

    def take(self, index: Tensor | slice) -> 'Found':
        """Those of an index or a mask."""
        return Found(*(field[index] for field in self))

    def counts(self, images: int) -> Tensor:
        """How many each of N images has: (N,) long."""
        return (self.image[:, None] == torch.arange(images, device=self.image.device)).sum(0)

    def by_image(self, images: int) -> list['Found']:
        """One for each of N images."""
        if images == 1:
            return [self]
        counts = self.counts(images).tolist()
        return [Found(*parts) for parts in zip(*(field.split(counts) for field in self), strict=True)]


def join(parts: Iterable[Found]) -> Found:
    """Of images in their order -> of the batch."""
    return Found(*(torch.cat(fields) for fields in zip(*parts, strict=True)))
