"""Mosaic and affine in one pass, against the two one after the other."""

import copy

import cv2
import numpy as np
import pytest

from mmyolo_ext.datasets.transforms import Mosaic, MosaicAffine, RandomAffine
from mmyolo_ext.datasets.transforms import tiles as T
from mmyolo_ext.datasets.transforms.annotations import Annotations
from mmyolo_ext.datasets.transforms.functional import affine_about_centre
from mmyolo_ext.registry import DATASETS, TRANSFORMS

SIZE_HW = (96, 128)
STRAIGHT = [{}, {'scale': 0.9}, {'translate': 0.5}, {'scale': 0, 'translate': 0}]
TURNED = [{'degrees': 30}, {'shear': 15}, {'degrees': 180, 'shear': 5, 'scale': 0.7}]


def resized(sample, size_hw):
    """The image fitted into ``size_hw`` by mmdet."""
    height, width = sample['img'].shape[:2]
    ratio = min(size_hw[0] / height, size_hw[1] / width)
    scale = (int(width * ratio + 0.5), int(height * ratio + 0.5))
    resize = TRANSFORMS.build({'type': 'mmdet.Resize', 'scale': scale, 'keep_ratio': False})
    return resize(copy.deepcopy(sample))


def unfused(samples, size, options):
    """Resize, mosaic, affine; the generator's state after them."""
    samples = [resized(sample, size) for sample in samples]
    results = {**samples[0], 'mix_results': samples[1:]}
    results = RandomAffine(size, **options)(Mosaic(size)(results))
    return results, np.random.get_state()[1].tolist()


def fused(samples, size, options):
    results = MosaicAffine(size, **options)({**samples[0], 'mix_results': samples[1:]})
    return results, np.random.get_state()[1].tolist()


def compare(painter, samples, size_hw, options, seed):
    """The mean difference of the two in grey levels; their boxes, labels and draws must be the same."""
    np.random.seed(seed)
    slow, slow_state = unfused(samples, size_hw, options)
    np.random.seed(seed)
    fast, fast_state = fused(samples, size_hw, options)
    assert fast_state == slow_state
    assert fast['img'].shape == slow['img'].shape == (*size_hw, 3) and fast['img_shape'] == size_hw
    assert fast['gt_bboxes_labels'].tolist() == slow['gt_bboxes_labels'].tolist()
    assert fast['gt_ignore_flags'].tolist() == slow['gt_ignore_flags'].tolist()
    np.testing.assert_allclose(fast['gt_bboxes'].tensor, slow['gt_bboxes'].tensor, atol=0.01)
    return np.abs(fast['img'].astype(int) - slow['img']).mean(), len(fast['gt_bboxes'])


def smooth_quartet(painter, shapes_hw):
    """Four images of blurred noise, as smooth as photographs, with three boxes each."""
    rng, samples = np.random.RandomState(0), []
    for k, (height, width) in enumerate(shapes_hw):
        corners = rng.uniform(0, 0.7, (3, 2)) * (width, height)
        boxes = np.concatenate((corners, corners + rng.uniform(0.1, 0.3, (3, 2)) * (width, height)), axis=1)
        sample = painter.sample(height, width, boxes.astype(int).tolist(), labels=range(3 * k, 3 * k + 3))
        noise = rng.randint(0, 256, (height, width, 3)).astype(np.uint8)
        sample['img'] = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
        samples.append(sample)
    return samples


@pytest.mark.parametrize('options', STRAIGHT)
def test_straight_is_the_same_to_the_bit(painter, options):
    """Images of the size they are to have: the window is cut and resized here and there."""
    samples = smooth_quartet(painter, [(96, 128), (72, 128), (96, 60), (96, 110)])
    differences, boxes = zip(*(compare(painter, samples, SIZE_HW, options, seed) for seed in range(30)), strict=True)
    assert max(differences) == 0 and sum(boxes) > 60


@pytest.mark.parametrize('options', TURNED)
def test_turned_differs_by_interpolation(painter, options):
    """At the seams and the rims alone, where a pixel belongs to one image and is not blended with the next."""
    samples = smooth_quartet(painter, [(96, 128), (72, 128), (96, 60), (96, 110)])
    differences, boxes = zip(*(compare(painter, samples, SIZE_HW, options, seed) for seed in range(30)), strict=True)
    assert max(differences) < 2 and sum(boxes) > 60


@pytest.mark.parametrize('options', STRAIGHT + TURNED)
def test_enlarged_differs_by_interpolation(painter, options):
    """Small images of several sizes: one interpolation instead of two."""
    samples = smooth_quartet(painter, [(48, 64), (50, 90), (80, 50), (96, 128)])
    differences, boxes = zip(*(compare(painter, samples, SIZE_HW, options, seed) for seed in range(30)), strict=True)
    assert max(differences) < 2 and sum(boxes) > 60


@pytest.mark.parametrize('degrees', [0, 10])
@pytest.mark.parametrize('size', [640, 320, 800])
def test_on_real_images(painter, bccd_config, degrees, size):
    """640 x 480 photographs, kept, halved and enlarged."""
    load = [{'type': 'mmyolo_ext.LoadImage'}]
    loaded = DATASETS.build(
        {'type': 'mmyolo_ext.CachedDataset', 'dataset': bccd_config('train', pipeline=load), 'size': size}
    )
    for seed in range(4):
        samples = [loaded[4 * seed + k] for k in range(4)]
        difference, boxes = compare(painter, samples, (size, size), {'degrees': degrees}, seed)
        assert difference < 2 and boxes > 0


@pytest.mark.parametrize('enlarged', [False, True])
@pytest.mark.parametrize('options', [{}, {'scale': 0.9}, {'translate': 0.5}])
def test_boxes_lie_on_their_pixels(painter, options, enlarged):
    """A white rectangle on black, found again, whichever way the pixels went."""
    height, width = (48, 64) if enlarged else SIZE_HW
    box = (width // 4, height // 4, width - width // 4, height - height // 4)
    samples, found_boxes = [painter.sample(height, width, [box], [255])] + [painter.sample(height, width)] * 3, 0
    for sample in samples:
        sample['img'][sample['img'] < 255] = 0
    for seed in range(20):
        np.random.seed(seed)
        out = MosaicAffine(SIZE_HW, **options, pad_val=0)({**samples[0], 'mix_results': samples[1:]})
        for found_box in out['gt_bboxes'].tensor.numpy():
            rows, columns = np.nonzero(out['img'][..., 0] > 127)
            pixels = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            assert np.abs(found_box - pixels).max() <= 1, (seed, found_box, pixels)
            found_boxes += 1
    assert found_boxes > 5


def test_a_warped_tile_keeps_to_its_place(painter):
    """One white tile, the others black: white exactly where the affine takes its rectangle, to half a pixel."""
    black = np.zeros((96, 128, 3), np.uint8)
    white = np.full((48, 64, 3), 255, np.uint8)  # enlarged twofold, so the window cannot be composed
    images, resized_hw = [black, white, black, black], [(96, 128)] * 4
    tiles = T.place_tiles(resized_hw, (128, 96), (192, 256))
    # Halved: the canvas of 256 x 192 on 128 x 96; the second tile, x 128..256, y 0..96, on x 64..128, y 0..48.
    out = T.warp_tiles(images, tiles, resized_hw, np.diag([0.5, 0.5, 1.0]), SIZE_HW, 114)
    expected = np.zeros((96, 128, 3), np.uint8)
    expected[:48, 64:] = 255
    np.testing.assert_array_equal(out, expected)


def test_a_pixel_belongs_to_the_tile_that_holds_its_centre():
    """Two tiles that meet at x = 64.3 and 64.7: the centre of column 64 is 64.5."""
    images = [np.full((48, 64, 3), level, np.uint8) for level in (0, 255, 0, 255)]
    resized_hw = [(96, 128)] * 4
    tiles = T.place_tiles(resized_hw, (128, 96), (192, 256))
    for shift, first_white in ((0.3, 64), (0.7, 65)):
        matrix = np.array([[0.5, 0, shift], [0, 0.5, 0], [0, 0, 1]])
        (row,) = np.unique(T.warp_tiles(images, tiles, resized_hw, matrix, SIZE_HW, 0)[..., 0], axis=0)
        assert row[:first_white].max() == 0 and row[first_white:].min() == 255


@pytest.mark.parametrize('turn', [0, 1e-9])
def test_what_the_canvas_cuts_off_is_dropped(turn):
    """The point at (64, 48) shows the first image from its column 64 and row 48 on; the canvas comes out halved."""
    boxes = np.array([[0, 0, 70, 60], [40, 30, 110, 90]], np.float32)
    own = Annotations(boxes, np.array([3, 4]), np.array([False, True]))
    none = own.moved(boxes, slice(0))
    tiles = T.place_tiles([(96, 128)] * 4, (64, 48), (192, 256))
    matrix = np.array([[0.5, turn, 0], [0, 0.5, 0], [0, 0, 1]])
    seen = T.warp_tile_annotations([own, none, none, none], tiles, [(1, 1)] * 4, matrix, SIZE_HW)
    # Of the first 6 x 12 = 72 of 4,200 are seen, 3 x 6 px; of the second 46 x 42 = 1,932 of 4,200.
    assert seen.labels.tolist() == [4] and seen.ignore.tolist() == [True]
    np.testing.assert_allclose(seen.boxes_xyxy, [[0, 0, 23, 21]], atol=1e-5)


@pytest.mark.parametrize('options', [{'degrees': 30}, {'shear': 20}, {'degrees': 45, 'scale_up': 1.7}])
def test_no_gap_between_turned_tiles(options):
    """Four white images leave no grey where they meet."""
    images, resized_hw = [np.full((60, 90, 3), 255, np.uint8)] * 4, [(96, 128)] * 4
    tiles = T.place_tiles(resized_hw, (128, 96), (192, 256))
    shear, scale = options.get('shear', 0), options.get('scale_up', 1)
    matrix = affine_about_centre(
        (192, 256), SIZE_HW, scale=scale, degrees=options.get('degrees', 0), shear_xy=(shear, shear)
    )
    assert T.warp_tiles(images, tiles, resized_hw, matrix, SIZE_HW, 114).min() == 255


def test_without_a_mosaic_the_affine_alone(painter):
    (sample,) = smooth_quartet(painter, [(72, 128)])
    for options in ({}, {'degrees': 10}):
        np.random.seed(3)
        expected = RandomAffine(SIZE_HW, **options)(copy.deepcopy(sample))
        np.random.seed(3)
        out = MosaicAffine(SIZE_HW, **options)({**sample, 'mix_results': []})
        np.testing.assert_allclose(out['gt_bboxes'].tensor, expected['gt_bboxes'].tensor, atol=0.01)
        assert np.abs(out['img'].astype(int) - expected['img']).mean() < (2 if options else 1e-9)


def test_stopped_draws_no_partners():
    transform = MosaicAffine(SIZE_HW)
    assert len(transform.get_indexes(range(9))) == 3
    transform.stop_mixing()
    np.random.seed(0)
    first = np.random.rand()
    np.random.seed(0)
    assert transform.get_indexes(range(9)) == [] and np.random.rand() == first


def test_outside_a_mixing_data_set_it_says_so(painter):
    with pytest.raises(ValueError, match='MixDataset'):
        MosaicAffine(SIZE_HW)(painter.sample(20, 30))
