"""Boxes copied with their pixels: where they lie, what they cover, what is left alone."""

import copy

import numpy as np
import pytest

from mmyolo_ext.datasets.transforms import BoxCopyPaste
from mmyolo_ext.datasets.transforms.annotations import Annotations
from mmyolo_ext.datasets.transforms.box_copy_paste import largest_overlap, paste_boxes, whole_pixels
from mmyolo_ext.registry import DATASETS, TRANSFORMS

BOX = (10, 20, 22, 30)


def run(transform, sample, partners=(), seed=0):
    np.random.seed(seed)
    return transform({**copy.deepcopy(sample), 'mix_results': copy.deepcopy(list(partners))})


def ious_of_smaller(boxes):
    """Shared area over that of the smaller, of each pair, one by one."""
    shares = []
    for k, (a1, b1, a2, b2) in enumerate(boxes):
        for c1, d1, c2, d2 in boxes[:k]:
            shared = max(min(a2, c2) - max(a1, c1), 0) * max(min(b2, d2) - max(b1, d1), 0)
            shares.append(shared / min((a2 - a1) * (b2 - b1), (c2 - c1) * (d2 - d1)))
    return shares


@pytest.mark.parametrize('max_overlap', [0.0, 0.3])
def test_copies_lie_on_their_pixels_and_in_free_places(painter, max_overlap):
    sample = painter.sample(61, 90, [BOX, (50, 5, 70, 40)], [200, 100], labels=[3, 5])
    transform, copies = BoxCopyPaste(1.0, max_copies=4, max_overlap=max_overlap), 0
    for seed in range(30):
        out = run(transform, sample, seed=seed)
        boxes = out['gt_bboxes'].tensor.numpy()
        assert boxes[:2].tolist() == [list(BOX), [50, 5, 70, 40]] and out['img'].shape == (61, 90, 3)
        assert max(ious_of_smaller(boxes.tolist())) <= max_overlap + 1e-6
        for (x1, y1, x2, y2), label in zip(boxes[2:].astype(int), out['gt_bboxes_labels'][2:], strict=True):
            assert (x2 - x1, y2 - y1) == {3: (12, 10), 5: (20, 35)}[label] and x1 >= 0 <= y1 and x2 <= 90 and y2 <= 61
            if max_overlap == 0:
                assert (out['img'][y1:y2, x1:x2] == {3: 200, 5: 100}[label]).all()
        copies += len(boxes) - 2
        if max_overlap == 0:  # no pixel but theirs has changed
            covered = sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes.tolist())
            assert (out['img'][..., 0] != 30).sum() == covered
    assert copies > 30


def test_a_copy_to_the_pixel():
    """The box from 2.5 to 5.25 takes the columns 2..5 with it; six to the right, one up."""
    partner = np.arange(10 * 12 * 3, dtype=np.uint16).reshape(10, 12, 3).astype(np.uint8)
    source = Annotations(np.array([[2.5, 3, 5.25, 6]], np.float32), np.array([4]), np.array([False]))
    assert whole_pixels(source.boxes_xyxy, (10, 12)).tolist() == [[2, 3, 6, 6]]
    present = Annotations(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))
    blank = np.zeros((10, 12, 3), np.uint8)
    image, annotations = paste_boxes(blank, present, partner, source, [(0, (6, -1))])
    assert annotations.boxes_xyxy.tolist() == [[8.5, 2, 11.25, 5]] and annotations.labels.tolist() == [4]
    expected = blank.copy()
    expected[2:5, 8:12] = partner[3:6, 2:6]
    np.testing.assert_array_equal(image, expected)
    assert not blank.any()


def test_a_box_over_the_border_is_cut():
    source = Annotations(np.array([[-3.0, 2, 4, 30]], np.float32), np.array([0]), np.array([False]))
    assert whole_pixels(source.boxes_xyxy, (20, 20)).tolist() == [[0, 2, 4, 20]]
    image = np.zeros((20, 20, 3), np.uint8)
    _, annotations = paste_boxes(image, source, image, source, [(0, (10, 0))])
    assert annotations.boxes_xyxy[1].tolist() == [10, 2, 14, 20]


def test_from_a_partner(painter):
    sample, partner = painter.sample(40, 50), painter.sample(60, 30, [BOX], [180], labels=[7])
    out = run(BoxCopyPaste(1.0, max_copies=1, source='partner'), sample, [partner])
    assert out['gt_bboxes_labels'].tolist() == [7]
    assert painter.find(out['img'], 180) == tuple(out['gt_bboxes'].tensor[0].int().tolist())
    assert run(BoxCopyPaste(1.0, source='partner'), sample)['img'].tolist() == sample['img'].tolist()


@pytest.mark.parametrize(
    ('boxes', 'options'),
    [
        ([], {}),
        ([BOX], {'labels': [1]}),
        ([BOX], {'max_side': 11}),
        ([(0, 0, 50, 40)], {}),  # no free place for it
        ([(5, 5, 6, 20)], {}),  # one pixel wide
        ([BOX, (12, 20, 22, 30)], {}),  # each shows the other
    ],
)
def test_nothing_to_copy_leaves_the_sample(painter, boxes, options):
    sample = painter.sample(40, 50, boxes, labels=[0] * len(boxes))
    for seed in range(5):
        np.random.seed(seed)
        given = {**sample, 'mix_results': []}
        assert BoxCopyPaste(1.0, max_overlap=0.0, **options)(given) is given


def test_ignored_boxes_are_not_copied(painter):
    sample = painter.sample(60, 80, [BOX, (40, 20, 50, 30)], [200, 100], ignore=[True, False])
    labels = [k for seed in range(10) for k in run(BoxCopyPaste(1.0), sample, seed=seed)['gt_bboxes_labels'][2:]]
    assert set(labels) == {1}


def test_how_often_and_how_many(painter):
    sample = painter.sample(200, 200, [BOX], [200])
    counts = [len(run(BoxCopyPaste(0.3, max_copies=2), sample, seed=k)['gt_bboxes']) - 1 for k in range(400)]
    assert set(counts) == {0, 1, 2}
    assert 84 < sum(map(bool, counts)) < 156  # 120 +- 4 sigma of 9.2
    partner = BoxCopyPaste(0.3, source='partner')
    np.random.seed(0)
    drawn = [partner.get_indexes(range(5)) for _ in range(400)]
    assert 84 < sum(map(bool, drawn)) < 156 and {k for one in drawn for k in one} == set(range(5))
    assert BoxCopyPaste(1.0).get_indexes(range(5)) == []


def test_what_covers_what():
    box = np.array([0.0, 0, 10, 10])
    others = np.array([[5.0, 0, 15, 10], [8, 8, 12, 10], [20, 20, 30, 30]])
    # 50 of 100; 2 x 2 = 4 of the smaller's 8
    assert largest_overlap(box, others[:1]) == 0.5 and largest_overlap(box, others[1:2]) == 0.5
    assert largest_overlap(box, others[2:]) == 0 == largest_overlap(box, others[:0])
    assert largest_overlap(np.array([8.0, 0, 18, 10]), np.array([[0.0, 0, 10, 10], [0, 0, 9, 10]])) == 0.2


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'prob': 2}, r'prob must be in \[0, 1\]'),
        ({'max_copies': 0}, r'max_copies must be in \[1, inf\], got 0'),
        ({'source': 'other'}, r"source must be one of \('image', 'partner'\), got 'other'"),
        ({'labels': []}, 'labels must be None or a list'),
        ({'labels': 'RBC'}, "got 'RBC'"),
        ({'max_side': 0}, 'max_side'),
        ({'max_overlap': 1.5}, 'max_overlap'),
    ],
)
def test_nonsense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        BoxCopyPaste(**options)


def test_outside_a_mixing_data_set_a_partner_is_missing(painter):
    with pytest.raises(ValueError, match='no mix_results'):
        BoxCopyPaste(1.0, source='partner')(painter.sample(20, 30))


@pytest.mark.parametrize('source', ['image', 'partner'])
def test_in_a_data_set_ahead_of_the_mosaic(coco_config, source):
    cached = {'type': 'mmyolo_ext.CachedDataset', 'size': 32,
                'dataset': coco_config(pipeline=[{'type': 'mmyolo_ext.LoadImage'}])}  # fmt: skip
    paste = {'type': 'mmyolo_ext.BoxCopyPaste', 'prob': 1.0, 'source': source, 'max_copies': 5, 'max_overlap': 0.5}
    mix = {'type': 'mmyolo_ext.MixDataset'}
    inner = {**mix, 'dataset': cached, 'pipeline': [paste]}
    pack = {'type': 'mmyolo_ext.PackInputs', 'meta_keys': ('img_id',)}
    mosaic = [{'type': 'mmyolo_ext.MosaicAffine', 'size': 32}, pack]
    seeded = {'type': 'mmyolo_ext.SeededDataset', 'dataset': {**mix, 'dataset': inner, 'pipeline': mosaic}}
    dataset = DATASETS.build(seeded)
    plain = DATASETS.build(
        {'type': 'mmyolo_ext.SeededDataset', 'dataset': {**mix, 'dataset': cached, 'pipeline': mosaic}}
    )
    counts = [sum(len(one[i]['data_samples'].gt_instances) for i in range(12)) for one in (dataset, plain)]
    assert counts[0] > counts[1] + 6
    dataset.close_mosaic()
    assert all(len(dataset[i]['data_samples'].gt_instances) <= len(dataset.get_data_info(i)['instances'])
               for i in range(12))  # fmt: skip


def test_it_is_registered():
    assert TRANSFORMS.get('mmyolo_ext.BoxCopyPaste') is BoxCopyPaste
