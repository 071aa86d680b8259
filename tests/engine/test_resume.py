"""Runs that were ended anywhere resume to the last bit, and nothing but their own data is taken or deleted."""

import errno
import json
import logging
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.registry import DATASETS, METRICS
from toy_runner import RECIPE_HOOKS, ToyDataset, ToyModel, toy_runner

from mmyolo_ext.checkpoint.writing import MANIFEST, CheckpointFolder
from mmyolo_ext.engine.stopping import StopTraining

KEEP_TWO = {'interval': 1, 'max_keep_ckpts': 2}
EVERY_THREE = {'type': 'CheckpointHook', 'interval': 3, 'by_epoch': False, 'max_keep_ckpts': 2}


@METRICS.register_module()
class Scores(BaseMetric):
    """Gives the scores that a test wants, one an evaluation of an epoch."""

    wanted: dict[int, float] = {}
    runner = None

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {'score': self.wanted[Scores.runner.epoch]}


class Watch(Hook):
    """Notes the indices of each batch; ends the run after an iteration, as a kill or a signal would."""

    priority = 'LOWEST'

    def __init__(self, end_after: int | None = None, by: str = 'kill') -> None:
        self.end_after, self.by = end_after, by
        self.batches: list[tuple[int, list]] = []

    def before_run(self, runner) -> None:
        Scores.runner = runner

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        self.batches.append((runner.iter, batch_idx, data_batch['x'].flatten().tolist()))

    def after_train_iter(self, runner, *args, **kwargs) -> None:
        if runner.iter + 1 == self.end_after and self.by != 'validation':
            if self.by == 'kill':
                raise KeyboardInterrupt
            os.kill(os.getpid(), self.by)

    def before_val_epoch(self, runner) -> None:
        if self.by == 'validation' and runner.epoch == self.end_after:
            raise KeyboardInterrupt


def train(work_dir, end_after=None, by='kill', hooks=RECIPE_HOOKS, dropout=0.5, checkpoint=None, **settings):
    """The runner and the batches it used."""
    watch = Watch(end_after, by)
    if checkpoint:
        settings['default_hooks'] = {'checkpoint': checkpoint}
    settings.setdefault('model', ToyModel(dropout))
    runner = toy_runner(work_dir, hooks=[*hooks, watch], **settings)
    try:
        runner.train()
    except KeyboardInterrupt:
        assert end_after is not None
    except StopTraining as stop:
        if by in ('kill', 'validation'):
            raise
        assert stop.code == 128 + by
    return runner, watch.batches


def validated(scores: dict[int, float], **settings) -> dict:
    Scores.wanted = scores
    return {
        'val_cfg': {},
        'val_dataloader': {
            'dataset': ToyDataset(2),
            'sampler': {'type': 'DefaultSampler', 'shuffle': False},
            'batch_size': 2,
            'collate_fn': {'type': 'default_collate'},
        },
        'val_evaluator': {'type': 'Scores'},
        **settings,
    }


BEST = {'type': 'CheckpointHook', 'interval': 1, 'save_best': 'score', 'rule': 'greater', 'max_keep_ckpts': 2}


def assert_same(first, second, path='') -> None:
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), path
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key in first:
            assert_same(first[key], second[key], f'{path}.{key}')
    elif isinstance(first, list):
        assert len(first) == len(second), path
        for index, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_same(one, other, f'{path}[{index}]')
    else:
        assert first == second, path


def assert_same_end(first: Path, second: Path) -> None:
    one, other = (torch.load(path) for path in (first, second))
    for key in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers'):
        assert_same(one[key], other[key], key)


def names(folder) -> list[str]:
    return sorted(path.name for path in Path(folder).glob('*.pth'))


def log_of(work_dir) -> str:
    return '\n'.join(path.read_text() for path in sorted(Path(work_dir).glob('*/*.log')))


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
    """Four epochs of five iterations in one go; optimizer steps after the second, fourth and fifth of each."""
    folder = tmp_path_factory.mktemp('straight')
    _, batches = train(folder)
    return folder, batches


# inside accumulation, at a step, at the end of an epoch, in the last epochs without mosaic
@pytest.mark.parametrize('end_after', [3, 6, 7, 10, 13, 19])
def test_a_signal_in_an_epoch_costs_no_batch(straight, tmp_path, end_after):
    folder, whole = straight
    _, before = train(tmp_path, end_after, by=signal.SIGTERM)
    runner, after = train(tmp_path, resume=True)
    saved = end_after - (end_after % 5) % 2 if end_after % 5 else end_after  # gradients since the last step are lost
    assert before == whole[:end_after]
    assert after == whole[saved:]
    assert_same_end(folder / 'epoch_4.pth', tmp_path / 'epoch_4.pth')
    assert names(tmp_path) == [f'epoch_{number}.pth' for number in (1, 2, 3, 4)], 'emergency saves go'


@pytest.mark.parametrize('end_after', [5, 8, 12, 16])
def test_checkpoints_by_iterations_are_of_the_end_of_a_step_and_exact(straight, tmp_path, end_after):
    folder, whole = straight
    train(tmp_path, end_after, checkpoint=EVERY_THREE)
    # due at 3, 6, 9, 12, 15, 18; steps at 2, 4, 5, 7, 9, 10, 12, 14, 15, 17, 19, 20
    saved = [number for number in (4, 7, 9, 12, 15, 19) if number <= end_after]
    assert names(tmp_path) == sorted(f'iter_{number}.pth' for number in saved[-2:])
    _, after = train(tmp_path, resume=True, checkpoint=EVERY_THREE)
    assert after == whole[saved[-1] :]
    assert_same_end(folder / 'epoch_4.pth', tmp_path / 'iter_20.pth')


@DATASETS.register_module()
class Drawn(torch.utils.data.Dataset):
    """Vectors drawn from the process's generators, which SeededDataset seeds."""

    metainfo = {'classes': ('a', 'b')}

    def full_init(self) -> None:
        """As MMEngine asks of a data set that it builds."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> dict:
        return {'x': torch.from_numpy(np.random.rand(4).astype(np.float32)) + index / 10}


@pytest.mark.parametrize('workers', [0, 2])
def test_workers_that_live_on_between_epochs_get_the_batches_that_are_left(tmp_path, workers):
    def run(folder, workers, **kwargs):
        loader = {
            'dataset': {'type': 'mmyolo_ext.SeededDataset', 'dataset': {'type': 'Drawn'}},
            'sampler': {'type': 'DefaultSampler', 'shuffle': True},
            'batch_size': 2,
            'num_workers': workers,
            'persistent_workers': workers > 0,
            'collate_fn': {'type': 'default_collate'},
        }
        return train(folder, hooks=RECIPE_HOOKS[:3], train_dataloader=loader, optim_wrapper=with_rate(1e-4), **kwargs)

    _, whole = run(tmp_path / 'straight', 0)
    run(tmp_path / 'ended', workers, end_after=7, by=signal.SIGTERM)
    _, after = run(tmp_path / 'ended', workers, resume=True)
    assert after == whole[7:]
    assert_same_end(tmp_path / 'straight/epoch_4.pth', tmp_path / 'ended/epoch_4.pth')


def test_only_remaining_batches_are_loaded(tmp_path):
    train(tmp_path, 7, by=signal.SIGTERM)
    loaded = []

    class Counting(ToyDataset):
        def __getitem__(self, index: int) -> dict:
            loaded.append(index)
            return super().__getitem__(index)

    train(tmp_path, resume=True, dataset=Counting())
    assert len(loaded) == 26  # 13 batches of two


def test_checkpoints_load_safely_and_hold_plain_histories(straight):
    content = torch.load(straight[0] / 'epoch_4.pth', weights_only=True)
    history = content['message_hub']['log_scalars']['train/loss']
    assert len(history['log']) == len(history['count']) == 20 and history['max_length'] > 0
    assert content['meta']['epoch'] == 4 and content['meta']['iter'] == 20
    run = content['meta']['run']
    assert {key: run[key] for key in ('batch_size', 'world_size', 'accumulation', 'images', 'epoch_length')} == {
        'batch_size': 2,
        'world_size': 1,
        'accumulation': 2,
        'images': 10,
        'epoch_length': 5,
    }


def test_histories_are_resumed(straight, tmp_path):
    train(tmp_path, 11)
    runner, _ = train(tmp_path, resume=True)
    whole = torch.load(straight[0] / 'epoch_4.pth')['message_hub']['log_scalars']['train/loss']['log']
    assert runner.message_hub.get_scalar('train/loss').data[0].tolist() == whole.tolist()


def test_a_checkpoint_of_mmengine_with_pickled_histories_is_resumed(straight, tmp_path):
    train(tmp_path, 11)
    path = tmp_path / 'epoch_2.pth'
    content = torch.load(path)
    hub = content['message_hub']
    hub['log_scalars'] = {
        key: HistoryBuffer(value['log'].tolist(), value['count'].tolist(), value['max_length'])
        for key, value in hub['log_scalars'].items()
    }
    del content['meta']['run']
    torch.save(content, path)
    (tmp_path / MANIFEST).unlink()
    runner, after = train(tmp_path, resume=True)
    assert CheckpointFolder(tmp_path).entries['epoch_2.pth']['batch'] == 0, 'noted from now on'
    assert after == straight[1][10:]
    assert len(runner.message_hub.get_scalar('train/loss').data[0]) == 20
    assert_same_end(straight[0] / 'epoch_4.pth', tmp_path / 'epoch_4.pth')


# damaged files


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def zero_in_the_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :][:64] = bytes(64)
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b'')


def make_nan(path: Path) -> None:
    content = torch.load(path)
    content['optimizer']['state'][0]['momentum_buffer'].fill_(float('nan'))
    torch.save(content, path)
    forget(path)


def forget(path: Path) -> None:
    """Take a file out of the manifest, as if the run was killed just after the rename."""
    manifest = path.with_name(MANIFEST)
    entries = json.loads(manifest.read_text())
    entries.pop(path.name, None)
    manifest.write_text(json.dumps(entries))


def cut_and_forget(path: Path) -> None:
    cut(path)
    forget(path)


def zero_and_forget(path: Path) -> None:
    zero_in_the_middle(path)
    forget(path)


@pytest.mark.parametrize(
    ('damage', 'reason'),
    [
        (cut, 'epoch_2.pth has .* bytes'),
        (zero, 'epoch_2.pth differs from what was written'),
        (zero_in_the_middle, 'epoch_2.pth differs from what was written'),
        (empty, 'epoch_2.pth has 0 of'),
        (make_nan, 'epoch_2.pth holds NaN or infinity in optimizer: state.0.momentum_buffer'),
        (cut_and_forget, 'epoch_2.pth cannot be read'),
        (zero_and_forget, 'epoch_2.pth'),
    ],
)
def test_a_damaged_checkpoint_is_passed_over(straight, tmp_path, damage, reason):
    train(tmp_path, 12)
    damage(tmp_path / 'epoch_2.pth')
    (tmp_path / 'last_checkpoint').write_text('')
    _, after = train(tmp_path, resume=True)
    assert after == straight[1][5:]
    assert_same_end(straight[0] / 'epoch_4.pth', tmp_path / 'epoch_4.pth')
    log = log_of(tmp_path)
    assert [line for line in log.splitlines() if 'Not resumed from' in line], log
    assert re.search(f'Not resumed from: .*{reason}', log), log
    (aside,) = tmp_path.glob('earlier_*')
    assert names(aside) == ['epoch_2.pth']


@pytest.mark.parametrize('pointer', ['', 'elsewhere/epoch_9.pth', None])
def test_the_pointer_is_a_hint(straight, tmp_path, pointer):
    train(tmp_path, 12)
    if pointer is None:
        (tmp_path / 'last_checkpoint').unlink()
    else:
        (tmp_path / 'last_checkpoint').write_text(pointer)
    _, after = train(tmp_path, resume=True)
    assert after == straight[1][10:]


def test_a_run_is_not_started_over_where_checkpoints_lie(tmp_path):
    train(tmp_path, 12)
    for path in tmp_path.glob('epoch_*.pth'):
        cut(path)
    with pytest.raises(ValueError, match=r'holds checkpoints \(epoch_1.pth, epoch_2.pth\) but none to resume from'):
        train(tmp_path, resume=True)
    assert names(tmp_path) == ['epoch_1.pth', 'epoch_2.pth']


def test_what_a_killed_run_left_half_written_is_deleted(tmp_path):
    (tmp_path / '.epoch_7.pth.writing').write_bytes(b'PK')
    (tmp_path / 'notes.writing').write_bytes(b'mine')
    train(tmp_path, max_epochs=1)
    assert not (tmp_path / '.epoch_7.pth.writing').exists()
    assert (tmp_path / 'notes.writing').exists()


# other runs


def test_a_new_run_moves_the_checkpoints_of_the_earlier_one(tmp_path):
    first = validated({1: 0.9, 2: 0.8})
    train(tmp_path, max_epochs=2, checkpoint=BEST, **first)
    assert names(tmp_path) == ['best_score_epoch_1.pth', 'epoch_1.pth', 'epoch_2.pth']
    train(tmp_path, max_epochs=1, checkpoint=BEST, **validated({1: 0.1}))
    assert names(tmp_path) == ['best_score_epoch_1.pth', 'epoch_1.pth']
    (aside,) = tmp_path.glob('earlier_*')
    assert names(aside) == ['best_score_epoch_1.pth', 'epoch_1.pth', 'epoch_2.pth']
    assert CheckpointFolder(tmp_path).best('score') == ('best_score_epoch_1.pth', 0.1)
    assert CheckpointFolder(aside).best('score') == ('best_score_epoch_1.pth', 0.9)
    assert 'a new training starts here: 3 earlier checkpoints were moved to' in log_of(tmp_path)


def test_a_new_run_can_start_from_weights_that_are_moved(tmp_path):
    runner, _ = train(tmp_path, max_epochs=2)
    train(tmp_path, max_epochs=1, load_from=str(tmp_path / 'epoch_2.pth'))
    (aside,) = tmp_path.glob('earlier_*')
    assert names(aside) == ['epoch_1.pth', 'epoch_2.pth'] and names(tmp_path) == ['epoch_1.pth']


def test_an_older_checkpoint_sets_the_newer_ones_aside(straight, tmp_path):
    train(tmp_path, 17)
    _, after = train(tmp_path, resume=True, load_from=str(tmp_path / 'epoch_1.pth'))
    assert after == straight[1][5:]
    (aside,) = tmp_path.glob('earlier_*')
    assert names(aside) == ['epoch_2.pth', 'epoch_3.pth']
    assert names(tmp_path) == [f'epoch_{number}.pth' for number in (1, 2, 3, 4)]


def test_a_run_resumes_in_another_folder_and_keeps_the_first(tmp_path):
    scores = validated({1: 0.5, 2: 0.4, 3: 0.3, 4: 0.6})
    a, b = tmp_path / 'a', tmp_path / 'b'
    train(a, 12, checkpoint=BEST, **scores)
    before = {path: path.read_bytes() for path in a.rglob('*.pth')}
    (b / 'other').mkdir(parents=True)
    torch.save({'x': 1}, b / 'best_score_epoch_9.pth')
    runner, _ = train(b, resume=True, load_from=str(a / 'epoch_2.pth'), checkpoint=BEST, **scores)
    assert {path: path.read_bytes() for path in a.rglob('*.pth')} == before
    assert names(b) == ['best_score_epoch_4.pth', 'epoch_3.pth', 'epoch_4.pth']
    (aside,) = b.glob('earlier_*')
    assert names(aside) == ['best_score_epoch_9.pth']


@pytest.mark.parametrize('kind', ['absolute', 'parent', 'folder', 'own'])
def test_a_hostile_best_ckpt_deletes_nothing(tmp_path, kind):
    """MMEngine deletes the file or the whole folder that ``best_ckpt`` of a checkpoint names."""
    work_dir, foreign = tmp_path / 'run', tmp_path / 'foreign'
    foreign.mkdir()
    (foreign / 'best_score_epoch_1.pth').write_text('mine')
    (tmp_path / 'outside').mkdir()
    (tmp_path / 'outside' / 'thesis.txt').write_text('mine')
    train(work_dir, 12)
    (work_dir / 'results.pth').write_text('mine')
    path = work_dir / 'epoch_2.pth'
    content = torch.load(path)
    hostile = {
        'absolute': str(foreign / 'best_score_epoch_1.pth'),
        'parent': f'{work_dir}/../outside',
        'folder': str(tmp_path / 'outside'),
        'own': str(work_dir / 'results.pth'),
    }[kind]
    content['message_hub']['runtime_info'] |= {
        'best_ckpt': hostile,
        'best_score': 0.1,
        'last_ckpt': hostile,
        'keep_ckpt_ids': ['../../outside/thesis'],
    }
    torch.save(content, path)
    forget(path)
    train(work_dir, resume=True, checkpoint=BEST, **validated({2: 0.5, 3: 0.6, 4: 0.7}))
    assert (foreign / 'best_score_epoch_1.pth').read_text() == 'mine'
    assert (tmp_path / 'outside' / 'thesis.txt').read_text() == 'mine'
    assert (work_dir / 'results.pth').read_text() == 'mine'


@pytest.mark.parametrize('key', ['config', 'cfg'])
def test_a_config_in_a_checkpoint_is_not_executed(tmp_path, key):
    train(tmp_path, 12)
    path = tmp_path / 'epoch_2.pth'
    content = torch.load(path)
    content['meta'][key] = f'import pathlib\npathlib.Path({str(tmp_path / "executed")!r}).touch()\ngpu_ids = [0]'
    torch.save(content, path)
    forget(path)
    train(tmp_path, resume=True)
    assert not (tmp_path / 'executed').exists()


def test_a_manifest_cannot_name_files_elsewhere(tmp_path):
    work_dir = tmp_path / 'run'
    train(work_dir, 12)
    (tmp_path / 'epoch_0.pth').write_text('mine')
    entries = json.loads((work_dir / MANIFEST).read_text())
    entries['../epoch_0.pth'] = {'kind': 'emergency', 'epoch': 0, 'iter': 1}
    entries['/etc/passwd'] = {'kind': 'best', 'metric': 'score', 'score': 1.0, 'epoch': 0, 'iter': 1}
    (work_dir / MANIFEST).write_text(json.dumps(entries))
    train(work_dir, resume=True)
    assert (tmp_path / 'epoch_0.pth').read_text() == 'mine'


# best scores and early stopping


def test_the_best_score_survives_and_ties_are_not_written_again(tmp_path):
    scores = {1: 0.5, 2: 0.7, 3: 0.6, 4: 0.65}
    train(tmp_path, 17, checkpoint=BEST, **validated(scores))
    stamp = (tmp_path / 'best_score_epoch_2.pth').stat().st_mtime_ns
    runner, _ = train(tmp_path, resume=True, checkpoint=BEST, **validated(scores))
    assert names(tmp_path) == ['best_score_epoch_2.pth', 'epoch_3.pth', 'epoch_4.pth']
    assert (tmp_path / 'best_score_epoch_2.pth').stat().st_mtime_ns == stamp
    assert runner.message_hub.get_info('best_score') == 0.7


def test_a_run_ended_in_a_validation_repeats_it_and_finds_its_best(tmp_path):
    scores = {1: 0.5, 2: 0.7, 3: 0.6, 4: 0.65}
    train(tmp_path, 2, by='validation', checkpoint=BEST, **validated(scores))
    assert names(tmp_path) == ['best_score_epoch_1.pth', 'epoch_1.pth', 'epoch_2.pth']
    train(tmp_path, resume=True, checkpoint=BEST, **validated(scores))
    assert names(tmp_path) == ['best_score_epoch_2.pth', 'epoch_3.pth', 'epoch_4.pth']


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_what_is_not_finite_is_never_the_best(tmp_path, bad):
    train(tmp_path, checkpoint=BEST, **validated({1: bad, 2: 0.2, 3: bad, 4: 0.1}))
    assert names(tmp_path) == ['best_score_epoch_2.pth', 'epoch_3.pth', 'epoch_4.pth']
    assert f'score is {bad}, which is never the best' in log_of(tmp_path)


@pytest.mark.parametrize('end_after', [None, 7, 10, 12, 17])
def test_early_stopping_counts_on(tmp_path, end_after):
    # no improvement from the second epoch on: stopped after the validation of the fourth
    stopping = {'type': 'EarlyStoppingHook', 'monitor': 'score', 'rule': 'greater', 'patience': 3, 'min_delta': 0.01}
    settings = {
        'hooks': [*RECIPE_HOOKS, stopping],
        'checkpoint': BEST,
        'max_epochs': 8,
        **validated(dict.fromkeys(range(1, 9), 0.5)),
    }
    if end_after:
        train(tmp_path, end_after, **settings)
        assert 'epoch_4.pth' not in names(tmp_path)
    runner, _ = train(tmp_path, resume=bool(end_after), **settings)
    assert runner.epoch == 4
    # and a run that has stopped stays stopped
    runner, after = train(tmp_path, resume=True, **settings)
    assert runner.epoch == 4 and after == []


def test_best_weights_are_refused_with_the_checkpoint_to_take(tmp_path):
    train(tmp_path, 12, checkpoint=BEST, **validated({1: 0.5, 2: 0.4}))
    best = tmp_path / 'best_score_epoch_1.pth'
    assert sorted(torch.load(best)) == ['message_hub', 'meta', 'state_dict']
    with pytest.raises(ValueError, match=r'has no optimizer state.*resume from .*epoch_2.pth'):
        train(tmp_path, resume=True, load_from=str(best))
    for path in tmp_path.glob('epoch_*.pth'):
        path.unlink()
    with pytest.raises(ValueError, match='none to resume from: the best ones are weights alone'):
        train(tmp_path, resume=True)


# what differs


class Renamed(ToyDataset):
    metainfo = {'classes': ('b', 'a')}


class Other(ToyDataset):
    metainfo = {'classes': ('a', 'c')}


class More(ToyDataset):
    metainfo = {'classes': ('a', 'b', 'c')}


def with_rate(lr: float) -> dict:
    return {
        'type': 'mmyolo_ext.YOLOOptimWrapper',
        'constructor': 'mmyolo_ext.YOLOOptimConstructor',
        'optimizer': {'type': 'SGD', 'lr': lr, 'momentum': 0.937, 'nesterov': True, 'weight_decay': 5e-4},
    }


LONGER_WARMUP = [
    {'type': f'mmyolo_ext.{kind}', 'convert_to_iter_based': True, 'warmup_epochs': 2, 'min_warmup_iters': 7}
    for kind in ('WarmupLinearLR', 'WarmupMomentum')
]


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'dataset': Renamed()}, r"the classes are in another order \(class 0 is 'a' -> 'b'\)"),
        ({'dataset': Other()}, "class 1 is 'b' -> 'c'"),
        ({'dataset': More()}, '2 -> 3 classes'),
        ({'optim_wrapper': with_rate(0.02)}, r'optim_wrapper.optimizer.lr 0.01 -> 0.02'),
        ({'param_scheduler': LONGER_WARMUP}, r'param_scheduler\[0\].warmup_epochs 1 -> 2'),
        ({'max_epochs': 1}, 'the checkpoint has 2 of max_epochs=1 done'),
    ],
)
def test_what_cannot_be_rescaled_is_refused(tmp_path, settings, message):
    train(tmp_path, 12)
    before = {path: path.read_bytes() for path in tmp_path.glob('*.pth')}
    with pytest.raises(ValueError, match=message):
        train(tmp_path, resume=True, **settings)
    assert {path: path.read_bytes() for path in tmp_path.glob('*.pth')} == before


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'batch_size': 5}, 'images a batch 2 -> 5, batches a step 2 -> 1, iterations an epoch 5 -> 2'),
        ({'dataset': ToyDataset(12)}, 'training images 10 -> 12, iterations an epoch 5 -> 6'),
        (
            {'hooks': [{'type': 'mmyolo_ext.AccumulateHook', 'nominal_batch_size': 8}, *RECIPE_HOOKS[1:]]},
            'batches a step 2 -> 4',
        ),
    ],
)
def test_epochs_of_another_length_are_rescaled_at_their_end_alone(tmp_path, settings, message):
    train(tmp_path / 'inside', 12, by=signal.SIGTERM)
    with pytest.raises(ValueError, match=rf'{message}: this checkpoint was saved inside an epoch \(iteration 12\)'):
        train(tmp_path / 'inside', resume=True, **settings)
    train(tmp_path / 'between', 11)
    runner, after = train(tmp_path / 'between', resume=True, **settings)
    length = len(runner.train_dataloader)
    assert [row[0] for row in after] == list(range(2 * length, 4 * length))
    assert f'{message}: resumed at the end of epoch 2' in log_of(tmp_path / 'between')


class Rates(Hook):
    def __init__(self) -> None:
        self.rows: dict[int, float] = {}

    def before_train_iter(self, runner, *args, **kwargs) -> None:
        self.rows[runner.iter] = runner.optim_wrapper.optimizer.param_groups[0]['lr']


def test_rescaled_schedules_are_those_of_the_new_length(tmp_path):
    straight, resumed = Rates(), Rates()
    settings = {'optim_wrapper': with_rate(1e-4), 'max_epochs': 8}
    train(tmp_path / 'straight', hooks=[*RECIPE_HOOKS, straight], batch_size=5, **settings)
    train(tmp_path / 'resumed', 21, **settings)
    train(tmp_path / 'resumed', hooks=[*RECIPE_HOOKS, resumed], batch_size=5, resume=True, **settings)
    # warm-up ends after 7 iterations; the fifth epoch of two iterations begins at iteration 8
    assert resumed.rows == {number: straight.rows[number] for number in range(8, 16)}


def test_without_accumulation_another_batch_is_refused_between_epochs_too(tmp_path):
    train(tmp_path, 11, hooks=RECIPE_HOOKS[1:])
    with pytest.raises(ValueError, match='a step would see 2 -> 5 images, which the learning rates'):
        train(tmp_path, resume=True, batch_size=5, hooks=RECIPE_HOOKS[1:])


def test_more_epochs_are_allowed_and_logged(tmp_path):
    train(tmp_path, 11)
    runner, _ = train(tmp_path, resume=True, max_epochs=6)
    assert runner.epoch == 6
    assert 'max_epochs 4 -> 6: the schedules are stretched' in log_of(tmp_path)


# failures


def test_a_full_disk_costs_no_good_checkpoint(tmp_path, monkeypatch):
    real, free = os.fsync, [10_000_000]

    def fsync(handle):
        if free[0] == 0 and not os.path.isdir(f'/proc/self/fd/{handle}'):
            raise OSError(errno.ENOSPC, 'No space left on device')
        real(handle)

    monkeypatch.setattr(os, 'fsync', fsync)

    class Fill(Hook):
        def before_train_epoch(self, runner) -> None:
            if runner.epoch == 2:
                free[0] = 0

    with pytest.raises(StopTraining) as stop:
        train(tmp_path, hooks=[*RECIPE_HOOKS, Fill()])
    message = str(stop.value)
    assert stop.value.code == 1 and '\n' not in message
    assert 'epoch_3.pth: No space left on device' in message and 'epoch_2.pth. Resume with:' in message
    assert names(tmp_path) == ['epoch_1.pth', 'epoch_2.pth'] and not list(tmp_path.glob('.*writing'))
    free[0] = 1
    runner, _ = train(tmp_path, resume=True)
    assert runner.epoch == 4


def test_a_full_disk_is_helped_by_what_would_be_deleted_anyway(tmp_path, monkeypatch):
    """Room for two checkpoints and a half, for a run that keeps two and has three for a moment."""
    real = os.fsync

    def fsync(handle):
        sizes = [path.stat().st_size for path in tmp_path.iterdir() if '.pth' in path.name]
        if sum(sizes) > 2.5 * max(sizes, default=0):
            raise OSError(errno.ENOSPC, 'No space left on device')
        real(handle)

    monkeypatch.setattr(os, 'fsync', fsync)
    train(tmp_path, checkpoint={'type': 'CheckpointHook', 'interval': 1, 'max_keep_ckpts': 2})
    assert names(tmp_path) == ['epoch_3.pth', 'epoch_4.pth']


def test_what_is_not_plain_is_left_out_and_logged(tmp_path):
    class Odd(Hook):
        def before_save_checkpoint(self, runner, checkpoint) -> None:
            checkpoint['mine'] = {'a': 1, 'b': logging.getLogger('odd'), 'c': np.float64(2.0)}

    train(tmp_path, max_epochs=1, hooks=[*RECIPE_HOOKS, Odd()])
    assert torch.load(tmp_path / 'epoch_1.pth')['mine'] == {'a': 1, 'b': None, 'c': 2.0}
    assert 'Not saved in epoch_1.pth, because they are not plain data: mine.b (Logger)' in log_of(tmp_path)


def test_ranks_hear_of_a_checkpoint_before_it_is_written(tmp_path):
    heard = []

    class Listener(Hook):
        def before_checkpoint(self, runner) -> None:
            heard.append(runner.iter)

    train(tmp_path, max_epochs=2, hooks=[*RECIPE_HOOKS, Listener()])
    assert heard == [5, 10]


def test_remote_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match='writes to local folders'):
        train(tmp_path, checkpoint={'type': 'CheckpointHook', 'out_dir': 's3://bucket/run'})


def test_checkpoints_may_be_in_another_folder(straight, tmp_path):
    checkpoint = {'type': 'CheckpointHook', 'interval': 1, 'out_dir': str(tmp_path / 'out')}
    train(tmp_path / 'run', 12, checkpoint=checkpoint)
    assert names(tmp_path / 'out' / 'run') == ['epoch_1.pth', 'epoch_2.pth'] and names(tmp_path / 'run') == []
    _, after = train(tmp_path / 'run', resume=True, checkpoint=checkpoint)
    assert after == straight[1][10:]


def test_after_rescaling_the_newest_checkpoint_is_found_by_its_epoch(tmp_path):
    """Five iterations an epoch, then two: iteration 12 comes after iteration 20."""
    settings = {'optim_wrapper': with_rate(1e-4), 'max_epochs': 8, 'checkpoint': {'type': 'CheckpointHook'} | KEEP_TWO}
    train(tmp_path, 21, **settings)
    _, before = train(tmp_path, 12, by=signal.SIGTERM, resume=True, batch_size=5, **settings)
    assert before[-1][0] == 11
    assert names(tmp_path) == ['epoch_4.pth', 'epoch_5.pth', 'iter_12.pth'], 'before the end of epoch 6'
    _, after = train(tmp_path, resume=True, batch_size=5, **settings)
    assert [row[0] for row in after] == [12, 13, 14, 15]


def test_files_of_a_killed_run_that_should_be_gone_go_at_the_next_start(tmp_path):
    settings = {'checkpoint': BEST, **validated({1: 0.5, 2: 0.7, 3: 0.6, 4: 0.6})}
    train(tmp_path, 17, **settings)
    folder = CheckpointFolder(tmp_path)
    for name, facts in (
        ('epoch_1.pth', {'epoch': 1, 'iter': 5, 'batch': 0, 'kind': 'periodic'}),
        ('best_score_epoch_1.pth', {'epoch': 1, 'iter': 5, 'batch': 0, 'kind': 'best', 'metric': 'score', 'score': 1}),
    ):
        folder.entries = {name: facts, **folder.entries}
        folder.write(f'x_{name}', {}, **facts)
        (tmp_path / f'x_{name}').rename(tmp_path / name)
        folder.entries.pop(f'x_{name}')
    folder._write_manifest()
    train(tmp_path, 18, resume=True, **settings)
    assert names(tmp_path) == ['best_score_epoch_2.pth', 'epoch_2.pth', 'epoch_3.pth']


def test_schedules_of_mmengine_go_back_to_the_last_step_too(tmp_path):
    """They multiply the last rate, which the iterations since the last optimizer step have moved already."""
    settings = {
        'optim_wrapper': with_rate(1e-3),
        'param_scheduler': [
            {'type': 'LinearLR', 'start_factor': 0.1, 'by_epoch': False, 'begin': 0, 'end': 15},
            {'type': 'MultiStepLR', 'milestones': [17], 'by_epoch': False, 'begin': 15},
        ],
    }
    train(tmp_path / 'straight', **settings)
    train(tmp_path / 'ended', 8, by=signal.SIGTERM, **settings)
    assert 'iter_7.pth' in names(tmp_path / 'ended')
    train(tmp_path / 'ended', resume=True, **settings)
    assert_same_end(tmp_path / 'straight' / 'epoch_4.pth', tmp_path / 'ended' / 'epoch_4.pth')
