"""Losses and mAP of a training plotted from the scalars of all its runs."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
from mmengine.config import Config
from toy_runner import toy_runner

from mmyolo_ext.engine.hooks.curves import draw_curves, loss_names, read_scalars, series


def log(path, *rows) -> None:
    path.parent.mkdir(parents=True)
    path.write_text('\n'.join(json.dumps(row) for row in rows))


def test_a_resumed_run_replaces_what_it_trained_anew(tmp_path):
    first, second = tmp_path / '1' / 'a.json', tmp_path / '2' / 'a.json'
    log(
        first,
        {'loss': 9.0, 'epoch': 1, 'step': 5},
        {'coco/bbox_mAP': 0.1, 'step': 1},
        {'loss': 8.0, 'epoch': 2, 'step': 10},
    )
    log(
        second,
        {'loss': 7.0, 'epoch': 2, 'step': 10},
        {'loss': 5.0, 'epoch': 3, 'step': 15},
        {'coco/bbox_mAP': 0.3, 'step': 3},
    )
    rows = read_scalars([first, second])
    assert series(rows, 'loss') == ([1, 2, 3], [9.0, 7.0, 5.0])
    assert series(rows, 'bbox_mAP') == ([1, 3], [0.1, 0.3])


def test_a_run_from_the_start_replaces_all(tmp_path):
    first, second, idle = (tmp_path / name / 'a.json' for name in '123')
    log(first, {'loss': 9.0, 'epoch': 1, 'step': 5}, {'loss': 8.0, 'epoch': 2, 'step': 10})
    log(second, {'loss': 4.0, 'epoch': 1, 'step': 5})
    log(idle, {'coco/bbox_mAP': 0.5, 'step': 0})  # a test in the same work dir
    assert series(read_scalars([first, second, idle]), 'loss') == ([1], [4.0])


def test_values_of_an_epoch_are_averaged():
    rows = [{'loss': 4.0, 'epoch': 1, 'step': 50}, {'loss': 2.0, 'epoch': 1, 'step': 100}]
    assert series(rows, 'loss') == ([1], [3.0])
    assert series(rows, 'loss_cls') == ([], [])


def test_the_plot_is_written_with_and_without_validation(tmp_path):
    rows = [{'loss': 5.0 / epoch, 'loss_cls': 0.0, 'epoch': epoch, 'step': epoch} for epoch in range(1, 5)]
    for name, extra in (('without', []), ('with', [{'coco/bbox_mAP': 0.4, 'step': 4}])):
        draw_curves(rows + extra, tmp_path / f'{name}.png', title=name)
        assert (tmp_path / f'{name}.png').stat().st_size > 10_000
    with pytest.raises(ValueError, match='no loss'):
        draw_curves([], tmp_path / 'none.png')
    assert not (tmp_path / 'none.png').exists()


def test_a_training_ends_with_a_plot(tmp_path):
    settings = {'default_hooks': {'logger': {'type': 'LoggerHook', 'interval': 2}}}
    toy_runner(tmp_path, hooks=[{'type': 'mmyolo_ext.CurvesHook'}], max_epochs=2, **settings).train()
    assert (tmp_path / 'curves.png').exists()


def test_every_term_of_a_loss_is_drawn():
    rows = [{'loss': 3.0, 'loss_nwd': 1.0, 'loss_cls': 1.0, 'epoch': 1, 'step': 5}, {'loss_bbox': 1.0, 'lr': 0.1}]
    assert loss_names(rows) == ['loss', 'loss_bbox', 'loss_cls', 'loss_nwd']


def test_two_trainings_in_one_process_write_their_own_logs(tmp_path):
    """Under one fixed name, as in mmdet's default_runtime.py, MMEngine would hand the first one's visualizer out."""
    configs = Path(__file__).parents[2] / 'configs'
    visualizer = Config.fromfile(configs / '_base_/default_runtime.py').visualizer
    settings = {'visualizer': visualizer, 'default_hooks': {'logger': {'type': 'LoggerHook', 'interval': 1}}}
    for name in ('first', 'second'):
        toy_runner(tmp_path / name, max_epochs=1, experiment_name=name, **deepcopy(settings)).train()
        (scalars,) = (tmp_path / name).glob('*/vis_data/scalars.json')
        assert any('loss' in json.loads(line) for line in scalars.read_text().splitlines())
