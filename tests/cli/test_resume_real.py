"""The real recipe on real pipelines: k epochs and the rest resumed equal all at once, to the last bit."""

import pytest
import torch
from mmengine.hooks import Hook
from tiny_coco import make_tiny_coco, write_user_config

from mmyolo_ext.apis import load_config
from mmyolo_ext.engine.runner import Runner


class Kill(Hook):
    """Ends a run before its epoch number ``epoch``, as a kill would."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def before_train_epoch(self, runner: Runner) -> None:
        if runner.epoch == self.epoch:
            raise KeyboardInterrupt


class Rates(Hook):
    """Notes, before each iteration, its number, the rates, and whether mosaic is closed."""

    def __init__(self) -> None:
        self.rows: list[tuple] = []

    def before_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        groups = [(group['lr'], group['momentum']) for group in runner.optim_wrapper.optimizer.param_groups]
        self.rows.append((runner.iter, groups, runner.train_dataloader.dataset.mosaic_closed))


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_tiny_coco(tmp_path_factory.mktemp('resume') / 'data')


def train(config, work_dir, workers=0, kill_at=None, resume=False) -> list[tuple]:
    # four images a step, as 64 would be one step an epoch; mosaic closed for the last of three epochs
    options = {'max_epochs': 3, 'default_hooks.accumulate.nominal_batch_size': 4}
    options |= {'train_dataloader.num_workers': workers, 'train_dataloader.persistent_workers': workers > 0}
    cfg = load_config(config, options)
    cfg.work_dir, cfg.resume, cfg.experiment_name = str(work_dir), resume, f'{work_dir.name}_{resume}'
    runner = Runner.from_cfg(cfg)
    rates = Rates()
    runner.register_hook(rates)
    if kill_at is not None:
        runner.register_hook(Kill(kill_at), 'HIGHEST')
    try:
        runner.train()
    except KeyboardInterrupt:
        assert kill_at is not None
    return rates.rows


def assert_same_tensors(first, second, path='') -> None:
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), path
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key in first:
            assert_same_tensors(first[key], second[key], f'{path}.{key}')


@pytest.mark.slow
@pytest.mark.parametrize(('kill_at', 'workers'), [(1, 2), (2, 0)])
def test_resuming_changes_nothing(data, tmp_path, kill_at, workers):
    config = write_user_config(tmp_path / 'mine.py', data)
    whole = train(config, tmp_path / 'straight')
    before = train(config, tmp_path / 'killed', workers, kill_at=kill_at)
    after = train(config, tmp_path / 'killed', workers, resume=True)
    assert before + after == whole
    assert [closed for _, _, closed in whole] == [False] * 6 + [True] * 3
    straight, resumed = (
        torch.load(tmp_path / name / 'epoch_3.pth', weights_only=False) for name in ('straight', 'killed')
    )
    for part in ('state_dict', 'ema_state_dict', 'optimizer'):
        assert_same_tensors(straight[part], resumed[part], part)
