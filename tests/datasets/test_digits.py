"""The digits data set: same bytes for the same seed, honest boxes, honest splits, limits kept."""

import hashlib
import json
from itertools import combinations

import cv2
import numpy as np
import pytest

from mmyolo_ext.datasets import digit_scenes as scenes
from mmyolo_ext.datasets import digits
from mmyolo_ext.datasets.digit_scenes import KINDS, LUMA_BGR, draw_background, luma, luma_range, render_background

SIZE = 160


@pytest.fixture(scope='module')
def scans():
    return digits.load_scans()


@pytest.fixture(scope='module')
def pools(scans):
    return digits.split_scans(*scans, seed=0)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'digits'
    assert digits.make_digits(out, train=40, val=20, test=10, size=SIZE, seed=3)
    return out


@pytest.fixture(scope='module')
def drawn(scans, pools):
    """Two hundred scenes of the training split: image, digits, background and quality of each."""
    rngs = (digits.scene_rng(0, 'train', index) for index in range(200))
    return [scenes.make_scene(rng, scans[0], pools['train'], SIZE) for rng in rngs]


def digest(folder):
    names = sorted(path for path in folder.rglob('*') if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in names}


def test_same_bytes_for_same_seed_and_others_for_another(made, tmp_path):
    digits.make_digits(tmp_path / 'again', train=40, val=20, test=10, size=SIZE, seed=3)
    assert digest(tmp_path / 'again') == digest(made)
    digits.make_digits(tmp_path / 'other', train=8, val=4, test=2, size=SIZE, seed=4)
    assert not set(digest(tmp_path / 'other').values()) & set(digest(made).values())


def test_a_scene_depends_on_its_index_alone(made, tmp_path):
    digits.make_digits(tmp_path / 'short', train=7, val=3, test=1, size=SIZE, seed=3)
    assert (tmp_path / 'short/train/000006.jpg').read_bytes() == (made / 'train/000006.jpg').read_bytes()


def test_no_scan_in_two_splits(made, pools):
    used = {
        split: {box['scan'] for box in json.loads((made / f'annotations/{split}.json').read_text())['annotations']}
        for split in digits.SPLITS
    }
    assert all(used.values()) and not any(used[a] & used[b] for a, b in combinations(digits.SPLITS, 2))
    parts = {split: np.concatenate(pools[split]) for split in digits.SPLITS}
    # 1797 scans less the 24 that most of their neighbours contradict.
    assert len(np.unique(np.concatenate(list(parts.values())))) == sum(map(len, parts.values())) == 1773
    assert len(parts['val']) == len(parts['test']) == pytest.approx(0.1 * 1773, abs=5)


def test_labels_are_those_of_the_scans(made, scans):
    boxes = json.loads((made / 'annotations/train.json').read_text())['annotations']
    assert all(box['category_id'] == scans[1][box['scan']] for box in boxes)
    assert {box['category_id'] for box in boxes} == set(range(10))


def test_coco_file_fits_the_images(made):
    coco = json.loads((made / 'annotations/val.json').read_text())
    assert [category['name'] for category in coco['categories']] == list('0123456789')
    assert [image['id'] for image in coco['images']] == list(range(20))
    for image in coco['images']:
        assert cv2.imread(str(made / 'val' / image['file_name'])).shape == (SIZE, SIZE, 3)
    for box in coco['annotations']:
        x, y, w, h = box['bbox']
        assert x >= 0 and y >= 0 and x + w <= SIZE and y + h <= SIZE and box['area'] == w * h
    assert len({box['id'] for box in coco['annotations']}) == len(coco['annotations'])


def test_boxes_are_tight_around_the_ink_of_the_image(drawn):
    """Found again from pixels: a digit put alone on a flat ground changes just the pixels of its box."""
    for digit in [digit for _, placed, _, _ in drawn[:30] for digit in placed]:
        image = np.full((SIZE, SIZE, 3), 200, np.float32)
        scenes.paste_digit(image, {**digit, 'bgr': (0.0,) * 3})
        # Black ink of opacity 0.3 on 200 leaves 200 * (1 - 0.3) = 140.
        rows, columns = np.nonzero(np.rint(image[..., 0]) <= 140)
        assert digit['box'] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_sizes_keep_the_limits_and_use_them(drawn):
    boxes = np.array([digit['box'] for _, placed, _, _ in drawn for digit in placed])
    sides = (boxes[:, 2:] - boxes[:, :2]).max(1)
    assert sides.min() >= 18 and sides.max() <= 60
    assert sides.min() <= 20 and sides.max() >= 58


def test_digits_overlap_and_touch_within_the_limits(drawn):
    """Slow count on whole-image masks."""
    box_shares, ink_shares = [], []
    for _, placed, _, _ in drawn[:80]:
        masks = np.zeros((len(placed), SIZE, SIZE), bool)
        for mask, digit in zip(masks, placed, strict=True):
            ink, left, top = digit['alpha'] >= scenes.INK, digit['left'], digit['top']
            mask[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
        for a, b in combinations(masks, 2):
            filled = [np.outer(mask.any(1), mask.any(0)) for mask in (a, b)]
            box_shares.append((filled[0] & filled[1]).sum() / min(side.sum() for side in filled))
            ink_shares.append((a & b).sum() / min(a.sum(), b.sum()))
    assert max(box_shares) <= scenes.MAX_BOX_OVERLAP and max(ink_shares) <= scenes.MAX_INK_OVERLAP
    assert (np.array(box_shares) > 0).sum() > 20 and (np.array(ink_shares) > 0).sum() > 3


def test_some_scenes_are_empty_and_show_the_background_alone(drawn):
    empty = [(image, background) for image, placed, background, _ in drawn if not placed]
    assert 3 <= len(empty) <= 30  # 200 scenes at 6 %: 12 expected
    plain = [np.array_equal(image, np.rint(render_background(SIZE, **background))) for image, background in empty]
    assert 0 < sum(plain) < len(plain)  # three of eight scenes are not blurred


def test_digits_stand_out_both_ways(drawn):
    """Every digit is ``MIN_CONTRAST`` darker or lighter than all of its background."""
    ways = set()
    for _, placed, background, _ in drawn:
        low, high = luma_range(background)
        for digit in placed:
            value = luma(digit['bgr'])
            assert low - value >= scenes.MIN_CONTRAST - 1e-6 or value - high >= scenes.MIN_CONTRAST - 1e-6
            ways.add(value < low)
    assert ways == {True, False}


def test_backgrounds_are_varied_and_keep_their_range():
    drawn = [draw_background(np.random.default_rng(index)) for index in range(200)]
    assert {background['kind'] for background in drawn} == set(KINDS)
    for background in drawn[:60]:
        lumas = render_background(64, **{**background, 'grain': 0.0}) @ LUMA_BGR
        low, high = luma_range(background)
        assert lumas.min() >= low - 0.1 and lumas.max() <= high + 0.1


def test_rerun_starts_at_once_and_a_changed_argument_rebuilds(tmp_path):
    out = tmp_path / 'a folder' / 'digits'
    assert digits.make_digits(out, train=2, val=1, test=1)
    before = (out / 'train/000000.jpg').stat().st_mtime_ns
    assert not digits.make_digits(out, train=2, val=1, test=1)
    assert (out / 'train/000000.jpg').stat().st_mtime_ns == before
    assert digits.make_digits(out, train=3, val=1, test=1)
    assert len(list((out / 'train').iterdir())) == 3
    assert [path.name for path in out.parent.iterdir()] == ['digits']


def test_a_failed_run_leaves_the_old_data_and_no_rest(tmp_path, monkeypatch):
    out = tmp_path / 'digits'
    digits.make_digits(out, train=2, val=1, test=1)
    before = digest(out)
    monkeypatch.setattr(digits, 'make_scene', lambda *_: (_ for _ in ()).throw(OSError('disk full')))
    with pytest.raises(OSError, match='disk full'):
        digits.make_digits(out, train=5, val=1, test=1)
    assert digest(out) == before and [path.name for path in tmp_path.iterdir()] == ['digits']


@pytest.mark.parametrize('wrong', [{'train': 0}, {'val': 0}, {'test': 0}, {'size': 100}, {'seed': -1}])
def test_senseless_arguments_are_named(tmp_path, wrong):
    with pytest.raises(ValueError, match=f'{next(iter(wrong))}={next(iter(wrong.values()))}'):
        digits.make_digits(tmp_path / 'digits', **wrong)


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / 'thesis.txt').write_text('three years')
    with pytest.raises(ValueError, match='choose another folder'):
        digits.make_digits(tmp_path, train=1, val=1, test=1)
    assert (tmp_path / 'thesis.txt').read_text() == 'three years'
