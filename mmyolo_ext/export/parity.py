"""Compare the boxes and scores of an exported file with those of PyTorch.

Letters: N images, M predictions per image, C classes, K detections.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from mmyolo_ext.export import runtime
from mmyolo_ext.export.graph import DenseHeadGraph, RawGraph

Run = Callable[[np.ndarray], dict[str, np.ndarray]]


class Bound(NamedTuple):
    """The largest allowed differences between two runtimes."""

    boxes_px: float
    scores: float


# float32 sums in another order; float16 rounds to 11 bits in some sixty layers
EXACT = Bound(0.1, 1e-4)
HALF = Bound(4.0, 0.02)
BEST = 1000  # candidates of an image to compare; a head may give tens of thousands


class Difference(NamedTuple):
    """The largest differences: boxes in px of the input, scores, and detections that only one side has."""

    boxes_px: float
    scores: float
    alone: int = 0

    def within(self, bound: Bound) -> bool:
        """Return whether no difference is above the bound; NaN is."""
        return self.boxes_px <= bound.boxes_px and self.scores <= bound.scores and self.alone == 0

    def __str__(self) -> str:
        alone = f', {self.alone} detections on one side only' if self.alone else ''
        return f'boxes {self.boxes_px:.2g} px, scores {self.scores:.2g}{alone}'


def check(reference: RawGraph, run: Run, batches: Sequence[np.ndarray], rules: dict, bound: Bound) -> Difference:
    """Return the largest differences over some batches.

    Args:
        reference: The trained detector in PyTorch, float32.
        run: The exported file.
        batches: (N, 3, H, W) float32, normalised; from real images.
        rules: Decoded metadata of the file.
        bound: Within it of a threshold, a detection may be missing on one side.
    """
    found = [_compare_batch(reference, run(batch), batch, rules, bound) for batch in batches]
    return Difference(*(np.max(values).item() for values in zip(*found, strict=True)))


def _compare_batch(reference: RawGraph, got: dict, batch: np.ndarray, rules: dict, bound: Bound) -> Difference:
    with torch.no_grad():
        boxes, scores = (output.numpy() for output in reference(torch.from_numpy(batch)))
    if not rules['nms_in_graph']:
        if isinstance(reference, DenseHeadGraph):
            with torch.no_grad():
                undecided = reference.undecided(torch.from_numpy(batch), *bound).numpy()
            got = {**got, 'scores': np.where(undecided, scores, got['scores'])}
        return Difference(largest(boxes, got['boxes']), largest(scores, got['scores']))
    found = []
    for index in range(len(batch)):
        candidates = runtime.candidates(boxes[index], scores[index], rules, 0.0)
        got_one = runtime.finish(got, index, rules, 0.0)
        if rules['precision'] == 'float32':
            found.append(compare_detections(runtime.suppress(*candidates, rules), got_one, rules, bound))
        else:  # by rounding another of two overlapping boxes may win: each must still be one of PyTorch's candidates
            found.append(pair(got_one, runtime.Detections(*candidates), rules['score_thr'], bound))
    return Difference(*(np.max(values).item() for values in zip(*found, strict=True)))


def check_decoding(reference: DenseHeadGraph, batch: np.ndarray, rules: dict, bound: Bound) -> Difference:
    """Compare the candidates for NMS with those of the head's own ``predict_by_feat``, the best of each side.

    Args:
        reference: The trained detector in PyTorch.
        batch: (N, 3, H, W) float32, normalised.
        rules: Decoded metadata.
        bound: Within it of the lowest score, a candidate may be missing on one side.
    """
    images = torch.from_numpy(batch)
    with torch.no_grad():
        boxes, scores = (output.numpy() for output in reference(images))
        outputs = reference.head(reference.detector.extract_feat(images))
        metas = [{'img_shape': batch.shape[-2:]}] * len(batch)
        own = reference.head.predict_by_feat(*outputs, batch_img_metas=metas, rescale=False, with_nms=False)
    found = []
    for index, instances in enumerate(own):
        order = instances.scores.argsort(descending=True)
        wanted = runtime.Detections(*(instances[key][order].numpy() for key in ('bboxes', 'scores', 'labels')))
        ours = runtime.Detections(*runtime.candidates(boxes[index], scores[index], rules, 0.0))
        for ones, others in ((wanted, ours), (ours, wanted)):
            best = runtime.Detections(*(field[:BEST] for field in ones))
            found.append(pair(best, others, others.scores.min(initial=1.0), bound))
    return Difference(*(np.max(values).item() for values in zip(*found, strict=True)))


def largest(wanted: np.ndarray, got: np.ndarray) -> float:
    """Return the largest absolute difference of two arrays; infinite on NaN or different shapes."""
    if wanted.shape != got.shape:
        return float('inf')
    differences = np.abs(wanted.astype(np.float64) - got.astype(np.float64))
    return float(np.nan_to_num(differences, nan=np.inf).max(initial=0.0))


def compare_detections(wanted: runtime.Detections, got: runtime.Detections, rules: dict, bound: Bound) -> Difference:
    """Compare each detection of either side with the nearest of its class on the other.

    A detection without a partner is accepted if its score is at the threshold, or at the lowest score that
    ``max_per_img`` kept on the other side: there rounding decides.
    """
    found = []
    for ones, others in ((wanted, got), (got, wanted)):
        full = len(others.scores) == rules['max_per_img'] > 0
        found.append(pair(ones, others, others.scores.min() if full else rules['score_thr'], bound))
    return Difference(*(max(values) for values in zip(*found, strict=True)))


def pair(ones: runtime.Detections, others: runtime.Detections, lowest: float, bound: Bound) -> Difference:
    """Compare each of ``ones`` with the nearest of its class; without one within ten bounds it counts as alone.

    Detections with a score of at most ``lowest`` plus the bound may be alone.
    """
    boxes_px, scores, alone = 0.0, 0.0, 0
    for box, score, label in zip(*ones, strict=True):
        same = others.labels == label
        apart_px = np.abs(others.boxes_xyxy[same] - box).max(axis=1, initial=0.0)
        apart = np.abs(others.scores[same] - score)
        in_bounds = np.maximum(apart_px / bound.boxes_px, apart / bound.scores)
        if in_bounds.min(initial=np.inf) > 10:
            alone += int(score > lowest + bound.scores)
        else:
            nearest = in_bounds.argmin()
            boxes_px, scores = max(boxes_px, float(apart_px[nearest])), max(scores, float(apart[nearest]))
    return Difference(boxes_px, scores, alone)
