"""Shares of the loss terms: by hand, over the log's window, and in every place that losses are logged to."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import VISBACKENDS
from mmengine.visualization.vis_backend import LocalVisBackend
from toy_runner import NUM_SAMPLES, toy_runner

from mmyolo_ext.engine.hooks.curves import loss_names, read_scalars
from mmyolo_ext.engine.hooks.training_info import share_name, shares

ROOT = Path(__file__).parents[2]
# of each iteration; the third term is a list by level, as heads of mmdet give it
TERMS = {
    'loss_cls': [1.0, 2.0, 3.0, 4.0, 5.0],
    'loss_bbox': [1.0, 1.0, 1.0, 1.0, 1.0],
    'd0.loss_obj': [(2.0, 0.0), (1.0, 1.0), (2.0, 2.0), (1.5, 0.5), (4.0, 0.0)],
}
HOOK = {'type': 'mmyolo_ext.LossShareHook'}


class Scripted(BaseModel):
    """Gives the losses of ``TERMS`` in their order, and an accuracy, which is none."""

    def __init__(self) -> None:
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(()))
        self.calls = 0

    def forward(self, x, mode='loss'):
        step = self.calls % 5
        self.calls += 1
        losses = {name: self._of(values[step]) for name, values in TERMS.items()}
        return {**losses, 'acc': self.one.detach() * 50}

    def _of(self, value):
        return [self.one * part for part in value] if isinstance(value, tuple) else self.one * value


class Seen(LocalVisBackend):
    """What any visualizing backend, TensorBoard's among them, is given."""

    rows: list[dict] = []

    def add_scalars(self, scalar_dict, step=0, file_path=None, **kwargs) -> None:
        self.rows.append(dict(scalar_dict))
        super().add_scalars(scalar_dict, step, file_path, **kwargs)


def train(work_dir, interval: int = 2, window: int = 2, epochs: int = 1, **settings) -> tuple[list[dict], str]:
    """Train on five batches an epoch; the rows of the JSON log and the text log."""
    assert NUM_SAMPLES == 5 * 2
    settings = {'optim_wrapper': {'optimizer': {'type': 'SGD', 'lr': 0.0}}, 'param_scheduler': None, **settings}
    toy_runner(
        work_dir,
        model=Scripted(),
        max_epochs=epochs,
        hooks=settings.pop('hooks', [HOOK]),
        log_processor={'window_size': window},
        default_hooks={'logger': {'type': 'LoggerHook', 'interval': interval, 'ignore_last': False}},
        **{**settings, 'log_level': 'INFO'},
    ).train()
    (log,) = work_dir.glob('*/*.log')
    return read_scalars(sorted(work_dir.glob('*/vis_data/scalars.json'))), log.read_text()


def test_shares_by_hand() -> None:
    assert shares({'loss_cls': 1.0, 'loss_bbox': 3.0}) == {'loss_cls': 0.25, 'loss_bbox': 0.75}
    # a term that rewards: 1 / 4 and -3 / 4, for 1 / -2 would say nothing
    assert shares({'a': 1.0, 'b': -3.0}) == {'a': 0.25, 'b': -0.75}
    assert shares({'a': 0.0, 'b': 0.0}) == {'a': 0.0, 'b': 0.0}
    assert shares({}) == {}


@pytest.mark.parametrize(
    ('term', 'name'),
    [
        ('loss_cls', 'share_cls'),
        ('loss_bbox_2', 'share_bbox_2'),
        ('loss_rpn_cls', 'share_rpn_cls'),
        ('d0.loss_iou', 'share_d0.iou'),
        ('sup_loss_cls', 'share_sup_cls'),
        ('aux_loss', 'share_aux'),
    ],
)
def test_names(term: str, name: str) -> None:
    assert share_name(term) == name


def test_shares_of_the_means_in_the_same_line(tmp_path) -> None:
    rows, text = train(tmp_path)
    names = ('share_cls', 'share_bbox', 'share_d0.obj')
    # means over two iterations: the first line (1 + 2) / 2 = 1.5, 1, (2 + 2) / 2 = 2, of 4.5; the second one, of
    # iterations 3 and 4, 3.5, 1, 3, of 7.5; the last, of 4 and 5, 4.5, 1, 3, of 8.5
    expected = [[1.5 / 4.5, 1 / 4.5, 2 / 4.5], [3.5 / 7.5, 1 / 7.5, 3 / 7.5], [4.5 / 8.5, 1 / 8.5, 3 / 8.5]]
    assert [[row[name] for name in names] for row in rows] == [pytest.approx(line) for line in expected]
    for row in rows:
        assert row['share_cls'] == pytest.approx(row['loss_cls'] / row['loss'])
        assert not [name for name in row if 'share' in name and name not in names]
    lines = [line for line in text.splitlines() if 'Epoch(train)' in line]
    assert [re.findall(r'share_cls: ([\d.]+)', line) for line in lines] == [['0.3333'], ['0.4667'], ['0.5294']]


@pytest.mark.parametrize('window', [1, 3, 50])
def test_the_window_is_that_of_the_log(tmp_path, window: int) -> None:
    rows, _ = train(tmp_path, interval=1, window=window, epochs=2)
    cls = TERMS['loss_cls'] * 2
    others = [1 + sum(pair) for pair in TERMS['d0.loss_obj']] * 2
    for step, row in enumerate(rows, 1):
        part = slice(max(step - window, 0), step)
        assert row['share_cls'] == pytest.approx(sum(cls[part]) / (sum(cls[part]) + sum(others[part])))


def test_every_backend_is_told(tmp_path) -> None:
    VISBACKENDS.register_module(module=Seen, force=True)
    Seen.rows.clear()
    train(tmp_path, visualizer={'type': 'Visualizer', 'vis_backends': [{'type': 'Seen'}], 'name': 'seen'})
    assert [row['share_bbox'] for row in Seen.rows] == pytest.approx([1 / 4.5, 1 / 7.5, 1 / 8.5])
    assert all(isinstance(row['share_bbox'], float) for row in Seen.rows)


def test_a_log_by_iteration(tmp_path) -> None:
    rows, _ = train(tmp_path, train_cfg={'by_epoch': False, 'max_iters': 4})
    assert [row['share_bbox'] for row in rows] == pytest.approx([1 / 4.5, 1 / 7.5])


def test_without_the_hook_and_without_a_logger(tmp_path) -> None:
    rows, _ = train(tmp_path / 'a', hooks=[])
    assert not any('share' in name for row in rows for name in row)
    runner = toy_runner(tmp_path / 'b', model=Scripted(), max_epochs=1, hooks=[HOOK], default_hooks={'logger': None})
    runner.train()
    assert not any('share' in name for name in runner.message_hub.log_scalars)


def test_nothing_is_reckoned_between_the_lines(tmp_path) -> None:
    runner = toy_runner(
        tmp_path,
        model=Scripted(),
        max_epochs=2,
        hooks=[HOOK],
        default_hooks={'logger': {'type': 'LoggerHook', 'interval': 2}},
    )
    runner.train()
    # iterations 2, 4 and the last of each epoch
    assert runner.message_hub.get_scalar('train/share_cls').data[1].sum() == 6


def test_curves_draw_no_shares() -> None:
    rows = [{'loss': 3.0, 'loss_cls': 1.0, 'share_cls': 0.33, 'epoch': 1, 'step': 5}]
    assert loss_names(rows) == ['loss', 'loss_cls']


def test_every_config_has_it() -> None:
    hooks = Config.fromfile(ROOT / 'configs' / '_base_' / 'default_runtime.py').default_hooks
    assert hooks.loss_share == HOOK
