"""The transforms on mmdet's results: boxes against painted pixels, samples without boxes or without annotations."""

import copy

import numpy as np
import pytest
import torch
from mmdet.structures.bbox import HorizontalBoxes

from mmyolo_ext.datasets.transforms import HSVJitter, Letterbox, MixUp, Mosaic, RandomAffine
from mmyolo_ext.registry import TRANSFORMS

SIZE_HW = (96, 128)


def boxes_of(results):
    return results['gt_bboxes'].tensor.numpy()


def assert_on_pixels(painter, results, colours, tolerance=1.0):
    """Each box left lies on the pixels of its colour (by label), to a pixel."""
    assert len(results['gt_bboxes']) == len(results['gt_bboxes_labels']) == len(results['gt_ignore_flags'])
    for box, label in zip(boxes_of(results), results['gt_bboxes_labels'], strict=True):
        found = painter.find(results['img'], colours[label])
        assert found is not None, f'no pixel left of box {box}'
        assert np.abs(box - found).max() <= tolerance, (box, found)


NAMES = (
    *('LoadImage', 'Letterbox', 'Mosaic', 'MixUp', 'RandomAffine', 'HSVJitter'),
    *('MosaicAffine', 'HorizontalFlip', 'PackInputs'),
)


@pytest.mark.parametrize('name', NAMES)
def test_registered(name):
    assert TRANSFORMS.get(f'mmyolo_ext.{name}').__name__ == name


@pytest.mark.parametrize('centred', [False, True])
@pytest.mark.parametrize('batch_shape_hw', [None, (128, 160)])
def test_letterbox_moves_boxes_with_pixels(painter, centred, batch_shape_hw):
    results = painter.sample(120, 200, [(20, 30, 80, 90), (120, 0, 200, 50)], [150, 220], [0, 1], [True, False])
    if batch_shape_hw:
        results['batch_shape_hw'] = batch_shape_hw
    out = Letterbox(SIZE_HW, centred=centred)(results)
    assert out['img_shape'] == out['img'].shape[:2] == (batch_shape_hw or SIZE_HW)
    assert_on_pixels(painter, out, [150, 220])
    assert out['gt_ignore_flags'].tolist() == [True, False]
    # min(96 / 120, 128 / 200) = 0.64: 76.8 -> 77 rows, 128 columns.
    assert out['scale_factor'] == pytest.approx((0.64, 77 / 120))
    assert out['keep_ratio'] is True
    rows, columns = out['img_shape'][0] - 77, out['img_shape'][1] - 128
    top, left = (rows // 2, columns // 2) if centred else (0, 0)
    assert out['pad_param'] == (top, rows - top, left, columns - left)
    # What the head does with pad_param and scale_factor leads back to the original image.
    undone = (boxes_of(out) - [left, top, left, top]) / np.tile(out['scale_factor'], 2)
    np.testing.assert_allclose(undone, [[20, 30, 80, 90], [120, 0, 200, 50]], atol=1e-4)


def test_letterbox_after_a_resize_keeps_the_way_back(painter):
    results = {**painter.sample(50, 100), 'scale_factor': (0.5, 0.25)}
    assert Letterbox(50)(results)['scale_factor'] == (0.25, 0.125)


def test_letterbox_twice_is_refused(painter):
    with pytest.raises(ValueError, match='two Letterbox'):
        Letterbox(64)(Letterbox(32)(painter.sample(20, 30)))


def test_mosaic_moves_boxes_with_pixels(painter, quartet):
    samples, colours = quartet
    total = 0
    for seed in range(30):
        np.random.seed(seed)
        out = Mosaic(SIZE_HW)(painter.mix(samples))
        assert out['img'].shape == (192, 256, 3) and out['img_shape'] == (192, 256)
        assert_on_pixels(painter, out, colours, tolerance=0)
        assert (out['gt_ignore_flags'] == (out['gt_bboxes_labels'] % 2 == 1)).all()
        total += len(out['gt_bboxes'])
    assert 100 < total < 7 * 30  # most are there, some are cut off


def test_mosaic_drops_what_is_cut_off(painter, monkeypatch):
    """The point at (64, 48): the first image is seen from its columns 64 and rows 48 on."""
    boxes = [(0, 0, 64, 48), (55, 40, 65, 60), (60, 50, 68, 60), (60, 0, 70, 49), (64, 48, 66, 49)]
    samples = [painter.sample(96, 128, boxes), *[painter.sample(96, 128)] * 3]
    monkeypatch.setattr(Mosaic, 'draw', lambda self, rng: (64, 48))
    out = Mosaic(SIZE_HW)(painter.mix(samples))
    # Seen shares: 0; 1*12 of 200 = 6%; 4*10 of 80 = half; 6*1 of 490 = 1.2%; 2*1 of 2 = all, too small for the
    # network perhaps, which the affine judges.
    assert out['gt_bboxes_labels'].tolist() == [2, 4]
    assert boxes_of(out).tolist() == [[0, 2, 4, 12], [0, 0, 2, 1]]


def test_mosaic_keeps_boxes_on_their_tile(painter, monkeypatch):
    """An annotation that reaches beyond its image must not spill onto the neighbour."""
    samples = [painter.sample(96, 128) for _ in range(4)]
    samples[0]['gt_bboxes'] = HorizontalBoxes(torch.tensor([[100.0, 60, 150, 120]]))
    samples[0] |= {'gt_bboxes_labels': np.array([3]), 'gt_ignore_flags': np.array([False])}
    monkeypatch.setattr(Mosaic, 'draw', lambda self, rng: (128, 96))
    out = Mosaic(SIZE_HW)(painter.mix(samples))
    assert boxes_of(out).tolist() == [[100, 60, 128, 96]]


def test_mosaic_draws_its_centre_in_the_middle_half():
    rng, mosaic = np.random.RandomState(0), Mosaic((4, 7))
    centres = np.array([mosaic.draw(rng) for _ in range(2000)])
    # x in [3.5, 10.5] -> 4..10, y in [2, 6].
    assert set(centres[:, 0]) == set(range(4, 11)) and set(centres[:, 1]) == set(range(2, 7))


def test_mosaic_partners():
    np.random.seed(0)
    partners = [Mosaic(8, prob=1.0).get_indexes(range(5)) for _ in range(200)]
    assert all(len(p) == 3 for p in partners) and {i for p in partners for i in p} == set(range(5))
    assert Mosaic(8, prob=0.0).get_indexes(range(5)) == []
    drawn = sum(bool(Mosaic(8, prob=0.3).get_indexes(range(5))) for _ in range(2000))
    assert 520 < drawn < 680  # 600 +- 4 sigma of 20.5


@pytest.mark.parametrize('transform', [Mosaic(8), MixUp(0.5)])
def test_not_drawn_means_unchanged(painter, transform):
    results = {**painter.sample(20, 30, [(3, 4, 9, 9)]), 'mix_results': []}
    assert transform(results) is results
    del results['mix_results']
    with pytest.raises(ValueError, match='MixDataset'):
        transform(results)


def extent(channel, threshold):
    """(x1, y1, x2, y2) edges around the pixels above a threshold."""
    rows, columns = np.nonzero(channel > threshold)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


@pytest.mark.parametrize('turned', [{}, {'degrees': 90, 'scale': 0}, {'shear': 10}, {'degrees': 20, 'shear': 5}])
@pytest.mark.parametrize('straight', [{}, {'scale': 0.9}, {'translate': 0.5}])
@pytest.mark.parametrize('input_hw', [SIZE_HW, (192, 256), (60, 128)])
def test_affine_moves_boxes_with_pixels(painter, straight, turned, input_hw):
    """Each box painted into a channel of its own on black, padded black, and found again."""
    height, width = input_hw
    boxes = [(width // 3, height // 4, width // 2, height // 2), (width // 2, height // 2, width - 40, height - 12)]
    sample, exact = painter.sample(height, width, boxes, labels=[0, 1], ignore=[False, True]), 0
    sample['img'] = np.zeros((height, width, 3), np.uint8)
    for channel, (x1, y1, x2, y2) in enumerate(boxes):
        sample['img'][y1:y2, x1:x2, channel] = 255
    for seed in range(20):
        np.random.seed(seed)
        out = RandomAffine(SIZE_HW, **straight | turned, pad_val=0)(copy.deepcopy(sample))
        assert out['img_shape'] == out['img'].shape[:2] == SIZE_HW
        assert (out['gt_ignore_flags'] == (out['gt_bboxes_labels'] == 1)).all()
        for box, label in zip(boxes_of(out), out['gt_bboxes_labels'], strict=True):
            assert (box >= 0).all() and (box <= [128, 96, 128, 96]).all()
            # A bilinear edge passes half its height on the edge; a turned corner is fainter, a quarter at its tip.
            found = extent(out['img'][..., label], 60 if turned else 127)
            beyond = np.where([1, 1, 0, 0], box - found, found - box)
            assert beyond.max() <= 1, (seed, box, found)
            # Of a turned rectangle that is cut off, the part that is seen may reach less far than the cut box.
            if not turned or ((box > 0) & (box < [128, 96, 128, 96])).all():
                assert np.abs(box - found).max() <= 1, (seed, box, found)
                exact += 1
    assert exact >= 5


def test_affine_filters_like_a_loop(painter):
    """Which boxes stay, against DESIGN's rules written out for one box at a time."""
    rng, affine = np.random.RandomState(3), RandomAffine(64, scale=0.5, translate=0.4)
    low = rng.uniform(-50, 80, (200, 2))
    boxes = np.concatenate(
        (low, low + rng.uniform(0.5, 60, (200, 2)) ** rng.choice([0.5, 1], (200, 1))), axis=1
    ).astype(np.float32)
    sample = painter.sample(64, 64) | {
        'gt_bboxes': HorizontalBoxes(boxes), 'gt_bboxes_labels': np.arange(200), 'gt_ignore_flags': np.zeros(200, bool)
    }  # fmt: skip
    np.random.seed(7)
    out = affine(sample)
    matrix = affine.draw(np.random.RandomState(7), (64, 64))
    scale_x, scale_y, dx, dy = matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]
    expected, barely_seen = {}, 0
    for label, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        a, b = np.clip([scale_x * x1 + dx, scale_x * x2 + dx], 0, 64)
        c, d = np.clip([scale_y * y1 + dy, scale_y * y2 + dy], 0, 64)
        share = (b - a) * (d - c) / ((x2 - x1) * (y2 - y1) * scale_x * scale_y)
        barely_seen += b - a > 2 and d - c > 2 and share <= 0.1
        if b - a > 2 and d - c > 2 and share > 0.1 and max((b - a) / (d - c), (d - c) / (b - a)) < 100:
            expected[label] = [a, c, b, d]
    assert 50 < len(expected) < 150 and barely_seen >= 3
    assert out['gt_bboxes_labels'].tolist() == list(expected)
    np.testing.assert_allclose(boxes_of(out), list(expected.values()), atol=1e-4)


def test_affine_draws_in_its_ranges():
    rng, affine = np.random.RandomState(0), RandomAffine(100, scale=0.5, translate=0.1)
    matrices = np.array([affine.draw(rng, (100, 100)) for _ in range(500)])
    scales, shifts = matrices[:, 0, 0], (matrices @ [50, 50, 1])[:, :2] - 50
    # The window of 100 / scale px has each side rounded: 200 +- 1 px and 66.7 +- 1 px at the ends of the range; its
    # centre moves by half a pixel at most, 0.75 px of the output at a scale of 1.5.
    assert 100 / 201 <= scales.min() < 0.53 and 1.47 < scales.max() <= 100 / (100 / 1.5 - 1)
    assert np.abs(shifts).max() <= 10.75 and np.abs(shifts).max(axis=0).min() > 9.5


def test_affine_shows_whole_pixels_unless_it_turns():
    """The corners of the output, led back to the input."""
    rng, corners = np.random.RandomState(0), np.array([[0, 0, 1], [128, 96, 1]]).T
    for options, whole in (({}, True), ({'degrees': 5}, False), ({'shear': 5}, False)):
        affine, distances = RandomAffine(SIZE_HW, **options), []
        for _ in range(50):
            led_back = (np.linalg.inv(affine.draw(rng, (192, 256))) @ corners)[:2]
            distances.append(np.abs(led_back - np.rint(led_back)).max())
        assert max(distances) < 1e-9 if whole else max(distances) > 0.4


def test_mosaic_then_affine_sees_the_middle(painter, quartet):
    """With nothing drawn, the affine cuts the middle S x S out of the canvas, pixel by pixel."""
    np.random.seed(0)
    canvas = Mosaic(SIZE_HW)(painter.mix(quartet[0]))
    out = RandomAffine(SIZE_HW, scale=0, translate=0)(copy.deepcopy(canvas))
    np.testing.assert_array_equal(out['img'], canvas['img'][48:144, 64:192])
    assert_on_pixels(painter, out, quartet[1], tolerance=0)


def test_mixup_blends_and_joins(painter, monkeypatch):
    first = painter.sample(40, 50, [(5, 5, 20, 20)], [200], [0], [True])
    second = painter.sample(40, 50, [(25, 10, 45, 30), (1, 1, 9, 9)], [100, 250], [1, 2], [False, True])
    monkeypatch.setattr(MixUp, 'draw', lambda self, rng: 0.25)
    out = MixUp(1.0)(painter.mix([first, second]))
    assert out['img'][35, 5, 0] == 30  # background of both
    assert out['img'][15, 15, 0] == 72  # 0.25 * 200 + 0.75 * 30 = 72.5, to even
    assert out['img'][20, 30, 0] == 82  # 0.25 * 30 + 0.75 * 100 = 82.5, to even
    assert boxes_of(out).tolist() == [[5, 5, 20, 20], [25, 10, 45, 30], [1, 1, 9, 9]]
    assert out['gt_bboxes_labels'].tolist() == [0, 1, 2] and out['gt_ignore_flags'].tolist() == [True, False, True]


def test_mixup_draws():
    rng = np.random.RandomState(0)
    shares = np.array([MixUp(1.0).draw(rng) for _ in range(3000)])
    # Beta(32, 32): mean 1/2, variance 1 / (4 * 65).
    assert shares.mean() == pytest.approx(0.5, abs=0.005) and shares.std() == pytest.approx(260**-0.5, rel=0.05)
    assert MixUp(0.0).get_indexes(range(9)) == [] and len(MixUp(1.0).get_indexes(range(9))) == 1


def test_mixup_of_two_sizes_is_refused(painter):
    with pytest.raises(ValueError, match=r'\(40, 50\) and \(41, 50\)'):
        MixUp(1.0)(painter.mix([painter.sample(40, 50), painter.sample(41, 50)]))


def test_hsv_changes_colour_alone(painter):
    results = painter.sample(20, 20, [(2, 2, 9, 9)])
    results['img'] = np.random.RandomState(0).randint(0, 256, (20, 20, 3), dtype=np.uint8)
    before = copy.deepcopy(results)
    np.random.seed(0)
    out = HSVJitter()(results)
    assert (out['img'] != before['img']).any()
    np.testing.assert_array_equal(results['img'], before['img'])
    assert boxes_of(out).tolist() == boxes_of(before).tolist()
    gains = np.array([HSVJitter().draw(np.random.RandomState(k)) for k in range(500)])
    assert (np.abs(gains - 1).max(axis=0) <= (0.015, 0.7, 0.4)).all()
    assert (np.abs(gains - 1).max(axis=0) > (0.014, 0.68, 0.38)).all()
