"""DistributedDataParallel reduces the true mean of the gradients, and several ranks train as one process does."""

import copy
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.dist import all_reduce, barrier, get_world_size
from mmengine.hooks import Hook
from rank_processes import run_ranks
from tiny_detector import NoiseImages, tiny_detector
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from toy_runner import toy_runner

CHANNELS_LAST = {'memory_format': 'channels_last'}
FROZEN = ('backbone.layers.[0-2]', 'neck.*.bn')
NORMS = ('backbone.*bn', 'neck.*bn')
IMAGES = 12


class TrueGradients(Hook):
    """Holds each optimizer step's gradient against the mean over ranks of those of an unwrapped copy."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.cosines: list[float] = []
        self.differences: list[float] = []
        self.sum: torch.Tensor | float = 0.0

    def before_train(self, runner) -> None:
        runner.optim_wrapper.optimizer.register_step_pre_hook(lambda *_: self._compare(runner))

    def before_train_iter(self, runner, batch_idx: int, data_batch: Any = None) -> None:
        wrapped = runner.model
        assert isinstance(wrapped, DistributedDataParallel) == (get_world_size() > 1)
        model = copy.deepcopy(wrapped.module if get_world_size() > 1 else wrapped)
        losses = model(**model.data_preprocessor(data_batch, training=True), mode='loss')
        model.parse_losses(losses)[0].backward()
        gradient = flat_gradient(model)
        all_reduce(gradient, 'mean')
        self.sum = self.sum + gradient

    def _compare(self, runner) -> None:
        found = flat_gradient(runner.model).double()
        expected, self.sum = self.sum.double(), 0.0
        self.cosines.append(torch.cosine_similarity(found, expected, dim=0).item())
        self.differences.append(((found - expected).norm() / expected.norm()).item())


def flat_gradient(model: nn.Module) -> torch.Tensor:
    """In the order of the indices, whatever the layout in memory."""
    return torch.cat([p.grad.detach().contiguous().flatten() for p in model.parameters() if p.requires_grad])


class Saboteur(Hook):
    """A hook of a user that changes parameters after the model was wrapped."""

    def __init__(self, what: str) -> None:
        self.what = what

    def before_run(self, runner) -> None:
        model = runner.model.module
        if self.what == 'layout':
            runner.model.to(memory_format=torch.channels_last)
        if self.what == 'frozen':
            model.neck.requires_grad_(False)
        if self.what == 'replaced':
            convolution = model.bbox_head.convs_pred[0]
            convolution.bias = nn.Parameter(convolution.bias.detach().clone())
        if self.what == 'added':
            model.scale = nn.Parameter(torch.ones(1))


def detector_runner(
    work_dir: Path,
    batch_size: int,
    head: dict | None = None,
    frozen_parts: tuple[str, ...] = (),
    config: dict | None = None,
    last_rank_has_boxes: bool = False,
    accumulated: int = 1,
    unused: bool = False,
    hooks: tuple = (),
    default_hooks: dict | None = None,
    **settings: Any,
):
    """One epoch or more of the tiny detector, wrapped where there are several ranks."""
    wrapper = {'type': 'MMDistributedDataParallel', 'device_ids': None, 'broadcast_buffers': False}
    several = get_world_size() > 1
    dataset = NoiseImages(IMAGES, get_world_size() if last_rank_has_boxes else 1)
    nominal = batch_size * get_world_size() * accumulated
    return toy_runner(
        work_dir,
        model=tiny_detector(head, frozen_parts),
        dataset=dataset,
        batch_size=batch_size,
        hooks=[{'type': 'mmyolo_ext.AccumulateHook', 'nominal_batch_size': nominal}, *hooks],
        config={
            **CHANNELS_LAST,
            **(config or {}),
            **({'model_wrapper_cfg': {**wrapper, 'find_unused_parameters': unused}} if several else {}),
        },
        launcher='pytorch' if several else 'none',
        train_dataloader={
            'dataset': dataset,
            'sampler': {'type': 'DefaultSampler', 'shuffle': False},
            'batch_size': batch_size,
            'collate_fn': {'type': 'pseudo_collate'},
        },
        default_hooks={
            'runtime_info': {'type': 'mmyolo_ext.TrainingInfoHook'},
            **(default_hooks or {'checkpoint': None}),
        },
        **{'max_epochs': 1, **settings},
    )


GRADIENTS = {
    'channels last': {},
    'contiguous': {'config': {'memory_format': None}},
    'unused parameters looked for': {'unused': True},
    'accumulated': {'accumulated': 2},
    'accumulated, unused parameters looked for': {'accumulated': 2, 'unused': True},
    'frozen parts': {'frozen_parts': FROZEN},
    'boxes on the last rank alone': {'last_rank_has_boxes': True},
    'compiled': {'config': {'compile_parts': {'backend': 'eager'}}},
}


# by the number of ranks; with three, those that depend on it
CASES = {2: tuple(GRADIENTS), 3: ('channels last', 'accumulated', 'boxes on the last rank alone')}


def gradients(folder: Path) -> dict[str, tuple[list[float], list[float]]]:
    found = {}
    for name in CASES[get_world_size()]:
        check = TrueGradients()
        detector_runner(folder / name, 2, hooks=(check,), **GRADIENTS[name]).train()
        found[name] = check.cosines, check.differences
    return found


def sabotages(folder: Path) -> dict[str, str]:
    found = {}
    for what in ('layout', 'frozen', 'replaced', 'added'):
        runner = detector_runner(folder / what, 2, hooks=(Saboteur(what),), config={'memory_format': None})
        try:
            runner.train()
        except RuntimeError as error:
            found[what] = str(error)
    return found


HEADS = {
    'default': {},
    'slide and Wise-IoU': {
        'loss_obj': {'type': 'mmyolo_ext.SlideLoss', 'loss': {'type': 'mmyolo_ext.BCELoss'}},
        'loss_bbox': {'type': 'mmyolo_ext.IoULoss', 'mode': 'wiou_v3', 'loss_weight': 0.05},
        'auto_balance': True,
    },
}


class FirstGradient(Hook):
    """Of the first step."""

    gradient: torch.Tensor | None = None

    def before_train(self, runner) -> None:
        runner.optim_wrapper.optimizer.register_step_pre_hook(lambda *_: self._note(runner))

    def _note(self, runner) -> None:
        self.gradient = flat_gradient(runner.model).clone() if self.gradient is None else self.gradient


def trained(folder: Path, batch_size: int) -> dict[str, dict[str, Any]]:
    """Two epochs of six images a step, batch norms frozen: losses of the log, weights and buffers."""
    found = {}
    for name, head in HEADS.items():
        first = FirstGradient()
        runner = detector_runner(
            folder / name, batch_size, head, NORMS, max_epochs=2, hooks=(first,), param_scheduler=None
        )
        runner.train()
        model = runner.model.module if get_world_size() > 1 else runner.model
        scalars = runner.message_hub.log_scalars
        found[name] = {
            'losses': {key: scalars[key].data[0].copy() for key in scalars if key.startswith('train/loss')},
            'gradient': first.gradient,
            'state': {key: value.clone() for key, value in model.state_dict().items()},
        }
    return found


class Losses(Hook):
    """The loss of every iteration, as a mean over ranks."""

    def __init__(self) -> None:
        self.means: list[float] = []

    def after_train_iter(self, runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None) -> None:
        mean = outputs['loss'].detach().clone()
        all_reduce(mean, 'mean')
        self.means.append(mean.item())


def saved_losses(folder: Path) -> tuple[list[float], list[float]]:
    """The losses of a checkpoint that is written between two lines of the log, and those that there were."""
    losses = Losses()
    hooks = {
        'logger': {'type': 'LoggerHook', 'interval': 100},
        'checkpoint': {'type': 'CheckpointHook', 'interval': 2, 'by_epoch': False, 'max_keep_ckpts': -1},
    }
    detector_runner(folder, 2, hooks=(losses,), default_hooks=hooks).train()
    barrier()  # rank 0 has written
    saved = torch.load(folder / 'iter_2.pth')['message_hub']['log_scalars']
    return saved['train/loss']['log'].tolist(), losses.means[:2]


class Interrupt(Hook):
    """Ends the run before its third epoch."""

    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner) -> None:
        if runner.epoch == 2:
            raise KeyboardInterrupt


def resumed(folder: Path) -> list[str]:
    """The names of what differs between the checkpoints of four epochs and of two and a resumed two."""
    hooks = tuple(
        {'type': kind} for kind in ('mmyolo_ext.StepEMAHook', 'SyncBuffersHook', 'mmyolo_ext.SampleSeedHook')
    )
    settings = {
        'head': HEADS['slide and Wise-IoU'],
        'default_hooks': {'checkpoint': {'type': 'CheckpointHook', 'interval': 1}},
        'max_epochs': 4,
    }
    detector_runner(folder / 'whole', 2, hooks=hooks, **settings).train()
    with pytest.raises(KeyboardInterrupt):
        detector_runner(folder / 'halves', 2, hooks=(*hooks, Interrupt()), experiment_name='1', **settings).train()
    barrier()
    runner = detector_runner(folder / 'halves', 2, hooks=hooks, resume=True, experiment_name='2', **settings)
    runner.train()
    assert runner.resumed
    barrier()
    return list(differing(*(torch.load(folder / half / 'epoch_4.pth') for half in ('whole', 'halves'))))


def differing(first: Any, second: Any, name: str = '') -> Iterator[str]:
    """Names of what is not equal to the last bit, through nested containers."""
    if isinstance(first, dict):
        for key in first.keys() | second.keys():
            yield from differing(first.get(key), second.get(key), f'{name}.{key}')
    elif isinstance(first, (list, tuple)) and len(first) == len(second):
        for index, pair in enumerate(zip(first, second, strict=True)):
            yield from differing(*pair, f'{name}.{index}')
    elif not (torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second):
        yield name


def all_jobs(folder: Path) -> dict[str, Any]:
    """Everything that is checked with this number of ranks, so that the processes start once."""
    world_size = get_world_size()
    found = {'gradients': gradients(folder / 'a'), 'trained': trained(folder / 'b', 6 // world_size)}
    if world_size == 2:
        found['sabotages'] = sabotages(folder / 'c')
        found['saved'] = saved_losses(folder / 'd')
        found['resumed'] = resumed(folder / 'e')
    return found


@pytest.fixture(scope='module')
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """By the number of ranks, what each found."""
    results = {}
    for world_size in (2, 3):
        folder = tmp_path_factory.mktemp('ranks')
        results[world_size] = run_ranks(all_jobs, world_size, folder / 'processes', folder)
    return results


pytestmark = pytest.mark.slow


@pytest.mark.parametrize(('world_size', 'name'), [(size, name) for size, names in CASES.items() for name in names])
def test_reduced_gradients_are_the_mean_over_ranks(found, world_size: int, name: str) -> None:
    # 12 images: three steps of two ranks with batches of 2, two steps of three ranks; half of them where two are one
    steps = {2: (3, 2), 3: (2, 1)}[world_size][GRADIENTS[name].get('accumulated', 1) - 1]
    for rank in found[world_size]:
        cosines, differences = rank['gradients'][name]
        assert len(cosines) == steps
        assert min(cosines) > 0.999999 and max(differences) < 1e-5


@pytest.mark.parametrize(
    ('what', 'message'),
    [
        ('layout', r'The \(stride, requires_grad\) of the parameter backbone.* changed from .* after the model was'),
        (
            'frozen',
            r'The \(stride, requires_grad\) of the parameter neck.* changed from \(.*, True\) to ',
        ),
        ('replaced', r'The tensor of the parameter bbox_head.convs_pred.0.bias changed'),
        ('added', r'The tensor of the parameter scale changed from one to another or none'),
    ],
)
def test_what_changes_parameters_later_is_refused(found, what: str, message: str) -> None:
    for rank in found[2]:
        assert re.match(message, rank['sabotages'][what])


def test_a_checkpoint_between_the_lines_holds_the_means_over_ranks(found) -> None:
    for rank in found[2]:
        saved, means = rank['saved']
        assert saved == pytest.approx(means, rel=1e-6) and len(saved) == 2


def test_two_epochs_and_two_resumed_are_four_to_the_last_bit(found) -> None:
    for rank in found[2]:
        # times, memory, and the names of the runs
        assert [
            name
            for name in rank['resumed']
            if not re.search(r'time|data_share|images_per_second|memory|experiment_name|last_ckpt', name)
        ] == []


@pytest.mark.parametrize(('world_size', 'name'), itertools.product((2, 3), HEADS))
def test_several_ranks_train_as_one(found, tmp_path, world_size: int, name: str) -> None:
    expected = trained(tmp_path, 6)[name]
    steps = 2 * IMAGES // 6
    for rank in found[world_size]:
        rank = rank['trained'][name]
        assert difference(rank['gradient'], expected['gradient']) < 1e-6
        assert rank['losses'].keys() == expected['losses'].keys() > {'train/loss', 'train/loss_obj'}
        for key, values in expected['losses'].items():
            assert len(values) == steps
            assert rank['losses'][key] == pytest.approx(values, rel=1e-6 if key == 'train/loss' else 1e-5), key
        for key, value in expected['state'].items():
            torch.testing.assert_close(rank['state'][key], value, rtol=1e-4, atol=1e-6, msg=key)


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).double().norm() / expected.double().norm()).item()
