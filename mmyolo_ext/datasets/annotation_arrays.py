"""The annotations of a data set in a few arrays.

Thousands of small Python objects would be copied into each worker as it counts references to them, a page at a time;
arrays stay shared.

Letters: N pictures, G boxes of all of them, C classes.
"""

import pickle
from collections.abc import Iterable, Sequence

import numpy as np

from .transforms.annotations import Annotations


class AnnotationArrays:
    """What ``get_data_info`` gives for every picture, boxes apart from the rest.

    Args:
        infos: (N) as mmengine's data sets give them. Of each of its ``instances`` the ``bbox`` (xyxy px),
            ``bbox_label``, ``ignore_flag`` and ``soft_label``, the shares of the classes, are kept.
    """

    def __init__(self, infos: Iterable[dict]) -> None:
        rest, boxes, labels, ignore, shares, counts = [], [], [], [], [], []
        for info in infos:
            instances = info.get('instances') or []
            boxes += [instance['bbox'] for instance in instances]
            labels += [instance['bbox_label'] for instance in instances]
            ignore += [instance.get('ignore_flag', 0) for instance in instances]
            shares += [instance.get('soft_label') for instance in instances]
            counts.append(len(instances))
            rest.append(pickle.dumps({key: value for key, value in info.items() if key != 'instances'}))
        self._boxes_xyxy = np.array(boxes, np.float32).reshape(-1, 4)
        self._labels = np.array(labels, np.int64)
        self._ignore = np.array(ignore, bool)
        self._soft_labels = soft_rows(shares, self._labels)
        self._box_ends = _ends(counts)
        self._rest = np.frombuffer(b''.join(rest), np.uint8)
        self._rest_ends = _ends(map(len, rest))

    def __len__(self) -> int:
        return len(self._box_ends) - 1

    def info(self, index: int) -> dict:
        """All but the instances, a new dict."""
        return pickle.loads(self._rest[self._rest_ends[index] : self._rest_ends[index + 1]])

    def scale(self, scales_wh: np.ndarray) -> None:
        """Multiply the boxes by the scales (N, 2) of their pictures."""
        self._boxes_xyxy *= np.repeat(np.tile(scales_wh, 2), np.diff(self._box_ends), axis=0)

    def annotations(self, index: int) -> Annotations:
        """The boxes of one picture, views."""
        own = slice(self._box_ends[index], self._box_ends[index + 1])
        soft_labels = None if self._soft_labels is None else self._soft_labels[own]
        return Annotations(self._boxes_xyxy[own], self._labels[own], self._ignore[own], soft_labels)


def soft_rows(shares: Sequence[Sequence[float] | None], labels: np.ndarray) -> np.ndarray | None:
    """(G, C) float32 of shares, the label's row of 0 and 1 where there are none; None if no box has any."""
    num_classes = next((len(row) for row in shares if row is not None), None)
    if num_classes is None:
        return None
    plain = np.eye(num_classes, dtype=np.float32)[labels]
    return np.array([own if row is None else row for row, own in zip(shares, plain, strict=True)], np.float32)


def _ends(counts: Iterable[int]) -> np.ndarray:
    return np.cumsum([0, *counts])
