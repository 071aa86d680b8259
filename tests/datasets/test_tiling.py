"""Tiles of large images: geometry, merging of detections across borders, and the dataset of tiles."""

import json

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from rank_processes import run_ranks
from torch import distributed

from mmyolo_ext.datasets import CachedDataset, CheckedCocoDataset, RectBatchDataset, TiledDataset
from mmyolo_ext.evaluation import TiledCocoMetric
from mmyolo_ext.tiling import merge, tiles, weighted_box_fusion

CLASSES = ('red', 'blue')


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


@pytest.mark.parametrize('overlap', [0.0, 0.2, 0.4])
@pytest.mark.parametrize(('noisy', 'merge_by'), [(False, 'nms'), (True, 'nms'), (True, 'wbf')])
def test_an_object_across_borders_is_one_box(overlap, noisy, merge_by):
    """200 random objects, up to 1.5 tiles long, each across at least one border: one box each, at its place."""
    generator = np.random.default_rng(0)
    image_hw, size = (960, 1280), 320  # whole tiles: an overlap of 0 leaves them with a common border only
    places = tiles(*image_hw, size, overlap)
    borders = sorted({x for x, *_ in places} | {x + w for x, _, w, _ in places} - {0})
    exact = 0
    for _ in range(200):
        width, height = generator.uniform(20, 480, 2)
        border = generator.choice([border for border in borders if 0 < border < image_hw[1]])
        x1 = np.clip(border - generator.uniform(0.1, 0.9) * width, 0, image_hw[1] - width)
        y1 = generator.uniform(0, image_hw[0] - height)
        truth = np.array([[x1, y1, x1 + width, y1 + height, 1]])
        boxes, scores, labels = merge(
            visible(truth, places, generator if noisy else None), places, image_hw, merge_by=merge_by
        )
        assert len(boxes) == len(scores) == len(labels) == 1 and labels[0] == 1
        exact += np.abs(boxes[0] - truth[0, :4]).max() < (5 if noisy else 2.01)
    assert exact == 200


def test_a_crowd_keeps_its_objects():
    """Objects side by side, of two classes, of up to a tile: as many boxes as objects, each at its place."""
    generator = np.random.default_rng(1)
    image_hw = (1000, 1400)
    places = tiles(*image_hw, 320, 0.2)
    for cell in (40, 90, 250):  # objects touch in both directions: cell by cell, shrunk by at most a fifth
        corners = [(x, y) for y in range(0, 1000 - cell, cell) for x in range(0, 1400 - cell, cell)]
        corners = np.array(corners, float)
        sides = cell * generator.uniform(0.8, 1, corners.shape)
        truth = np.concatenate([corners, corners + sides, generator.integers(0, 2, (len(corners), 1))], axis=1)
        boxes, _, labels = merge(visible(truth, places), places, image_hw)
        assert len(boxes) == len(truth)
        for box, label in zip(boxes, labels, strict=True):
            assert (np.abs(truth - [*box, label]).max(1) <= 2).sum() == 1


def test_weighted_box_fusion():
    # the paper's steps by hand, best first: 0.9 and 0.6 overlap by 8 / 12, so their box is (0.9 * 0 + 0.6 * 2) / 1.5
    # = 0.8 to 10.8; 0.3 overlaps that by 7.8 / 12.2 = 0.64, but 0.9 by only 7 / 13 = 0.54; another class stays alone
    boxes = np.array([[0.0, 0, 10, 10], [2, 0, 12, 10], [3, 0, 13, 10], [0, 0, 10, 10]])
    found = weighted_box_fusion(boxes, np.array([0.9, 0.6, 0.3, 0.4]), np.array([0, 0, 0, 1]), 0.6)
    x1 = (0.9 * 0 + 0.6 * 2 + 0.3 * 3) / 1.8
    np.testing.assert_allclose(found[0], [[x1, 0, x1 + 10, 10], [0, 0, 10, 10]])
    np.testing.assert_allclose(found[1], [0.9, 0.4])
    assert found[2].tolist() == [0, 1]


def fused_slowly(boxes, scores, labels, iou_thr):
    clusters = []
    for one in sorted(zip(scores.tolist(), boxes.tolist(), labels.tolist(), strict=True), reverse=True):
        best, own = iou_thr, None
        for cluster in clusters:
            (a, b, c, d), (x, y, z, w) = cluster['box'], one[1]
            shared = max(min(c, z) - max(a, x), 0) * max(min(d, w) - max(b, y), 0)
            iou = shared / ((c - a) * (d - b) + (z - x) * (w - y) - shared)
            if cluster['label'] == one[2] and iou > best:
                best, own = iou, cluster
        if own is None:
            own = {'label': one[2], 'members': []}
            clusters.append(own)
        own['members'].append(one)
        total = sum(score for score, _, _ in own['members'])
        own['box'] = [sum(score * box[side] for score, box, _ in own['members']) / total for side in range(4)]
    return sorted((max(score for score, _, _ in one['members']), one['label'], one['box']) for one in clusters)


def boxes_in_groups():
    generator = np.random.default_rng(2)
    centres = generator.uniform(20, 200, (25, 2))[generator.integers(0, 25, 120)] + generator.normal(0, 4, (120, 2))
    sides = generator.uniform(20, 40, (120, 2))
    boxes = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
    return boxes, generator.uniform(0.01, 1, 120), generator.integers(0, 2, 120)


@pytest.mark.parametrize('iou_thr', [0.3, 0.55, 0.75])
def test_weighted_box_fusion_by_a_slow_loop(iou_thr):
    slow = fused_slowly(*boxes_in_groups(), iou_thr)
    found = weighted_box_fusion(*boxes_in_groups(), iou_thr)
    assert 20 < len(slow) == len(found[1]) < 120 and (np.diff(found[1]) <= 0).all()
    for (score, label, box), index in zip(slow, np.lexsort((found[2], found[1])), strict=True):
        assert label == found[2][index] and score == pytest.approx(found[1][index])
        np.testing.assert_allclose(found[0][index], box)


def test_weighted_box_fusion_by_another_package():
    reference = pytest.importorskip('ensemble_boxes.ensemble_boxes_wbf', reason='ensemble-boxes is not installed')
    boxes, scores, labels = boxes_in_groups()
    found = weighted_box_fusion(boxes, scores, labels, 0.55)
    theirs = reference.weighted_boxes_fusion([boxes / 400], [scores], [labels], iou_thr=0.55, conf_type='max')
    np.testing.assert_allclose(np.sort(theirs[1]), np.sort(found[1]), atol=1e-6)
    np.testing.assert_allclose(np.sort(theirs[0], 0) * 400, np.sort(found[0], 0), atol=1e-3)


def test_classes_scores_and_parts():
    places = [(0, 0, 100, 100), (80, 0, 100, 100)]
    left = (np.array([[60.0, 10, 100, 50]]), np.array([0.6]), np.array([0]))
    # x 80..120 of the image, so both are parts of 60..120; the best score counts
    boxes, scores, _ = merge([left, ([[0, 10, 40, 50]], [0.8], [0])], places, (100, 180))
    np.testing.assert_allclose(boxes, [[60, 10, 120, 50]])
    assert scores[0] == np.float32(0.8)
    # of another class, or far below in score: two objects; a weak part does not enlarge the box of a strong one
    assert len(merge([left, ([[0, 10, 40, 50]], [0.8], [1])], places, (100, 180))[0]) == 2
    np.testing.assert_allclose(
        merge([left, ([[0, 10, 40, 50]], [0.1], [0])], places, (100, 180))[0], [[60, 10, 100, 50]]
    )
    # two objects of a tile stay two, though a part in the other tile fits both: x 80..95 of the image
    both = ([[20, 10, 95, 50], [75, 12, 95, 52]], [0.7, 0.6], [0, 0])
    assert len(merge([both, ([[0, 10, 15, 50]], [0.5], [0])], places, (100, 180))[0]) == 2
    # a complete box is better than the hull; 90..100 is a poor part of it
    boxes, _, _ = merge([([[90, 20, 100, 40]], [0.5], [0]), ([[10, 10, 60, 50]], [0.7], [0])], places, (100, 180))
    np.testing.assert_allclose(boxes, [[90, 10, 140, 50]])
    assert [len(part) for part in merge([([], [], []), ([], [], [])], places, (100, 180))] == [0, 0, 0]
    # two complete boxes of an object: the better one, or their mean weighted by scores, 0.6 / (0.6 + 0.2) = 3 / 4
    pair = [([[82, 10, 92, 50]], [0.6], [0]), ([[6, 10, 12, 50]], [0.2], [0])]
    for merge_by, x1 in (('nms', 82), ('wbf', 83)):
        boxes, scores, _ = merge(pair, places, (100, 180), merge_by=merge_by)
        np.testing.assert_allclose(boxes, [[x1, 10, 92, 50]])
        np.testing.assert_allclose(scores, [0.6])


@pytest.fixture(scope='module')
def large(tmp_path_factory):
    """(folder, content) of two large images, one without boxes."""
    folder, generator = tmp_path_factory.mktemp('large'), np.random.default_rng(0)
    content = {
        'images': [],
        'annotations': [],
        'categories': [{'id': i + 1, 'name': n} for i, n in enumerate(CLASSES)],
    }
    for number in range(2):
        cv2.imwrite(str(folder / f'{number}.png'), generator.integers(0, 255, (150, 260, 3), np.uint8))
        content['images'].append({'id': number + 1, 'file_name': f'{number}.png', 'height': 150, 'width': 260})
    for k in range(9):
        x, y, w, h = 28 * k, 15 * k, 20 + k, 15
        content['annotations'].append(
            {'id': k + 1, 'image_id': 1, 'category_id': k % 2 + 1, 'bbox': [x, y, w, h], 'area': w * h, 'iscrowd': 0}
        )
    (folder / 'all.json').write_text(json.dumps(content))
    return folder, content


def inner(folder, test_mode=False, pipeline=None):
    return CheckedCocoDataset(
        ann_file='all.json',
        data_root=f'{folder}/',
        data_prefix={'img': ''},
        metainfo={'classes': CLASSES},
        test_mode=test_mode,
        pipeline=pipeline or [{'type': 'mmyolo_ext.LoadImage'}],
    )


def test_tiles_have_their_pixels_and_the_visible_boxes(large):
    folder, content = large
    dataset = TiledDataset(inner(folder), size=64, overlap=0.25, min_visible=0.5, background=1)
    places = tiles(150, 260, 64, 0.25)
    assert len(dataset) == 2 * len(places)
    counts = [0, 0]
    for index, (x, y, w, h) in enumerate(places):
        expected = []
        for annotation in content['annotations']:  # pixel by pixel
            bx, by, bw, bh = annotation['bbox']
            seen = np.zeros((150, 260), bool)
            seen[by : by + bh, bx : bx + bw] = True
            rows, columns = np.nonzero(seen[y : y + h, x : x + w])
            if len(rows):
                box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                ignored = int(len(rows) / seen.sum() < 0.5)
                counts[ignored] += 1
                expected.append((box, annotation['category_id'] - 1, ignored))
        info = dataset.get_data_info(index)
        found = [(one['bbox'], one['bbox_label'], one['ignore_flag']) for one in info['instances']]
        assert found == expected and (info['height'], info['width']) == (h, w)
        assert sorted(dataset.get_cat_ids(index)) == sorted(label for _, label, ignored in expected if not ignored)
        image = cv2.imread(str(folder / '0.png'))[y : y + h, x : x + w]
        np.testing.assert_array_equal(dataset[index]['img'], image)
    assert [dataset.report['boxes'], dataset.report['ignored']] == counts and min(counts) > 0


def test_background_tiles_are_kept_at_a_rate(large):
    def count(rate, **kwargs):
        return TiledDataset(inner(large[0], **kwargs), size=32, overlap=0.5, background=rate).report

    every, none, some = count(1), count(0), count(0.3)
    total = every['background']
    assert none['background'] == 0 and none['background_dropped'] == total and none['boxes'] == every['boxes']
    assert abs(some['background'] / total - 0.3) < 3 * (0.21 / total) ** 0.5
    assert count(0.3) == some and count(0, test_mode=True)['background'] == total


def test_cache_and_rectangles_give_the_same_tiles(large):
    pipeline = [
        {'type': 'mmyolo_ext.LoadImage'},
        {'type': 'mmdet.LoadAnnotations', 'with_bbox': True},
        {'type': 'mmyolo_ext.Letterbox', 'size_hw': (64, 64)},
        {'type': 'mmyolo_ext.PackInputs'},
    ]
    plain = TiledDataset(inner(large[0]), size=64, background=1)
    cached = CachedDataset(TiledDataset(inner(large[0]), size=64, background=1))
    rect = RectBatchDataset(TiledDataset(inner(large[0], True, pipeline), size=64), batch_size=4, size=64, extra=0)
    assert len(plain) == len(cached) == len(rect)
    for index in (0, 3, 3, 11):
        np.testing.assert_array_equal(plain[index]['img'], cached[index]['img'])
        packed, info = rect[index], rect.get_data_info(index)
        sample = plain[int(rect.order[index])]
        np.testing.assert_array_equal(packed['inputs'].numpy().transpose(1, 2, 0), sample['img'])
        assert packed['data_samples'].tile_xywh == info['tile_xywh']
        assert len(cached[index]['gt_bboxes']) == len(plain.get_data_info(index)['instances'])
    with pytest.raises(ValueError, match=r'must begin with mmyolo_ext.LoadImage, got LoadImageFromFile'):
        TiledDataset(inner(large[0], pipeline=[{'type': 'mmcv.LoadImageFromFile'}]), size=64)


def metric_of_tiles(folder, content, rank=0, world_size=1, merge_by='nms'):
    """Return the scores of a metric that gets the visible parts of the ground truth on the tiles of a rank, and it."""
    dataset = TiledDataset(inner(folder, test_mode=True), size=64, overlap=0.25)
    metric = TiledCocoMetric(ann_file=str(folder / 'all.json'), merge_by=merge_by)
    metric.dataset_meta = dataset.metainfo
    truth = [
        [*one['bbox'][:2], *np.add(one['bbox'][:2], one['bbox'][2:]), one['category_id'] - 1]
        for one in content['annotations']
    ]
    # every second tile to the other rank, and the first tiles once more, as samplers do
    for index in [*range(rank, len(dataset), world_size), rank]:
        info = dataset.get_data_info(index)
        seen = visible(np.array(truth, float) if info['img_id'] == 1 else np.zeros((0, 5)), [info['tile_xywh']])[0]
        sample = DetDataSample(
            metainfo={**{k: info[k] for k in ('img_id', 'tile_xywh', 'image_hw')}, 'ori_shape': (64, 64)}
        )
        fields = dict(zip(('bboxes', 'scores', 'labels'), map(torch.as_tensor, seen), strict=True))
        sample.pred_instances = InstanceData(**fields)
        metric.process({}, [sample.to_dict()])
    return metric.evaluate(len(dataset)), metric


@pytest.mark.parametrize('merge_by', ['nms', 'wbf'])
def test_the_metric_is_that_of_whole_images(large, merge_by):
    """Visible parts of the ground truth score 1 on whole images."""
    scores, metric = metric_of_tiles(*large, merge_by=merge_by)
    assert scores['coco/bbox_mAP'] == pytest.approx(1) and scores['coco/red_precision'] == pytest.approx(1)
    with pytest.raises(ValueError, match='only 0 of 5 tiles'):
        metric.evaluate(5)
    with pytest.raises(ValueError, match="merged by nms or wbf, got 'mean'"):
        TiledCocoMetric(ann_file=str(large[0] / 'all.json'), merge_by='mean')


def scores_of_rank(folder, content):
    return metric_of_tiles(folder, content, distributed.get_rank(), distributed.get_world_size())[0]


def test_processes_share_the_tiles_of_an_image(large, tmp_path):
    """Two real processes, each with every second tile: objects across tiles of both have one box."""
    one, _ = metric_of_tiles(*large)
    first, second = run_ranks(scores_of_rank, 2, tmp_path / 'ranks', *large)
    assert first == second == one
