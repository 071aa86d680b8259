"""Tiles of large images: geometry, merging of detections across borders, and the dataset of tiles."""

import numpy as np
import pytest

from mmyolo_ext.tiling import merge, tiles


@pytest.mark.parametrize(
    ('height', 'width', 'size', 'overlap'), [(3000, 4000, 640, 0.2), (641, 640, 640, 0), (90, 700, 64, 0.5)]
)
def test_tiles_cover_the_image_and_overlap(height, width, size, overlap):
    found = tiles(height, width, size, overlap)
    covered = np.zeros((height, width), bool)
    for x, y, w, h in found:
        assert (w, h) == (size, size) and 0 <= x <= width - w and 0 <= y <= height - h
        covered[y : y + h, x : x + w] = True
    assert covered.all() and len(set(found)) == len(found)
    for axis in (0, 1):
        starts = sorted({tile[axis] for tile in found})
        assert all(later - start <= size - overlap * size for start, later in zip(starts, starts[1:], strict=False))


def test_a_small_image_is_one_tile():
    assert tiles(30, 500, 640) == [(0, 0, 500, 30)]


def test_tiling_out_of_range_is_refused():
    with pytest.raises(ValueError, match='at least 32 px, got 8'):
        tiles(100, 100, 8)
    with pytest.raises(ValueError, match='from 0 to 0.9 of their side, got 1'):
        tiles(100, 100, 64, 1)


def visible(boxes, places, noise=None):
    """What a detector that knows the ground truth (n, 5: xyxy, label) sees in each tile: the visible part of boxes."""
    found = []
    for x, y, w, h in places:
        seen = boxes[:, :4].clip([x, y, x, y], [x + w, y + h, x + w, y + h])
        keep = ((seen[:, 2:] - seen[:, :2]) >= 2).all(1)
        seen = seen[keep] - [x, y, x, y]
        if noise is not None:
            seen = (seen + noise.normal(0, 1, seen.shape)).clip(0, [w, h, w, h])
        found.append((seen, 0.5 + 0.4 * keep[keep], boxes[keep, 4].astype(int)))
    return found


@pytest.mark.parametrize('overlap', [0.0, 0.1, 0.2, 0.5])
@pytest.mark.parametrize('noisy', [False, True])
def test_an_object_across_borders_is_one_box(overlap, noisy):
    """200 random objects, up to 1.5 tiles long, each across at least one border: one box each, at its place."""
    generator = np.random.default_rng(0)
    image_hw, size = (900, 1300), 320
    places = tiles(*image_hw, size, overlap)
    borders = sorted({x for x, *_ in places} | {x + w for x, _, w, _ in places} - {0})
    exact = 0
    for _ in range(200):
        width, height = generator.uniform(20, 480, 2)
        border = generator.choice([border for border in borders if 0 < border < image_hw[1]])
        x1 = np.clip(border - generator.uniform(0.1, 0.9) * width, 0, image_hw[1] - width)
        y1 = generator.uniform(0, image_hw[0] - height)
        truth = np.array([[x1, y1, x1 + width, y1 + height, 1]])
        boxes, scores, labels = merge(visible(truth, places, generator if noisy else None), places, image_hw)
        assert len(boxes) == len(scores) == len(labels) == 1 and labels[0] == 1
        exact += np.abs(boxes[0] - truth[0, :4]).max() < (5 if noisy else 2.01)
    assert exact == 200
