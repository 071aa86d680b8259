"""The runner of every training and test: MMEngine's, with the guarantees that MMEngine does not give."""

import copy
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mmengine
import torch
from mmengine.dist import all_gather_object, broadcast_object_list, get_world_size, is_main_process
from mmengine.evaluator import Evaluator
from mmengine.hooks import EMAHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import BaseLoop, EpochBasedTrainLoop
from mmengine.runner import Runner as MMEngineRunner
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmyolo_ext.checkpoint import resuming
from mmyolo_ext.checkpoint.finite import check_finite
from mmyolo_ext.checkpoint.lock import WorkDirLock, is_locked
from mmyolo_ext.checkpoint.writing import (
    POINTER,
    RESUMABLE,
    CheckpointFolder,
    WriteError,
    checkpoint_names,
    file_names,
    plain,
    remove_unfinished,
)
from mmyolo_ext.engine.hooks.checkpoint import CheckpointHook
from mmyolo_ext.engine.prepare_model import forbid_changes, prepare_model
from mmyolo_ext.engine.run_facts import facts_before, facts_of, optimizer_cfg, shifted, spelled
from mmyolo_ext.engine.step_guard import StepGuard
from mmyolo_ext.engine.stopping import Stopper, StopTraining, resume_command
from mmyolo_ext.engine.train_loop import schedulers_of
from mmyolo_ext.registry import RUNNERS
from mmyolo_ext.weights.reader import install_reader

# parts of MMEngine that have a counterpart here, by the names that configs give them
OWN_LOOPS = {'EpochBasedTrainLoop': 'mmyolo_ext.EpochTrainLoop', 'IterBasedTrainLoop': 'mmyolo_ext.IterTrainLoop'}
OWN_HOOKS = {'CheckpointHook': 'mmyolo_ext.CheckpointHook', 'EarlyStoppingHook': 'mmyolo_ext.EarlyStoppingHook'}
# set by tools/launch.py where the number of processes may change from start to start
ELASTIC = 'MMYOLO_EXT_ELASTIC'


@RUNNERS.register_module()
class Runner(MMEngineRunner):
    """MMEngine's ``Runner``; ``runner_type = 'mmyolo_ext.Runner'`` selects it in a config.

    * A training has its work dir for itself. Without ``resume``, the checkpoints of an earlier run are moved into a
      subfolder; with it, the training resumes from the newest checkpoint that is complete and finite.
    * Checkpoints are written so that neither a killed process nor a full disk costs a good one, hold plain data, and
      are of the end of an optimizer step.
    * Resuming takes known data alone and executes nothing. What differs from the checkpoint is rescaled or refused.

    Attributes:
        resumed: Whether this run was resumed from a checkpoint.
        checkpoints: The folder of the run's checkpoints; None outside of training.
        step_guard: Checks gradients before each optimizer step; None outside of training.
        stopper: Ends the training on a signal, on all ranks alike; None outside of training.
    """

    resumed = False
    checkpoints: CheckpointFolder | None = None
    step_guard = None
    stopper = None
    _written: dict | None = None  # optimizer and schedule as the config writes them
    _start: tuple[str, dict] | None = None  # path and content of the checkpoint to resume from, once read

    def train(self) -> nn.Module:
        """Train, with the work dir locked."""
        self._written = {'schedule': spelled(self.param_schedulers), 'optimizer': optimizer_cfg(self.optim_wrapper)}
        hook = next((hook for hook in self._hooks if isinstance(hook, CheckpointHook)), None)
        self.checkpoints = CheckpointFolder(hook.folder(self.work_dir) if hook else self.work_dir)
        with self._locked():
            return super().train()

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Wrap the model for several processes; nothing touches its parameters afterwards."""
        wrapped = super().wrap_model(model_wrapper_cfg, prepare_model(model, self.cfg))
        forbid_changes(wrapped)
        return wrapped

    def register_hooks(self, default_hooks: dict | None = None, custom_hooks: list | None = None) -> None:
        """Register the hooks of the config, and those that its other keys ask for."""
        super().register_hooks(default_hooks, custom_hooks)
        install_reader()  # MMEngine's reader may execute a file
        compiled = self.cfg.get('compile_parts')
        if compiled is not None:
            backend = compiled.get('backend', 'inductor')
            self.register_hook({'type': 'mmyolo_ext.EagerEvaluationHook', 'backend': backend})

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the training loop; ours in place of MMEngine's, see :mod:`.train_loop`."""
        if isinstance(loop, dict):
            loop = copy.deepcopy(loop)
            if 'by_epoch' in loop and 'type' not in loop:
                loop['type'] = 'EpochBasedTrainLoop' if loop.pop('by_epoch') else 'IterBasedTrainLoop'
            loop['type'] = OWN_LOOPS.get(_plain_name(loop.get('type')), loop.get('type'))
        return super().build_train_loop(loop)

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Build a dataloader, which must make at least one batch: a run of none ends without a word.

        Raises:
            ValueError: If the batch is larger than the data set and ``drop_last`` leaves it out.
        """
        built = MMEngineRunner.build_dataloader(dataloader, seed, diff_rank_seed)
        if built.drop_last and built.batch_size and isinstance(built.dataset, Sized) and len(built) == 0:
            share = f'; each of {get_world_size()} processes gets its part of them' if get_world_size() > 1 else ''
            raise ValueError(
                f'batch_size={built.batch_size} is more than the {len(built.dataset)} images of the data set{share}, '
                'and drop_last=True leaves the incomplete batch out, so there is no batch: take a smaller batch_size, '
                'or drop_last=False'
            )
        return built

    def build_evaluator(self, evaluator: Evaluator | dict | list) -> Evaluator:
        """Build the evaluator; results of the ranks travel through their connection, not through a shared disk."""
        built = super().build_evaluator(evaluator)
        for metric in built.metrics:
            if getattr(metric, 'collect_device', None) == 'cpu' and not getattr(metric, 'collect_dir', None):
                metric.collect_device = 'gpu'  # MMEngine's word for it, on a CPU as well
        return built

    def register_hook(self, hook: Hook | dict, priority: Any = None) -> None:
        """Register a hook; ours in place of MMEngine's ``CheckpointHook`` and ``EarlyStoppingHook``."""
        if isinstance(hook, dict):
            hook['type'] = OWN_HOOKS.get(_plain_name(hook.get('type')), hook.get('type'))
        super().register_hook(hook, priority)

    def dump_config(self) -> None:
        """Write the config into the work dir, unless another training is using it."""
        if is_main_process() and not is_locked(self.work_dir):
            super().dump_config()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Lock the work dir on rank 0; where another run has it, all ranks end with the same line."""
        lock, error = None, [None]
        if is_main_process():
            try:
                lock = WorkDirLock(self.work_dir)
            except (ValueError, OSError) as failure:
                error = [str(failure)]
            else:
                self._tidy(lock)
        broadcast_object_list(error)
        if error[0]:
            raise ValueError(error[0])
        try:
            yield
        finally:
            if lock:
                lock.release()

    def _tidy(self, lock: WorkDirLock) -> None:
        if not lock.supported:
            self.logger.warning(f'The file system of {self.work_dir} has no locks: let one training at a time use it.')
        for folder in {Path(self.work_dir), self.checkpoints.folder}:
            gone = remove_unfinished(folder)
            if gone:
                self.logger.warning(f'Deleted incomplete files of a killed run in {folder}: {", ".join(gone)}')

    # starting

    def load_or_resume(self) -> None:
        """Load weights, resume, or start anew, as ``load_from`` and ``resume`` say; for a test, load weights alone."""
        if self._has_loaded:
            return
        if not isinstance(self._train_loop, BaseLoop):
            if self._load_from:
                self.load_checkpoint(self._load_from)
            return
        self.stopper = Stopper()
        if hasattr(self.optim_wrapper, 'optimizer'):
            self.step_guard = StepGuard(**self.cfg.get('step_guard', {}))
            self.step_guard.attach(self)
        if self._resume:
            self._start = self._find_start()
            if self._start:
                self.resume(self._start[0])
                return
            self.logger.info(f'There is no checkpoint in {self.checkpoints.folder} to resume from: a new training.')
            self._resume = False
        self._move_earlier(checkpoint_names(self.checkpoints.folder), 'a new training starts here')
        super().load_or_resume()

    def resume(
        self,
        filename: str,
        resume_optimizer: bool = True,
        resume_param_scheduler: bool = True,
        map_location: Any = 'default',
    ) -> None:
        """Take over the state of a checkpoint, and nothing else that is in the file.

        Args:
            filename: Path of a checkpoint with the state of an optimizer.
            resume_optimizer: Take over the optimizer.
            resume_param_scheduler: Take over the schedules.
            map_location: Not used; tensors are copied to where the model is.

        Raises:
            ValueError: The file cannot be resumed from, or this run differs from it in what cannot be rescaled.
        """
        content = self._start[1] if self._start and self._start[0] == filename else _read(filename)
        self._start = None
        meta = resuming.known_meta(content['meta'])
        before, now = facts_before(meta), self.facts()
        try:
            for line in resuming.compare_runs(before, now, meta):
                self.logger.warning(f'Resuming from {filename}: {line}.')
        except ValueError as error:
            raise ValueError(f'cannot resume from {filename}: {error}') from error
        histories, info = resuming.known_hub(content.pop('message_hub', None))
        content['meta'] = {key: meta[key] for key in ('epoch', 'iter')}
        try:
            self._take_over(content, meta, before, now, resume_optimizer, resume_param_scheduler)
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise ValueError(f'{filename} does not fit this training: {error}') from error
        for key, history in histories.items():
            self.message_hub.log_scalars[key] = history
            self.message_hub._resumed_keys[key] = True
        self.message_hub.update_info_dict(info)
        self.resumed = self._has_loaded = True
        self._move_later(filename, meta)
        self.logger.info(f'Resumed from {filename}: {self.epoch} epochs, {self.iter} iterations.')

    def facts(self) -> dict[str, Any]:
        """Return what must be the same, or rescaled, when a run resumes from a checkpoint of this one."""
        return {**facts_of(self), **(self._written or {})}

    def position(self, meta: Mapping[str, int]) -> dict[str, int]:
        """Return ``epoch`` and ``iter`` with ``batch``, the completed iterations of the epoch after those."""
        by_epoch = isinstance(self.train_loop, EpochBasedTrainLoop)
        done = meta['epoch'] * len(self.train_dataloader) if by_epoch else 0
        return {'epoch': meta['epoch'], 'iter': meta['iter'], 'batch': meta['iter'] - done}

    def _find_start(self) -> tuple[str, dict] | None:
        """Path and content of the checkpoint to resume from; rank 0 decides for all."""
        found, answer = None, [None, None]
        if is_main_process():
            try:
                if self._load_from:
                    found = (self._load_from, _read(self._load_from))
                else:
                    check = self._check_processes if ELASTIC in os.environ else None
                    found = resuming.find_newest(self.checkpoints.folder, self.logger.warning, check)
                answer = [found and found[0], None]
            except ValueError as error:
                answer = [None, str(error)]
        broadcast_object_list(answer)
        path, error = answer
        if error:
            raise ValueError(error)
        if path is None or found:
            return found
        return path, _read(path, check_sums=False)

    def _check_processes(self, name: str, meta: Mapping[str, Any]) -> None:
        """Refuse a checkpoint that other processes wrote inside an epoch; there is one of an epoch's end before it."""
        before = facts_before(resuming.known_meta(meta))
        length, processes = before.get('epoch_length'), before.get('world_size', self.world_size)
        if processes != self.world_size and length and meta['iter'] != meta['epoch'] * length:
            raise ValueError(
                f'{name} was saved inside an epoch by {processes} processes, and there are {self.world_size} now'
            )

    def _take_over(
        self, content: dict, meta: dict, before: dict, now: dict, resume_optimizer: bool, resume_schedule: bool
    ) -> None:
        self._resume_seed(meta.get('seed'))
        self.call_hook('after_load_checkpoint', checkpoint=content)
        model = _unwrapped(self.model)
        _load_checkpoint_to_model(model, content, revise_keys=[(r'^module\.', '')])
        self._load_own_buffers(content.get('rank_buffers'))
        length, new_length = before.get('epoch_length'), now.get('epoch_length')
        iteration = meta['iter']
        if length and new_length and length != new_length:
            iteration = meta['epoch'] * new_length
        self.train_loop._epoch, self.train_loop._iter = meta['epoch'], iteration
        if resume_optimizer:
            self.optim_wrapper.load_state_dict(content['optimizer'])
        if resume_schedule and self.param_schedulers:
            self._resume_schedules(content.get('param_schedulers'), iteration - meta['iter'])

    def _resume_seed(self, seed: int | None) -> None:
        current = self._randomness_cfg.get('seed')
        if seed is None or seed == current:
            return
        if current is not None:
            self.logger.warning(f'randomness.seed {seed} -> {current}: the seed of the checkpoint, {seed}, is kept.')
        self._randomness_cfg.update(seed=seed)
        self.set_randomness(**self._randomness_cfg)

    def _resume_schedules(self, states: Any, shift: int) -> None:
        """Load the schedules; where epochs got longer, by ``shift`` iterations, those that count iterations move."""
        keys = list(self.param_schedulers) if isinstance(self.param_schedulers, dict) else [None]
        states = [state for key in keys for state in (states or {})[key]] if keys != [None] else list(states or ())
        schedulers = schedulers_of(self)
        if len(states) != len(schedulers):
            raise ValueError(
                f'param_scheduler has {len(states)} -> {len(schedulers)} schedules (in the checkpoint -> in the '
                'config): set it back to resume'
            )
        for scheduler, state in zip(schedulers, states, strict=True):
            state = {key: value for key, value in state.items() if key in vars(scheduler)}
            if shift and not scheduler.by_epoch:
                state = shifted(scheduler, state, shift)
            scheduler.load_state_dict(state)

    def _move_later(self, filename: str, meta: Mapping[str, int]) -> None:
        """Set aside what this run is going to write anew, or, of another folder's run, all that lies here."""
        folder, names = self.checkpoints.folder, checkpoint_names(self.checkpoints.folder)
        own = Path(filename).resolve().parent == folder.resolve()
        entries = self.checkpoints.entries
        later = [name for name in names if not own or resuming.is_newer(name, entries, meta)]
        self._move_earlier(later, f'this training resumes from {filename}')
        name = Path(filename).name
        if not own or not is_main_process():
            return
        try:
            if name not in entries:  # the run was killed before it could note it
                position = {key: meta[key] for key in ('epoch', 'iter', 'batch')}
                self.checkpoints.adopt(name, **position, kind='periodic')
            self.checkpoints.point(self.work_dir, name)
        except WriteError as error:
            self.logger.warning(str(error))

    def _move_earlier(self, names: list[str], reason: str) -> None:
        """Move checkpoints that are not of this run into a subfolder; nothing is deleted."""
        moved, error = None, None
        if is_main_process():
            try:
                moved = self.checkpoints.set_aside(names, self.timestamp)
                if names and POINTER in file_names(self.work_dir):
                    (Path(self.work_dir) / POINTER).unlink()
            except OSError as raised:
                error = f'cannot move the checkpoints in {self.checkpoints.folder}: {raised}'
        answer = [moved, error]
        broadcast_object_list(answer)
        moved, error = answer
        if error:
            raise ValueError(error)
        if not moved:
            return
        self.logger.warning(f'{reason}: {len(names)} earlier checkpoints were moved to {moved}.')
        start = Path(self._load_from) if self._load_from and not self.resumed else None
        if start and start.name in names and start.resolve().parent == self.checkpoints.folder.resolve():
            self._load_from = str(moved / start.name)

    # saving

    def save_checkpoint(
        self,
        out_dir: str | Path,
        filename: str,
        file_client_args: dict | None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict | None = None,
        by_epoch: bool = True,
        backend_args: dict | None = None,
        outdated: Iterable[str] = (),
        metric: str | None = None,
        score: float | None = None,
    ) -> None:
        """Save a checkpoint. Every rank calls this; rank 0 writes.

        Hooks get two events: ``before_checkpoint`` on every rank, the place for what ranks do together, then
        ``before_save_checkpoint`` on rank 0.

        Args:
            out_dir: Local folder.
            filename: Plain name.
            file_client_args: Not supported.
            save_optimizer: Save the optimizer, without which nothing can be resumed.
            save_param_scheduler: Save the schedules.
            meta: ``epoch`` and ``iter``, completed counts.
            by_epoch: Where ``meta`` is missing: whether an epoch ends (MMEngine's hooks save before it is counted).
            backend_args: Not supported.
            outdated: Checkpoints that go when this one is complete.
            metric: Of a best checkpoint, the metric by which it is the best.
            score: Of a best checkpoint, its value.

        Raises:
            StopTraining: It could not be written; the last good checkpoint is untouched and named.
        """
        if file_client_args is not None or backend_args is not None:
            raise ValueError(
                'checkpoints are written to local folders: file_client_args and backend_args are not used'
            )
        position = {'epoch': self.epoch + bool(by_epoch), 'iter': self.iter + (not by_epoch), **(meta or {})}
        self.call_hook('before_checkpoint')
        buffers = self._buffers_of_ranks() if save_optimizer else None
        kind = 'best' if metric else 'periodic' if save_optimizer else 'weights'
        facts = {'kind': kind, 'metric': metric, 'score': score}
        failure, error = [None], None
        if is_main_process():
            try:
                content = self._content(position, save_optimizer, save_param_scheduler)
                self._write(out_dir, filename, content, buffers, list(outdated), facts)
            except Exception as raised:  # the other ranks wait to hear of it
                error, failure = raised, [f'{raised}; {self._last_good()}']
        broadcast_object_list(failure)
        if error is not None and not isinstance(error, (WriteError, ValueError)):
            raise error
        if failure[0]:
            raise StopTraining(1, f'Stopped: {failure[0]}')

    def save_emergency(self, reason: str, all_ranks: bool = False) -> str | None:
        """Save the state after the last optimizer step, before the training ends.

        Args:
            reason: Why the training ends, for the log.
            all_ranks: Whether every rank calls this at the same iteration, so that they can exchange what differs
                between them. After an exception they cannot, and a run of several processes resumes with the
                statistics of norm layers of rank 0.

        Returns:
            The path of the checkpoint that holds this state, or None where there is none.
        """
        saved = [None]
        try:
            if all_ranks or self.world_size == 1:
                self.call_hook('before_checkpoint')
            buffers = self._buffers_of_ranks() if all_ranks else None
            if is_main_process():
                saved = [self._save_boundary(reason, buffers)]
        except (WriteError, ValueError) as error:
            self.logger.error(f'No checkpoint could be saved: {error}')
        if all_ranks:
            broadcast_object_list(saved)
        return saved[0]

    def _save_boundary(self, reason: str, buffers: list | None) -> str | None:
        boundary = getattr(self._train_loop, 'boundary', None)
        if boundary is None or boundary.position[1] == 0:
            return None
        epoch, iteration = boundary.position
        for name, facts in self.checkpoints.entries.items():
            if facts.get('iter') == iteration and facts.get('epoch') == epoch and facts.get('kind') != 'best':
                return str(self.checkpoints.folder / name)
        if not self._rewind():
            return None
        content = self._content({'epoch': epoch, 'iter': iteration}, True, True)
        optimizer = content['optimizer']
        if 'base_param_settings' in optimizer:
            optimizer['base_param_settings'] = dict(optimizer['base_param_settings'])
        groups = [*optimizer.get('param_groups', ()), optimizer.get('base_param_settings')]
        for group, values in zip(groups, boundary.values, strict=False):
            group.update(values)
        states = iter(boundary.schedules)
        saved = content.get('param_schedulers') or []
        for part in saved.values() if isinstance(saved, dict) else [saved]:
            part[:] = [next(states) for _ in part]
        ends_epoch = isinstance(self.train_loop, EpochBasedTrainLoop) and iteration == epoch * len(
            self.train_dataloader
        )
        name = f'epoch_{epoch}.pth' if ends_epoch else f'iter_{iteration}.pth'
        self.logger.warning(f'Saving checkpoint {name} because {reason}')
        self._write(self.checkpoints.folder, name, content, buffers, [], {'kind': 'emergency'})
        return str(self.checkpoints.folder / name)

    def _rewind(self) -> bool:
        """Bring the model to the state after the last optimizer step; whether that is possible."""
        if self.step_guard is not None:
            return self.step_guard.rewind(self)
        return self._train_loop.at_boundary

    def _content(self, position: dict[str, int], save_optimizer: bool, save_param_scheduler: bool) -> dict[str, Any]:
        """What a checkpoint holds, before it is made plain."""
        dataset = self.train_dataloader.dataset
        meta = {
            **position,
            'cfg': self.cfg.pretty_text,
            'seed': self.seed,
            'experiment_name': self.experiment_name,
            'time': time.strftime('%Y%m%d_%H%M%S'),
            'mmengine_version': mmengine.__version__,
            'run': self.facts(),
        }
        if hasattr(dataset, 'metainfo'):
            meta['dataset_meta'] = dataset.metainfo
        content = {
            'meta': meta,
            'state_dict': _on_cpu(_unwrapped(self.model).state_dict()),
            'message_hub': self.message_hub.state_dict(),
        }
        if save_optimizer:
            if not isinstance(self.optim_wrapper, OptimWrapper):
                raise TypeError(f'the optimizer wrapper must be an OptimWrapper, got {self.optim_wrapper}')
            content['optimizer'] = self.optim_wrapper.state_dict()
        if save_param_scheduler and self.param_schedulers is not None:
            given = self.param_schedulers
            content['param_schedulers'] = (
                {name: [one.state_dict() for one in part] for name, part in given.items()}
                if isinstance(given, dict)
                else [one.state_dict() for one in given]
            )
        self.call_hook('before_save_checkpoint', checkpoint=content)
        return content

    def _write(
        self,
        folder: str | Path,
        name: str,
        content: dict,
        buffers: list | None,
        outdated: list[str],
        facts: dict[str, Any],
    ) -> None:
        """Write, verify, note, point to it, then delete what it makes superfluous."""
        if buffers:
            content['rank_buffers'] = buffers
        if facts['kind'] not in RESUMABLE:  # weights alone: those of the EMA, which its hook has put into state_dict
            content.pop('ema_state_dict', None)
        dropped: list[str] = []
        content = plain(content, dropped)
        if dropped:
            self.logger.warning(f'Not saved in {name}, because they are not plain data: {", ".join(dropped)}')
        for key in resuming.STATES:
            check_finite(content.get(key) or {}, f'not saved: {key} of this training')
        own = Path(folder).resolve() == self.checkpoints.folder.resolve()
        target = self.checkpoints if own else CheckpointFolder(folder)
        facts = {key: value for key, value in facts.items() if value is not None}
        position = self.position(content['meta'])
        target.write(name, content, outdated, **position, **facts)
        if facts['kind'] in RESUMABLE:
            target.point(self.work_dir, name)
        target.delete(outdated)

    def _last_good(self) -> str:
        path = self.checkpoints.newest()
        if not path:
            return 'there is no checkpoint yet, so nothing to resume from'
        return f'the last good checkpoint is {path}. Resume with: {resume_command()}'

    # what differs between ranks

    def _buffers(self) -> dict[str, dict[str, Tensor]]:
        """Buffers of the model and of the EMA, such as statistics of norm layers."""
        modules = {'model': _unwrapped(self.model)}
        ema = next((hook for hook in self._hooks if isinstance(hook, EMAHook)), None)
        if ema is not None and hasattr(ema, 'ema_model'):
            modules['ema'] = ema.ema_model.module
        return {key: dict(module.named_buffers()) for key, module in modules.items()}

    def _buffers_of_ranks(self) -> list | None:
        """The buffers of each rank, where they differ: between the ends of epochs, each has seen other images."""
        if self.world_size == 1:
            return None
        buffers = _on_cpu(self._buffers())
        flat = [value.double().sum().item() for part in buffers.values() for value in part.values()]
        sums = all_gather_object(flat)
        return all_gather_object(buffers) if any(other != sums[0] for other in sums) else None

    def _load_own_buffers(self, of_ranks: Any) -> None:
        if not isinstance(of_ranks, list) or len(of_ranks) != self.world_size:
            return
        given = of_ranks[self.rank]
        with torch.no_grad():
            for key, buffers in self._buffers().items():
                for name, buffer in buffers.items():
                    buffer.copy_(given[key][name])


def _read(filename: str, check_sums: bool = True) -> dict[str, Any]:
    if '://' in str(filename):
        raise ValueError(f'{filename} is an address: download the checkpoint, then resume from the file')
    path = Path(filename)
    facts = CheckpointFolder(path.parent).entries.get(path.name) if check_sums else {}
    return resuming.read_resumable(path, facts)


def _plain_name(kind: object) -> object:
    """Return the name of a type of MMEngine that a config gives by its class or with its scope."""
    if isinstance(kind, type) and kind.__module__.startswith('mmengine.'):
        return kind.__name__
    return kind.removeprefix('mmengine.') if isinstance(kind, str) else kind


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if not isinstance(value, Mapping):
        return value
    moved = type(value)((key, _on_cpu(part)) for key, part in value.items())
    if hasattr(value, '_metadata'):
        moved._metadata = value._metadata
    return moved
