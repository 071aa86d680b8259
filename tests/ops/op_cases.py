"""Random inputs for the ops of mmcv, the same on every machine: NumPy's legacy generator is frozen, and from it only
uniform numbers are taken and put together by exact or correctly rounded operations.

Shared by the tests and by ``benchmarks/compiled_ops.py``. N boxes.
"""

import numpy as np

KINDS = ('empty', 'one', 'ties', 'spread', 'crowded', 'huge', 'degenerate', 'nonfinite', 'many', 'classes')


def nms_case(seed: int) -> dict:
    """Keyword arguments of mmcv's nms, and ``classes`` (N,) or None; the kind goes round with the seed."""
    rng = np.random.RandomState(seed)
    kind = KINDS[seed % len(KINDS)]
    count = {'empty': 0, 'one': 1, 'many': rng.randint(1000, 3000), 'classes': rng.randint(50, 1500)}.get(
        kind, rng.randint(2, 400)
    )
    boxes, scores = _boxes(rng, kind, count), rng.rand(count)
    if kind in ('ties', 'degenerate'):
        scores = np.round(scores * 4) / 4
    return {
        'boxes': boxes.astype(np.float32),
        'scores': scores.astype(np.float32),
        'classes': rng.randint(0, 80, count) if kind == 'classes' else None,
        'iou_threshold': float(rng.choice([0.0, 0.25, 0.3, 1 / 3, 0.5, 0.6, 0.65, 0.7, 0.95, 1.0])),
        'offset': int(rng.randint(2)),
        'score_threshold': float(rng.choice([0.0, 0.0, 0.05, 0.5])),
        'max_num': int(rng.choice([-1, -1, 5, 100])),
    }


def _boxes(rng: np.random.RandomState, kind: str, count: int) -> np.ndarray:
    """x1 y1 x2 y2. ``ties`` lie on a coarse grid: repeated boxes, touching sides, IoUs of exactly 1/2 or 1/3."""
    if kind == 'ties':
        corner = rng.randint(0, 8, (count, 2)) * 4
        return np.hstack([corner, corner + rng.randint(1, 5, (count, 2)) * 4])
    if kind in ('crowded', 'many', 'classes'):
        return crowded_boxes(rng, count, objects=1 + count // 30)
    size = 1e7 if kind == 'huge' else 100
    corner = rng.rand(count, 2) * size
    boxes = np.hstack([corner, corner + rng.rand(count, 2) * size / 3])
    if kind == 'degenerate':
        flat, inverted = rng.rand(2, count) < 0.3
        boxes[flat, 2] = boxes[flat, 0]
        boxes[inverted] = boxes[inverted][:, [2, 3, 0, 1]]
    if kind == 'nonfinite':
        boxes[rng.rand(*boxes.shape) < 0.05] = np.nan
        boxes[rng.rand(*boxes.shape) < 0.05] = np.inf
    return boxes


def crowded_boxes(rng: np.random.RandomState, count: int, objects: int, size: float = 640) -> np.ndarray:
    """Raw predictions: heaps of jittered boxes around a few objects, some reaching beyond the image."""
    centres, sides = rng.rand(objects, 2) * size, 10 + rng.rand(objects, 2) * size / 4
    which = rng.randint(objects, size=count)
    centre = centres[which] + (rng.rand(count, 2) + rng.rand(count, 2) - 1) * sides[which] / 4
    half = sides[which] * (0.75 + rng.rand(count, 2) / 2) / 2
    return np.hstack([centre - half, centre + half])


def rois(rng: np.random.RandomState, count: int, images: int, height: float, width: float) -> np.ndarray:
    """(count, 5) regions, image index and x1 y1 x2 y2, some larger than the map, some tiny, some empty."""
    extent = np.array([width, height])
    corner = (rng.rand(count, 2) * 1.4 - 0.2) * extent
    side = rng.rand(count, 2) ** 2 * extent
    side[rng.rand(count) < 0.1] = 0
    return np.hstack([rng.randint(images, size=(count, 1)), corner, corner + side]).astype(np.float32)
