"""The runner of every training and test: MMEngine's runner with safe checkpoints and exact resuming."""

import io
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from pathlib import Path
from typing import Any

import mmengine
import torch
from mmengine.config import Config
from mmengine.dist import all_gather_object, broadcast_object_list, get_world_size, is_main_process
from mmengine.evaluator import Evaluator
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import MMLogger
from mmengine.runner import BaseLoop, EpochBasedTrainLoop
from mmengine.runner import Runner as MMEngineRunner
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from mmengine.utils import apply_to
from mmengine.visualization import Visualizer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmyolo_ext.checkpoint import resuming
from mmyolo_ext.checkpoint.lock import WorkDirLock, is_locked
from mmyolo_ext.checkpoint.mmengine_loader import install_reader
from mmyolo_ext.checkpoint.model_zoo import origins_in
from mmyolo_ext.checkpoint.safe_load import check_finite
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
from mmyolo_ext.coco_json import drop_annotations
from mmyolo_ext.engine.console import describe_start, quieten, without_stderr
from mmyolo_ext.engine.fit_checks import unwrapped
from mmyolo_ext.engine.formatted_config import FormattedConfig
from mmyolo_ext.engine.hooks.checkpoint import CheckpointHook
from mmyolo_ext.engine.hooks.progress import watched
from mmyolo_ext.engine.loggers import close_trackers
from mmyolo_ext.engine.prepare_model import forbid_changes, prepare_model
from mmyolo_ext.engine.rect_batches import fit_rect_batches
from mmyolo_ext.engine.run_facts import facts_before, facts_of, optimizer_cfg, shifted, spelled
from mmyolo_ext.engine.step_guard import StepGuard
from mmyolo_ext.engine.stopping import Stopper, StopTraining, outcome
from mmyolo_ext.registry import RUNNERS

# components of MMEngine that are replaced, by their names in configs
OWN_LOOPS = {'EpochBasedTrainLoop': 'mmyolo_ext.EpochTrainLoop', 'IterBasedTrainLoop': 'mmyolo_ext.IterTrainLoop'}
OWN_HOOKS = {'CheckpointHook': 'mmyolo_ext.CheckpointHook', 'EarlyStoppingHook': 'mmyolo_ext.EarlyStoppingHook'}
# set by tools/launch.py if the number of processes may change between starts
ELASTIC = 'MMYOLO_EXT_ELASTIC'


@RUNNERS.register_module()
class Runner(MMEngineRunner):
    """MMEngine's ``Runner``; ``runner_type = 'mmyolo_ext.Runner'`` selects it in a config.

    * A training locks its work dir. Without ``resume``, the checkpoints of an earlier run are moved into a subfolder;
      with ``resume``, the training resumes from the newest checkpoint that is complete and finite.
    * A killed process or a full disk never damages the last good checkpoint. Checkpoints hold plain data only and are
      saved at the end of an optimizer step.
    * Resuming reads known keys only and executes nothing. Settings that differ from the checkpoint are rescaled, or an
      error.

    Attributes:
        resumed: Whether this run was resumed from a checkpoint.
        checkpoints: The folder of the run's checkpoints; None outside of training.
        step_guard: Checks gradients before each optimizer step; None outside of training.
        stopper: Ends the training of all ranks together on a signal; None outside of training.
    """

    resumed = False
    checkpoints: CheckpointFolder | None = None
    step_guard = None
    stopper = None
    _written: dict | None = None  # optimizer and schedule as the config writes them

    @classmethod
    def from_cfg(cls, cfg: Config) -> 'Runner':
        """Build a runner from a copy of a config."""
        cfg = deepcopy(cfg)
        if type(cfg) is Config:
            object.__setattr__(cfg, '__class__', FormattedConfig)
        fit_rect_batches(cfg, get_world_size())
        return super().from_cfg(cfg)

    def _log_env(self, env_cfg: dict) -> None:
        """Log the environment; where no compiler is installed, the shell's complaint does not reach the screen."""
        with without_stderr():
            super()._log_env(env_cfg)

    def train(self) -> nn.Module:
        """Train, with the work dir locked."""
        self._written = {'schedule': spelled(self.param_schedulers), 'optimizer': optimizer_cfg(self.optim_wrapper)}
        hook = next((hook for hook in self._hooks if isinstance(hook, CheckpointHook)), None)
        self.checkpoints = CheckpointFolder(hook.folder(self.work_dir) if hook else self.work_dir)
        self.stopper, self._cfg_text = Stopper(), self.cfg.pretty_text
        self.logger.info(describe_start(self))
        try:
            with self._locked(), watched(self):
                model = super().train()
        finally:
            close_trackers(self.visualizer)
        self.end_workers()
        return model

    def test(self) -> dict[str, float]:
        """Test, and end the workers of the loader."""
        metrics = super().test()
        self.end_workers()
        return metrics

    def end_workers(self) -> None:
        """End the persistent workers of all loaders; they start again when a loader is used again.

        Python collects the queue to a worker before its loader, so the loader would wait 5 s for each worker.
        """
        for loop in (self._train_loop, self._val_loop, self._test_loop):
            loader = getattr(loop, 'dataloader', None)
            iterator = getattr(loader, '_iterator', None)
            if hasattr(iterator, '_shutdown_workers'):
                iterator._shutdown_workers()
                loader._iterator = None

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Wrap the model for several processes; nothing touches its parameters afterwards."""
        wrapped = super().wrap_model(model_wrapper_cfg, prepare_model(model, self.cfg))
        forbid_changes(wrapped)
        return wrapped

    def register_hooks(self, default_hooks: dict | None = None, custom_hooks: list | None = None) -> None:
        """Register the hooks of the config and those that its other keys need."""
        super().register_hooks(default_hooks, custom_hooks)
        install_reader()  # MMEngine's reader may execute a file
        compiled = self.cfg.get('compile_parts')
        if compiled is not None:
            backend = compiled.get('backend', 'inductor')
            self.register_hook({'type': 'mmyolo_ext.EagerEvaluationHook', 'backend': backend})

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the training loop, ours instead of MMEngine's; see :mod:`.train_loop`."""
        if isinstance(loop, dict):
            loop = dict(loop)
            if 'type' not in loop:
                loop['type'] = 'EpochBasedTrainLoop' if loop.pop('by_epoch', True) else 'IterBasedTrainLoop'
            loop['type'] = OWN_LOOPS.get(_plain_name(loop['type']), loop['type'])
        return super().build_train_loop(loop)

    @staticmethod
    def build_dataloader(dataloader: DataLoader | dict, *args: Any, **kwargs: Any) -> DataLoader:
        """Build a dataloader that has at least one batch; without workers, none persist.

        Raises:
            ValueError: If the batch is larger than the dataset and ``drop_last`` drops it.
        """
        if isinstance(dataloader, dict) and not dataloader.get('num_workers'):
            # torch refuses the pair, and ``num_workers=0`` alone is what one sets to debug a dataset
            dataloader = {**dataloader, 'persistent_workers': False, 'prefetch_factor': None}
        built = MMEngineRunner.build_dataloader(dataloader, *args, **kwargs)
        if built.drop_last and isinstance(built.dataset, Sized) and len(built) == 0:
            raise ValueError(
                f'batch_size={built.batch_size} is more than the {len(built.dataset)} images of the data set for each '
                f'of {get_world_size()} process(es), and drop_last=True: use a smaller batch_size or drop_last=False'
            )
        return built

    def build_visualizer(self, visualizer: Visualizer | dict | None = None) -> Visualizer:
        """Build the visualizer, one for each run; mmdet's tools need a ``name`` in the config, shared by all runs."""
        if isinstance(visualizer, dict):
            visualizer = {**visualizer, 'name': self.experiment_name}
        return super().build_visualizer(visualizer)

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Build the logger; the configuration and the environment go to its file only."""
        logger = super().build_logger(*args, **kwargs)
        quieten(logger)
        return logger

    def build_evaluator(self, evaluator: Evaluator | dict | list) -> Evaluator:
        """Build the evaluator; ranks exchange results over the network, not over a shared disk."""
        built = super().build_evaluator(evaluator)
        for metric in built.metrics:
            if getattr(metric, 'collect_device', None) == 'cpu' and not getattr(metric, 'collect_dir', None):
                metric.collect_device = 'gpu'  # by the process group, also on a CPU
        return built

    def register_hook(self, hook: Hook | dict, priority: Any = None) -> None:
        """Register a hook, ours instead of MMEngine's ``CheckpointHook`` and ``EarlyStoppingHook``."""
        if isinstance(hook, dict):
            hook['type'] = OWN_HOOKS.get(_plain_name(hook.get('type')), hook.get('type'))
        super().register_hook(hook, priority)

    def call_hook(self, fn_name: str, **kwargs) -> None:
        """Call all hooks; after each iteration of a validation, stop if this rank got a signal."""
        if fn_name == 'before_run':  # the datasets and metrics are built
            drop_annotations()
        super().call_hook(fn_name, **kwargs)
        if fn_name == 'after_val_iter' and self.stopper is not None:
            self.stopper.check_validation(self)

    def dump_config(self) -> None:
        """Write the config into the work dir, unless another training is using it."""
        if is_main_process() and not is_locked(self.work_dir):
            super().dump_config()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Lock the work dir on rank 0; if another run has locked it, all ranks raise the same error."""
        lock = None

        def acquire() -> None:
            nonlocal lock
            lock = WorkDirLock(self.work_dir)
            if not lock.supported:
                self.logger.warning(f'The file system of {self.work_dir} has no locks: run one training at a time.')
            for folder in {Path(self.work_dir), self.checkpoints.folder}:
                remove_unfinished(folder)

        _on_rank_0(acquire)
        try:
            yield
        finally:
            if lock:
                lock.release()

    # starting

    def load_checkpoint(self, filename: str, *args: Any, **options: Any) -> dict:
        """Load weights as MMEngine does, without the line that it prints past the logger."""
        with redirect_stdout(io.StringIO()):
            return super().load_checkpoint(filename, *args, **options)

    def load_or_resume(self) -> None:
        """Load weights, resume, or start a new training, depending on ``load_from`` and ``resume``."""
        if self._has_loaded:
            return
        if not isinstance(self._train_loop, BaseLoop):
            if self._load_from:
                self.load_checkpoint(self._load_from)
            return
        self.step_guard = StepGuard(**self.cfg.get('step_guard', {}))
        self.step_guard.attach(self)
        if self._resume:
            start = self._find_start()
            if start:
                self.resume(*start)
                return
            self.logger.info(f'There is no checkpoint in {self.checkpoints.folder} to resume from: a new training.')
            self._resume = False
        self._move_earlier(checkpoint_names(self.checkpoints.folder), 'a new training starts here')
        super().load_or_resume()

    def resume(self, filename: str, content: dict[str, Any] | None = None) -> None:
        """Load the training state of a checkpoint, and nothing else that is in the file.

        Args:
            filename: Path of a checkpoint with an optimizer state.
            content: Content of the file, if it was read before.

        Raises:
            ValueError: If the file cannot be resumed from, or this run has other settings that cannot be rescaled.
        """
        content = content or _read(filename)
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
            self._take_over(content, meta, before, now)
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise ValueError(f'{filename} does not fit this training: {error}') from error
        self.message_hub.log_scalars.update(histories)
        self.message_hub._resumed_keys.update(dict.fromkeys(histories, True))
        self.message_hub.update_info_dict(info)
        self.resumed = self._has_loaded = True
        self._move_later(filename, meta)
        self.logger.info(f'Resumed from {filename}: {self.epoch} epochs, {self.iter} iterations.')

    def facts(self) -> dict[str, Any]:
        """Return the settings that must be equal, or are rescaled, when a run resumes from this one."""
        return {**facts_of(self), **(self._written or {})}

    def position(self, meta: Mapping[str, int]) -> dict[str, int]:
        """Return completed counts ``epoch`` and ``iter``, and ``batch``, the iterations since the end of the epoch."""
        by_epoch = isinstance(self.train_loop, EpochBasedTrainLoop)
        done = meta['epoch'] * len(self.train_dataloader) if by_epoch else 0
        return {'epoch': meta['epoch'], 'iter': meta['iter'], 'batch': meta['iter'] - done}

    def _find_start(self) -> tuple[str, dict] | None:
        """Return path and content of the checkpoint to resume from; rank 0 decides for all."""
        found = None

        def find() -> str | None:
            nonlocal found
            if self._load_from:
                found = (self._load_from, _read(self._load_from))
            else:
                check = self._check_processes if ELASTIC in os.environ else None
                found = resuming.find_newest(self.checkpoints.folder, self.logger.warning, check)
            return found and found[0]

        path = _on_rank_0(find)
        return found if path is None or found else (path, _read(path, check_sums=False))

    def _check_processes(self, name: str, meta: Mapping[str, Any]) -> None:
        """Refuse a checkpoint that another number of processes saved inside an epoch."""
        before = facts_before(resuming.known_meta(meta))
        length, processes = before.get('epoch_length'), before.get('world_size', self.world_size)
        if processes != self.world_size and length and meta['iter'] != meta['epoch'] * length:
            raise ValueError(
                f'{name} was saved inside an epoch by {processes} processes, and there are {self.world_size} now'
            )

    def _take_over(self, content: dict, meta: dict, before: dict, now: dict) -> None:
        self._resume_seed(meta.get('seed'))
        self.call_hook('after_load_checkpoint', checkpoint=content)
        _load_checkpoint_to_model(unwrapped(self.model), content, revise_keys=[(r'^module\.', '')])
        self._load_own_buffers(content.get('rank_buffers'))
        length, new_length = before.get('epoch_length'), now.get('epoch_length')
        iteration = meta['iter']
        if length and new_length and length != new_length:
            iteration = meta['epoch'] * new_length
        self.train_loop._epoch, self.train_loop._iter = meta['epoch'], iteration
        self.optim_wrapper.load_state_dict(content['optimizer'])
        if self.param_schedulers:
            self._resume_schedules(content.get('param_schedulers') or (), iteration - meta['iter'])

    def _resume_seed(self, seed: int | None) -> None:
        current = self._randomness_cfg.get('seed')
        if seed is None or seed == current:
            return
        if current is not None:
            self.logger.warning(f'randomness.seed {seed} -> {current}: the seed of the checkpoint, {seed}, is kept.')
        self._randomness_cfg.update(seed=seed)
        self.set_randomness(**self._randomness_cfg)

    def _resume_schedules(self, states: Sequence[dict], shift: int) -> None:
        """Load the scheduler states; move those that count iterations by ``shift``, if epochs have another length."""
        if len(states) != len(self.param_schedulers):
            raise ValueError(
                f'param_scheduler has {len(states)} -> {len(self.param_schedulers)} schedules: set it back to resume'
            )
        for scheduler, state in zip(self.param_schedulers, states, strict=True):
            state = {key: value for key, value in state.items() if key in vars(scheduler)}
            if shift and not scheduler.by_epoch:
                state = shifted(scheduler, state, shift)
            scheduler.load_state_dict(state)

    def _move_later(self, filename: str, meta: Mapping[str, int]) -> None:
        """Move checkpoints that this run will overwrite, or all of them if it resumes from another folder."""
        folder, entries = self.checkpoints.folder, self.checkpoints.entries
        own = Path(filename).resolve().parent == folder.resolve()
        later = [name for name in checkpoint_names(folder) if not own or resuming.is_newer(name, entries, meta)]
        self._move_earlier(later, f'this training resumes from {filename}')
        name = Path(filename).name
        if not own or not is_main_process():
            return
        try:
            if name not in entries:  # the run was killed before it was recorded
                position = {key: meta[key] for key in ('epoch', 'iter', 'batch')}
                self.checkpoints.adopt(name, **position, kind='periodic')
            self.checkpoints.point(self.work_dir, name)
        except WriteError as error:
            self.logger.warning(str(error))

    def _move_earlier(self, names: list[str], reason: str) -> None:
        """Move checkpoints of an earlier run into a subfolder; nothing is deleted."""

        def move() -> Path | None:
            moved = self.checkpoints.set_aside(names, self.timestamp)
            if names and POINTER in file_names(self.work_dir):
                (Path(self.work_dir) / POINTER).unlink()
            return moved

        moved = _on_rank_0(move)
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
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict | None = None,
        by_epoch: bool = True,
        outdated: Iterable[str] = (),
        **facts: Any,
    ) -> None:
        """Save a checkpoint. Every rank calls this; rank 0 writes.

        Hooks get two events: ``before_checkpoint`` on every rank, for communication between ranks, then
        ``before_save_checkpoint`` on rank 0.

        Args:
            out_dir: Local folder.
            filename: Plain name.
            save_optimizer: Save the optimizer state, which resuming needs.
            save_param_scheduler: Save the states of the schedulers.
            meta: ``epoch`` and ``iter``, completed counts.
            by_epoch: If ``meta`` is missing: whether an epoch ends (MMEngine's hooks save before it is counted).
            outdated: Checkpoints to delete when this one is complete.
            **facts: ``metric`` and ``score`` of a best checkpoint.

        Raises:
            StopTraining: If it cannot be written; the message names the last good checkpoint.
        """
        position = {'epoch': self.epoch + bool(by_epoch), 'iter': self.iter + (not by_epoch), **(meta or {})}
        self.call_hook('before_checkpoint')
        buffers = self._buffers_of_ranks() if save_optimizer else None
        facts['kind'] = 'best' if facts else 'periodic' if save_optimizer else 'weights'

        def write() -> None:
            try:
                content = self._content(position, save_optimizer, save_param_scheduler)
                self._write(out_dir, filename, content, buffers, list(outdated), facts)
            except (WriteError, ValueError) as error:
                raise ValueError(f'{error}. {outcome(self, None)}') from error

        try:
            _on_rank_0(write)
        except ValueError as error:
            raise StopTraining(1, f'Stopped: {error}') from error

    def save_emergency(self, reason: str, all_ranks: bool = False) -> str | None:
        """Save the state after the last optimizer step, before the training ends.

        Args:
            reason: Why the training ends, for the log.
            all_ranks: Whether every rank calls this at the same iteration, so that they can exchange the buffers that
                differ between them. Otherwise a run of several processes resumes with the norm statistics of rank 0.

        Returns:
            The path of the checkpoint with this state, or None if there is none.
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
        if not self.step_guard.rewind(self):
            return None
        content = self._content({'epoch': epoch, 'iter': iteration}, True, True)
        optimizer = content['optimizer']
        if 'base_param_settings' in optimizer:
            optimizer['base_param_settings'] = dict(optimizer['base_param_settings'])
        groups = [*optimizer.get('param_groups', ()), optimizer.get('base_param_settings')]
        for group, values in zip(groups, boundary.values, strict=False):
            group.update(values)
        if 'param_schedulers' in content:
            content['param_schedulers'] = boundary.schedules
        by_epoch = isinstance(self.train_loop, EpochBasedTrainLoop)
        ends_epoch = by_epoch and iteration == epoch * len(self.train_dataloader)
        name = f'epoch_{epoch}.pth' if ends_epoch else f'iter_{iteration}.pth'
        self.logger.warning(f'Saving checkpoint {name} because {reason}')
        self._write(self.checkpoints.folder, name, content, buffers, [], {'kind': 'emergency'})
        return str(self.checkpoints.folder / name)

    def _content(self, position: dict[str, int], save_optimizer: bool, save_param_scheduler: bool) -> dict[str, Any]:
        """Return the content of a checkpoint, before it is converted to plain data."""
        meta = {
            **position,
            'cfg': self._cfg_text,
            'seed': self.seed,
            'experiment_name': self.experiment_name,
            'time': time.strftime('%Y%m%d_%H%M%S'),
            'mmengine_version': mmengine.__version__,
            'run': self.facts(),
            'dataset_meta': getattr(self.train_dataloader.dataset, 'metainfo', {}),
        }
        if origins := origins_in(self.cfg):
            meta['origins'] = origins
        content = {
            'meta': meta,
            'state_dict': unwrapped(self.model).state_dict(),
            'message_hub': self.message_hub.state_dict(),
        }
        if save_optimizer:
            content['optimizer'] = self.optim_wrapper.state_dict()
        if save_param_scheduler and self.param_schedulers is not None:
            content['param_schedulers'] = [scheduler.state_dict() for scheduler in self.param_schedulers]
        self.call_hook('before_save_checkpoint', checkpoint=content)
        return content

    def _write(self, folder: Any, name: str, content: dict, buffers: list | None, outdated: list, facts: dict) -> None:
        """Write and verify a checkpoint, record it, point to it, then delete outdated ones."""
        if buffers:
            content['rank_buffers'] = buffers
        if facts['kind'] not in RESUMABLE:  # weights only: those of the EMA, which its hook has put into state_dict
            content.pop('ema_state_dict', None)
        dropped: list[str] = []
        content = plain(content, dropped)
        if dropped:
            self.logger.warning(f'Not saved in {name}, because they are not plain data: {", ".join(dropped)}')
        for key in resuming.STATES:
            check_finite(content.get(key) or {}, f'not saved: {key} of this training')
        own = Path(folder).resolve() == self.checkpoints.folder.resolve()
        target = self.checkpoints if own else CheckpointFolder(folder)
        target.write(name, content, outdated, **self.position(content['meta']), **facts)
        if facts['kind'] in RESUMABLE:
            target.point(self.work_dir, name)
        target.delete(outdated)

    # buffers, which differ between ranks

    def _buffers(self) -> dict[str, dict[str, Tensor]]:
        """Return the buffers of the model and of the EMA, such as norm statistics."""
        modules = {'model': unwrapped(self.model)}
        ema = next((hook for hook in self._hooks if isinstance(hook, EMAHook)), None)
        if ema is not None and hasattr(ema, 'ema_model'):
            modules['ema'] = ema.ema_model.module
        return {key: dict(module.named_buffers()) for key, module in modules.items()}

    def _buffers_of_ranks(self) -> list | None:
        """Return the buffers of each rank if they differ: inside an epoch, each rank has seen other images."""
        if self.world_size == 1:
            return None
        buffers = apply_to(self._buffers(), torch.is_tensor, Tensor.cpu)
        sums = all_gather_object([value.double().sum().item() for part in buffers.values() for value in part.values()])
        return all_gather_object(buffers) if any(other != sums[0] for other in sums) else None

    @torch.no_grad()
    def _load_own_buffers(self, of_ranks: Any) -> None:
        if not isinstance(of_ranks, list) or len(of_ranks) != self.world_size:
            return
        for key, buffers in self._buffers().items():
            for name, buffer in buffers.items():
                buffer.copy_(of_ranks[self.rank][key][name])


def _on_rank_0(function: Callable[[], Any]) -> Any:
    """Call a function on rank 0; return its result, or raise its ValueError or OSError, on all ranks."""
    answer = [None, None]
    if is_main_process():
        try:
            answer[0] = function()
        except (ValueError, OSError) as error:
            answer[1] = str(error)
    broadcast_object_list(answer)
    if answer[1]:
        raise ValueError(answer[1])
    return answer[0]


def _read(filename: str, check_sums: bool = True) -> dict[str, Any]:
    path = Path(filename)
    return resuming.read_resumable(path, CheckpointFolder(path.parent).entries.get(path.name) if check_sums else {})


def _plain_name(kind: object) -> object:
    """Return the name of a type of MMEngine that is given by its class or with its scope."""
    if isinstance(kind, type) and kind.__module__.startswith('mmengine.'):
        return kind.__name__
    return kind.removeprefix('mmengine.') if isinstance(kind, str) else kind
