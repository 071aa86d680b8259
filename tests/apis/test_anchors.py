"""Test fitted anchors: scores by hand and against the assigners, the search, and the written config."""

import json
import runpy
import sys

import numpy as np
import pytest
import torch
from tiny_coco import REPO, make_tiny_coco, write_user_config

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.anchors import (
    Rule,
    anchors_of,
    assign_to_levels,
    box_sizes,
    evolve,
    fit_anchors,
    fit_config,
    input_size_hw,
    score,
)
from mmyolo_ext.apis.config_nodes import leaf_datasets
from mmyolo_ext.checkpoint.config_text import base_text
from mmyolo_ext.registry import MODELS, TASK_UTILS

PRESENT = np.array([[10, 13], [16, 30], [33, 23], [30, 61], [62, 45], [59, 119], [116, 90], [156, 198], [373, 326.0]])


def random_sizes(count: int, seed: int = 0) -> np.ndarray:
    return np.exp(np.random.default_rng(seed).normal(3.5, 0.8, (count, 2)))


def test_scores_by_hand():
    boxes = np.array([[10, 20], [40, 40], [100, 10.0]])
    anchors = np.array([[20, 20], [10, 80.0]])
    # ratios, the smallest of w/w_a, w_a/w, h/h_a, h_a/h:
    # 10x20: 10/20, 20/20 -> 0.5;  10/10, 20/80 -> 0.25, which is 4 times and so no match
    # 40x40: 20/40 -> 0.5;         10/40, 40/80 -> 0.25
    # 100x10: 20/100 -> 0.2;       10/100 -> 0.1
    ratio = Rule('ratio', 1 / 4)
    assert ratio.similarity(boxes, anchors).tolist() == [[0.5, 0.25], [0.5, 0.25], [0.2, 0.1]]
    assert score(boxes, anchors, ratio) == pytest.approx((2 / 3, (0.5 + 0.5 + 0) / 3, 2 / 3))
    # IoU: 200/400, 200/800;  400/1600, 10*40/(1600+800-400);  20*10/(1000+400-200), 10*10/(1000+800-100)
    iou = Rule('iou', 0.2)
    wanted = [[1 / 2, 1 / 4], [1 / 4, 1 / 5], [1 / 6, 1 / 17]]
    assert np.allclose(iou.similarity(boxes, anchors), wanted, rtol=1e-12)
    assert score(boxes, anchors, iou) == pytest.approx((2 / 3, (1 / 2 + 1 / 4 + 0) / 3, 3 / 3))
    assert 'below 4' in str(ratio) and 'above 0.2' in str(iou)


@pytest.mark.parametrize(
    ('kind', 'rule'), [('YOLOv5Assigner', Rule('ratio', 1 / 4)), ('YOLOv3Assigner', Rule('iou', 0.2))]
)
def test_a_match_is_what_the_assigner_matches(kind, rule):
    boxes = random_sizes(300)
    # each in the middle of a cell, so that with no neighbours each match is one positive
    boxes_cxcywh = torch.cat([torch.full((300, 2), 12.0), torch.from_numpy(boxes)], 1)
    assigner = TASK_UTILS.build({'type': f'mmyolo_ext.{kind}'})
    assigner.neighbor_offset = 0.0
    anchors = torch.from_numpy(PRESENT)
    (positives,) = assigner.assign(boxes_cxcywh, torch.zeros(300, dtype=torch.long), [anchors], [8], [(4, 4)])
    got = score(boxes, PRESENT, rule)
    assert 0.5 < got.recall < 1
    assert got.recall == pytest.approx(len(positives.gt.unique()) / 300)
    assert got.matches == pytest.approx(len(positives) / 300)


def test_separate_groups_are_found():
    rng = np.random.default_rng(3)
    centres = np.array([[12, 14], [30, 20], [22, 60], [70, 66], [150, 60], [90, 200.0]])
    boxes = np.concatenate([centre * rng.uniform(0.98, 1.02, (50, 2)) for centre in centres])
    found = fit_anchors(boxes, np.full((6, 2), 40.0), Rule(), generations=300, seed=0)
    assert np.allclose(found, centres[np.argsort(centres.prod(1))], rtol=0.03)
    assert score(boxes, found, Rule()).fitness > 0.97


def test_the_search_is_repeatable_and_never_ends_worse():
    boxes = random_sizes(400)
    for rule in (Rule(), Rule('iou', 0.2)):
        found = fit_anchors(boxes, PRESENT, rule, generations=100, seed=1)
        assert np.array_equal(found, fit_anchors(boxes, PRESENT, rule, generations=100, seed=1))
        assert not np.array_equal(found, fit_anchors(boxes, PRESENT, rule, generations=100, seed=2))
        assert score(boxes, found, rule).fitness > score(boxes, PRESENT, rule).fitness + 0.02
        assert (np.diff(found.prod(1)) >= 0).all() and np.array_equal(found, found.round(1))
        start = fit_anchors(boxes, PRESENT, rule, generations=0, seed=1)
        assert score(boxes, start, rule).fitness < score(boxes, found, rule).fitness
    # nothing beats anchors that are the boxes
    assert np.array_equal(fit_anchors(np.repeat(PRESENT, 20, 0), PRESENT, Rule(), generations=50), PRESENT)
    rng = np.random.default_rng(0)
    assert np.array_equal(evolve(PRESENT, PRESENT, Rule(), 50, rng), PRESENT)


def test_too_few_sizes():
    sizes = np.repeat(random_sizes(8), 10, 0)
    with pytest.raises(ValueError, match='9 anchors need at least 9 boxes of different sizes, the data have 8'):
        fit_anchors(sizes, PRESENT, Rule())


def test_small_anchors_to_the_small_stride():
    six = np.arange(12.0).reshape(6, 2)
    assert assign_to_levels(six, (8, 16, 32)).tolist() == six.reshape(3, 2, 2).tolist()
    assert assign_to_levels(six, (32, 8, 16))[:, 0].tolist() == [[8, 9], [0, 1], [4, 5]]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('anchors')
    path = make_tiny_coco(folder / 'data', train=30, background=(2, 5)) / 'train.json'
    content = json.loads(path.read_text())
    # at 64 px, of images of 64 x 64: one of 2 px, one of 3 px, a crowd
    for number, (side, crowd) in enumerate(((2, 0), (3, 0), (30, 1)), 1000):
        box = {'id': number, 'image_id': 1, 'category_id': 1, 'area': side * 10, 'iscrowd': crowd}
        content['annotations'].append({**box, 'bbox': [5, 5, side, 10]})
    path.write_text(json.dumps(content))
    write_user_config(folder / 'mine.py', folder / 'data')
    return folder


def test_sizes_are_those_at_the_network_input(folder):
    content = json.loads((folder / 'data' / 'train.json').read_text())
    factors = {image['id']: 96 / max(image['height'], image['width']) for image in content['images']}
    boxes = [box for box in content['annotations'] if not box['iscrowd']]
    wanted = sorted([side * factors[box['image_id']] for side in box['bbox'][2:]] for box in boxes)
    # 28 images of 2 boxes and the two added; 3 px at 96 are 4.5
    got = box_sizes(load_config(folder / 'mine.py', {'input_size': 96}))
    assert len(wanted) == 58 and got.num_images == 30 and got.size_hw == (96, 96) and got.num_tiny == 0
    assert np.allclose(sorted(got.wh.tolist()), wanted)
    got = box_sizes(load_config(folder / 'mine.py'))
    assert got.num_tiny == 1 and len(got.wh) == 57 and got.wh.min() == 3
    with pytest.raises(ValueError, match='none of the 58 boxes in 30 training images has sides above 2 px'):
        cfg = load_config(folder / 'mine.py')
        cfg.test_dataloader.dataset.dataset.pipeline[2].size_hw = (4, 4)
        box_sizes(cfg)


def test_the_size_of_the_input(folder):
    cfg = load_config(folder / 'mine.py')
    steps = cfg.test_dataloader.dataset.dataset.pipeline
    steps[2] = {'type': 'Resize', 'scale': (96, 64), 'keep_ratio': True}
    assert input_size_hw(cfg) == (64, 96)
    steps[2] = {'type': 'Resize', 'scale': (96, 64)}
    with pytest.raises(ValueError, match='must scale images by mmyolo_ext.Letterbox'):
        input_size_hw(cfg)


def test_the_rule_is_that_of_the_head(folder):
    cfg = load_config(folder / 'mine.py', {'model.bbox_head.assigner.prior_match_thr': 3.0})
    anchors_wh, strides, rule = anchors_of(MODELS.build(cfg.model))
    assert rule == Rule('ratio', 1 / 3) and strides == (8, 16, 32)
    assert anchors_wh.reshape(-1, 2).tolist() == PRESENT.tolist()
    cfg = load_config(REPO / 'configs' / 'yolov3' / 'yolov3_tiny_320_bccd.py')
    anchors_wh, _, rule = anchors_of(MODELS.build(cfg.model))
    assert rule == Rule('iou', 0.2) and anchors_wh.shape == (2, 3, 2)
    with pytest.raises(ValueError, match='must be a YOLOv5Head or YOLOv3Head with anchors, got NoneType'):
        anchors_of(torch.nn.Identity())


def test_what_is_written_can_be_trained(folder, tmp_path):
    config, out = folder / 'mine.py', tmp_path / 'new' / 'fitted.py'
    fit = fit_config(load_config(config), config, out, generations=20)
    assert fit.files == (out, out.with_suffix('.png')) and fit.after.fitness > fit.before.fitness + 0.1
    assert out.with_suffix('.png').read_bytes().startswith(b'\x89PNG')
    assert sorted(file.name for file in out.parent.iterdir()) == ['fitted.png', 'fitted.py']
    cfg = load_config(out)
    assert next(leaf_datasets(cfg.train_dataloader.dataset)).data_root == f'{folder}/data/'
    anchors_wh, strides, rule = anchors_of(MODELS.build(cfg.model))
    assert np.allclose(anchors_wh, fit.after_wh) and strides == (8, 16, 32)
    fitness = score(fit.boxes.wh, anchors_wh.reshape(-1, 2), rule).fitness
    assert fitness == pytest.approx(fit.after.fitness, abs=1e-6)
    text = out.read_text()
    with pytest.raises(ValueError, match='exists already: --force'):
        fit_config(load_config(config), config, out)
    fit_config(load_config(config), config, out, generations=20, force=True)
    assert out.read_text() == text
    # from there no start of k-means and no step is better
    again = fit_config(cfg, out, tmp_path / 'again.py', generations=0)
    assert again.files == () and again.before == again.after and not (tmp_path / 'again.py').exists()


def test_the_command(folder, tmp_path, monkeypatch, capsys):
    def start(*arguments: object, config: object = folder / 'mine.py') -> tuple[int, str, list[str]]:
        monkeypatch.setattr(sys, 'argv', ['anchors.py', str(config), *map(str, arguments)])
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv('MMYOLO_EXT_DEBUG', raising=False)
        code = 0
        try:
            runpy.run_path(str(REPO / 'tools' / 'anchors.py'), run_name='__main__')
        except SystemExit as end:
            code = end.code
        captured = capsys.readouterr()
        return code, captured.out, [line for line in captured.err.splitlines() if line.startswith('error: ')]

    code, out, _ = start('--generations', 10)
    assert code == 0 and 'written: anchors/mine.py' in out and 'best possible recall' in out
    assert '57 boxes in 30 images scaled to 64 x 64 px; 1 more with a side of at most 2 px are left out' in out
    assert 'stride 8: 10x13 16x30 33x23 -> ' in out
    empty = json.loads((folder / 'data' / 'train.json').read_text())
    (tmp_path / 'empty.json').write_text(json.dumps({**empty, 'annotations': empty['annotations'][:3]}))
    for arguments, message in (
        ((), 'exists already: --force overwrites it'),
        (('--out', 'a.png'), '--out must end in .py, got a.png'),
        (('--seed', -1), '--generations and --seed must be 0 or more'),
        (('--out', folder / 'mine.py', '--force'), 'is the config itself'),
        (('--force', '--cfg-options', f'train_ann={tmp_path}/empty.json'), '9 anchors need at least 9 boxes'),
    ):
        code, _, errors = start(*arguments)
        assert code == 2 and len(errors) == 1 and message in errors[0]
    # 57 boxes and the tiny one, now at 640 px
    options = ('--generations', 0, '--cfg-options', 'input_size=640')
    code, out, _ = start(folder / 'data', *options, config='yolov5_n')
    assert code == 0 and '58 boxes in 30 images scaled to 640 x 640 px' in out
    code, _, errors = start(config='yolov5_nn')
    assert code == 2 and "did you mean 'yolov5_n'" in errors[0]


def test_a_base_in_an_installed_package_is_named_by_its_scope(tmp_path):
    ready = tmp_path / 'site-packages' / 'mmyolo_ext' / '.mim' / 'configs' / 'yolov5' / 'yolov5_n_640_coco.py'
    assert base_text(ready, tmp_path / 'anchors') == 'mmyolo_ext::yolov5/yolov5_n_640_coco.py'
    assert base_text(tmp_path / 'mine.py', tmp_path / 'anchors') == '../mine.py'
