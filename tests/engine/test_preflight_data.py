"""What is wrong with the data of any data set of mmdet is found before the first step, and alike on all ranks."""

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from rank_processes import run_ranks
from torch import nn
from toy_runner import toy_runner

from mmyolo_ext.engine.fit_checks import check_anchors, check_checkpoint_classes
from mmyolo_ext.engine.hooks.preflight import _report
from mmyolo_ext.engine.preflight_data import Split, check_overlap, check_split, spread
from mmyolo_ext.models.task_modules import YOLOv5Assigner


@pytest.fixture
def host_dataset(write_images):
    """mmdet's own data set, with its own loader."""

    def build(name='train', **changes):
        return CocoDataset(
            **{
                'ann_file': str(write_images(name)),
                'data_prefix': {'img': str(write_images(name).parent / name)},
                'metainfo': {'classes': ('thing',)},
                'pipeline': [{'type': 'LoadImageFromFile'}, {'type': 'LoadAnnotations', 'with_bbox': True}],
                **changes,
            }
        )

    return build


@pytest.fixture
def write_images(tmp_path):
    """Six images of 60 x 40 px and a box on each; their annotation file."""
    import json

    def write(name: str) -> Path:
        path = tmp_path / f'{name}.json'
        if path.exists():
            return path
        rng = np.random.RandomState(len(name))
        (tmp_path / name).mkdir()
        for number in range(6):
            cv2.imwrite(str(tmp_path / name / f'{number}.png'), rng.randint(0, 256, (40, 60, 3), dtype=np.uint8))
        images = [{'id': k, 'file_name': f'{k}.png', 'width': 60, 'height': 40} for k in range(6)]
        boxes = [
            {'id': k + 1, 'image_id': k, 'category_id': 1, 'bbox': [5, 5, 20, 10 + k], 'area': 200, 'iscrowd': 0}
            for k in range(6)
        ]
        path.write_text(
            json.dumps({'images': images, 'annotations': boxes, 'categories': [{'id': 1, 'name': 'thing'}]})
        )
        return path

    return write


def findings_of(dataset, name='training'):
    return check_split(Split(dataset, name))


def test_a_whole_data_set_gives_no_finding(host_dataset):
    assert findings_of(host_dataset()) == findings_of(host_dataset('val'), 'validation') == []
    assert check_overlap(Split(host_dataset(), 'training'), Split(host_dataset('val'), 'validation')) == []


def test_a_cut_image_of_an_mmdet_data_set(host_dataset, tmp_path):
    dataset = host_dataset()
    path = tmp_path / 'train' / '3.png'
    path.write_bytes(path.read_bytes()[:500])
    assert findings_of(dataset) == [(True, f'cannot use image {path}: the file is cut short, copy it again')]


def test_images_that_a_loader_may_skip_are_a_warning(host_dataset, tmp_path):
    dataset = host_dataset(pipeline=[{'type': 'mmyolo_ext.LoadImage', 'skip_broken': True}])
    (tmp_path / 'train' / '3.png').unlink()
    ((is_error, text),) = findings_of(dataset)
    assert not is_error and '3.png: No such file' in text


def test_overlap_by_path_and_by_content(host_dataset, tmp_path):
    train, val = host_dataset(), host_dataset('val')
    ((is_error, text),) = check_overlap(Split(train, 'training'), Split(train, 'validation'))
    assert not is_error and text.startswith('6 of 6 validation images are trained on too')
    val.full_init()
    content = (tmp_path / 'train' / '5.png').read_bytes()
    (tmp_path / 'val' / '0.png').write_bytes(content)
    ((is_error, text),) = check_overlap(Split(train, 'training'), Split(val, 'validation'))
    assert text.startswith(f'1 of 6 validation images have the content of training images ({tmp_path}/val/0.png)')


def test_halves_of_one_file_do_not_overlap(host_dataset):
    """A split by ``indices`` names the same annotation file twice."""
    first, second = host_dataset(indices=[0, 1, 2]), host_dataset(indices=[3, 4, 5])
    assert check_overlap(Split(first, 'training'), Split(second, 'validation')) == []


@pytest.mark.parametrize(
    ('length', 'most', 'expected'),
    [(0, 5, []), (1, 5, [0]), (5, 5, [0, 1, 2, 3, 4]), (9, 3, [0, 4, 8]), (10, 2, [0, 9])],
)
def test_a_sample_is_evenly_spread(length, most, expected):
    assert spread(length, most) == expected


def headed(*anchors: tuple[float, float]) -> nn.Module:
    model = nn.Module()
    model.bbox_head = nn.Module()
    model.bbox_head.anchors_wh = torch.tensor([anchors], dtype=torch.float32)
    model.bbox_head.assigner = YOLOv5Assigner()
    return model


@pytest.mark.parametrize(
    ('anchor', 'share'),
    [
        ((20, 12), None),
        ((400, 400), '0.0%'),  # at 120 x 80 px the boxes are 40 px wide: a ratio of 10
        # heights 20, 22, ..., 30 px; 4 times 22.5 px is 90 px, so that the first two are beyond the ratio of 4
        ((40, 90), '66.7%'),
    ],
)
def test_best_possible_recall(host_dataset, anchor, share):
    dataset = host_dataset(pipeline=[{'type': 'mmyolo_ext.Letterbox', 'size_hw': (80, 120)}])
    findings = list(check_anchors(headed(anchor), Split(dataset, 'training'), [dataset]))
    if share is None:
        assert findings == []
    else:
        ((is_error, text),) = findings
        assert is_error == (share == '0.0%') and f'can match {share} of the training boxes' in text


def checkpoint(*classes: str) -> dict:
    return {'meta': {'dataset_meta': {'classes': classes}}, 'state_dict': {}}


@pytest.mark.parametrize(
    ('classes', 'expected'),
    [
        (('a', 'b', 'c'), []),
        (('a', 'c', 'b'), [True]),
        (('a', 'b', 'x'), [False]),
        (('a', 'b'), []),  # other shapes, which are reported elsewhere
        ((), []),
    ],
)
def test_classes_of_a_checkpoint(classes, expected):
    dataset = type('Dataset', (), {'metainfo': {'classes': ('a', 'b', 'c')}})()
    findings = list(check_checkpoint_classes(checkpoint(*classes), dataset, starts=False))
    assert [is_error for is_error, _ in findings] == expected
    for foreign in ({}, {'meta': None}, {'meta': {'dataset_meta': None}}):
        assert not list(check_checkpoint_classes(foreign, dataset, starts=True))


def report_on_rank() -> dict[str, str]:
    """Report findings, and a check that fails; return what each ended with and the warnings that were logged."""
    looked, warnings = [], []

    def find():
        looked.append(1)
        return [(False, 'a warning'), (True, 'an error of rank 0')]

    def fail():
        looked.append(1)
        raise RuntimeError('a fault of the check')

    runner = SimpleNamespace(cfg=Config({}), logger=SimpleNamespace(warning=warnings.append))
    ends = []
    for look in (find, fail):
        try:
            _report(runner, look)
            ends.append('passed')
        except ValueError as error:
            ends.append(str(error))
    return {'ends': ends, 'looked': len(looked), 'warnings': warnings}


def test_all_ranks_continue_or_stop_alike(tmp_path):
    """Rank 0 looks; both ranks end with its error, and none waits if the check itself fails."""
    first, second = run_ranks(report_on_rank, 2, tmp_path)
    assert (first['looked'], second['looked']) == (2, 0)
    assert first['ends'] == second['ends'] and first['ends'][1] == 'passed'
    assert first['ends'][0].startswith('an error of rank 0. (To skip this check')
    assert 'Check: the data could not be examined: RuntimeError: a fault of the check' in first['warnings']


def test_a_run_without_images_is_not_held_up(tmp_path):
    toy_runner(tmp_path, hooks=({'type': 'mmyolo_ext.PreflightHook'},), max_epochs=1).train()
