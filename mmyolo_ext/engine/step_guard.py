"""Check every optimizer step for non-finite numbers, skip it, and stop the training after too many."""

import math
from collections import defaultdict, deque
from collections.abc import Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.model import is_model_wrapper
from torch import Tensor, distributed

from mmyolo_ext.engine.non_finite import Iteration, as_number, diagnose, write_dump

MAX_SKIPS = 5
NAMED = 8  # images in the message
SCALER_PATIENCE = 24  # steps in a row in which a GradScaler may look for a scale: from 2**24 down to 1


class StepGuard(Hook):
    """Check gradients and buffers before each optimizer step and skip the step if a number is not finite.

    A skipped step leaves the model as it was after the last good one: parameters and optimizer do not change, and
    buffers (norm statistics, running means of losses), which a NaN in the forward pass has already reached, are
    restored. All ranks skip together. More than ``max_skips`` consecutive skipped steps end the training with an error
    that names the loss, the layer and the images, and a dump for ``tools/replay.py``.

    With float16, a ``GradScaler`` skips steps until it has found its scale; the first 24 in a row do not count.

    On a GPU with a fused optimizer or a ``GradScaler`` the decision is made on the device and read one step later, so
    that nothing waits for it. Elsewhere it is read at once.

    Args:
        max_skips: Allowed number of consecutive skipped steps; 0 stops at the first.

    Attributes:
        skipped: Whether the last step was skipped, as far as this process knows.

    Raises:
        ValueError: If ``max_skips`` is negative.
    """

    priority = 'LOWEST'

    def __init__(self, max_skips: int = MAX_SKIPS) -> None:
        if not isinstance(max_skips, int) or max_skips < 0:
            raise ValueError(f'step_guard.max_skips must be a whole number of at least 0, got {max_skips!r}')
        self.max_skips = max_skips
        self.skipped = False
        self._in_a_row = 0
        self._changed = False  # parameters, by a step whose hooks have not all run
        self._snapshots: list[_BufferCopy] = []
        self._group: list[Iteration] = []  # of the step to come
        self._unread: deque[tuple[Tensor, Any, list[Iteration]]] = deque()

    def attach(self, runner) -> None:
        """Guard the steps of the optimizer wrapper of a runner; call it once, after the wrapper is built."""
        self._wrapper = runner.optim_wrapper
        self._inner_step = self._wrapper.step

        @wraps(self._inner_step)  # schedulers look for an attribute of it
        def step(**kwargs) -> None:
            self._step(**kwargs)

        self._wrapper.step = step
        runner.register_hook(self)

    def rewind(self, runner) -> bool:
        """Restore the state of the model after the last optimizer step, from within accumulation or a validation.

        Returns:
            False if this is impossible, during a step or the hooks after it.
        """
        if self._changed:
            return False
        for hook in runner.hooks:
            if isinstance(hook, EMAHook) and not hasattr(hook, 'swapped') and not self._model.training:
                return False  # MMEngine's hook does not show whether the weights are swapped
            if getattr(hook, 'swapped', False):
                hook._swap_ema_parameters()
        for snapshot in self._snapshots:
            snapshot.restore()
        return True

    def before_train(self, runner) -> None:
        self._model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        # infinities may be intended, as in a mask
        self._unwatched = {name for name, buffer in self._model.named_buffers() if not buffer.isfinite().all()}
        self._take_snapshots()

    def before_train_epoch(self, runner) -> None:
        self._take_snapshots()

    def before_train_iter(self, runner, batch_idx: int, data_batch: Any = None) -> None:
        self._iteration = Iteration(runner.iter, data_batch)
        self._group.append(self._iteration)

    def after_train_iter(self, runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None) -> None:
        self._iteration.losses = dict(outputs or {})
        if self._unread:
            self._read(runner, 1 if self._wrapper.should_update() else len(self._unread))
        self._changed = False  # this hook is the last one

    def after_train_epoch(self, runner) -> None:
        self._take_snapshots()  # the last hooks of an epoch may have changed buffers, as SyncBuffersHook does
        self._read(runner, 0)

    def _take_snapshots(self) -> None:
        if self._group:  # gradients are accumulated across the end of the epoch: not a state to restore
            return
        by_kind = defaultdict(list)
        for name, buffer in self._model.named_buffers():
            if name not in self._unwatched and buffer.numel():
                by_kind[buffer.device, buffer.dtype].append(buffer)
        self._snapshots = [_BufferCopy(buffers) for buffers in by_kind.values()]

    def _step(self, **kwargs) -> None:
        """Replace ``step`` of the wrapper."""
        parameters = [one for group in self._wrapper.optimizer.param_groups for one in group['params']]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        buffers = [snapshot.read() for snapshot in self._snapshots]
        flag = torch.zeros((), device=parameters[0].device)
        _flag_non_finite(flag, gradients, [flat for flat in buffers if flat.is_floating_point()])
        if get_world_size() > 1:
            distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
        if flag.is_cuda and self._decides_on_device():
            self._step_on_device(flag, gradients, buffers, kwargs)
        else:
            self._step_on_host(flag, buffers, kwargs)
        self._group = []

    def _step_on_host(self, flag: Tensor, buffers: list[Tensor], kwargs: dict) -> None:
        self.skipped = bool(flag)
        if self.skipped:
            named = [(name, p.grad) for name, p in self._model.named_parameters() if p.grad is not None]
            for iteration in self._group:
                iteration.gradients = [name for name, gradient in named if not gradient.isfinite().all()]
            for snapshot in self._snapshots:
                snapshot.restore()
        else:
            self._changed = True
            self._inner_step(**kwargs)
            for snapshot, values in zip(self._snapshots, buffers, strict=True):
                snapshot.values = values
        self._unread.append((flag, None, self._group))

    def _step_on_device(self, flag: Tensor, gradients: list[Tensor], buffers: list[Tensor], kwargs: dict) -> None:
        optimizer = self._wrapper.optimizer
        self._changed = True
        if self._scaler_works():
            # the reason may be a buffer or another rank: the scaler checks only the gradients of this rank
            min(gradients, key=Tensor.numel).masked_fill_(flag > 0, float('inf'))
            self._inner_step(**kwargs)
        else:
            optimizer.grad_scale, optimizer.found_inf = None, flag
            self._inner_step(**kwargs)
            del optimizer.grad_scale, optimizer.found_inf
        for snapshot, values in zip(self._snapshots, buffers, strict=True):
            snapshot.values = torch.where(flag > 0, snapshot.values, values)
            snapshot.restore()
        self._unread.append((*_send_to_host(flag), self._group))

    def _scaler_works(self) -> bool:
        scaler = getattr(self._wrapper, 'loss_scaler', None)
        return scaler is not None and scaler.is_enabled()

    def _decides_on_device(self) -> bool:
        return self._scaler_works() or getattr(self._wrapper.optimizer, '_step_supports_amp_scaling', False)

    def _read(self, runner, waiting: int) -> None:
        """Read all decisions except the newest ``waiting``, which may still be on the device."""
        while self._unread and (self._unread[0][1] is None or len(self._unread) > waiting):
            flag, group = self._read_first()
            if not flag:
                self._in_a_row = 0
                continue
            self._in_a_row += 1
            searching = SCALER_PATIENCE if self._scaler_works() else 0
            if self._in_a_row > self.max_skips + searching:
                while self._unread:  # of the step that was taken in the meantime
                    flag = self._read_first()[0]
                self._changed = not flag
                raise NonFiniteError(self._describe(runner, group))
            if self._in_a_row > searching:
                runner.logger.warning(
                    f'Skipped the optimizer step of iteration {group[-1].number + 1}: gradients or buffers are not '
                    f'finite ({self._in_a_row} in a row, at most {self.max_skips + searching})'
                )

    def _read_first(self) -> tuple[bool, list[Iteration]]:
        flag, arrived, group = self._unread.popleft()
        if arrived is not None:
            arrived.synchronize()
        return bool(flag), group

    def _describe(self, runner, group: list[Iteration]) -> str:
        """Find the faulty iteration, dump and describe it; it may be on another rank, so all ranks call this."""
        findings = [self._examine(runner, iteration) for iteration in group]
        for snapshot in self._snapshots:
            snapshot.restore()
        # the first iteration of the step with a fault, else the last
        place = next((place for place, found in enumerate(findings) if found['fault']), len(group) - 1)
        ranks = all_gather_object(findings[place])
        rank = next((rank for rank, found in enumerate(ranks) if found['fault']), 0)
        path = Path(runner.work_dir) / f'non_finite_iter_{ranks[rank]["number"] + 1}.pth'
        written = f'replay it: python tools/replay.py {path}'
        if rank == get_rank():
            try:
                write_dump(path, group[place], findings[place], self._model, self._facts(runner))
            except (OSError, RuntimeError) as error:
                path.unlink(missing_ok=True)
                written = f'the dump {path} could not be written: {error}'
        where = f' on rank {rank}' if len(ranks) > 1 else ''
        return f'{ranks[rank]["text"].format(where=where)}; {written}'

    def _examine(self, runner, iteration: Iteration) -> dict[str, Any]:
        """Run an iteration again; return what was found, whether it shows a fault, and a sentence about it."""
        logged = {name: as_number(value) for name, value in iteration.losses.items()}
        found = {'losses': logged, 'layer': None, 'stage': None}
        try:
            found = diagnose(self._model, iteration, self._wrapper)
        except Exception as error:  # must not hide the message about the numbers
            runner.logger.warning(f'The iteration could not be run again: {type(error).__name__}: {error}')
        terms = logged or found['losses']
        bad = [name for name, value in terms.items() if not math.isfinite(value)]
        if len(bad) > 1 and 'loss' in bad:
            bad.remove('loss')  # the sum
        gradients = iteration.gradients
        layer = found['layer'] or (gradients[-1].rpartition('.')[0] if gradients else None)
        loss = ', '.join(f'{name} is {terms[name]}' for name in bad) or 'all losses are finite'
        stage = found['stage'] or 'gradient'
        seen = f'the first {stage} that is not finite is that of {layer}' if layer else 'a second run shows no layer'
        names = iteration.images
        images = ', '.join(names[:NAMED]) + (f' and {len(names) - NAMED} more' if len(names) > NAMED else '')
        text = (
            f'Training stopped{{where}} at epoch {runner.epoch + 1}, iteration {iteration.number + 1} after '
            f'{self._in_a_row} optimizer step(s) in a row with numbers that are not finite: {loss}; {seen}; '
            f'images: {images or "unknown"}; AMP scale: {self._loss_scale() or "none"}'
        )
        fault = bool(bad or found['stage'])
        return {**found, 'losses': terms, 'number': iteration.number, 'text': text, 'fault': fault}

    def _loss_scale(self) -> float | None:
        return self._wrapper.loss_scaler.get_scale() if self._scaler_works() else None

    def _facts(self, runner) -> dict[str, Any]:
        return {
            'epoch': runner.epoch,
            'rank': get_rank(),
            'world_size': get_world_size(),
            'seed': runner.seed,
            'precision': str(getattr(self._wrapper, 'cast_dtype', None) or 'float32').removeprefix('torch.'),
            'loss_scale': self._loss_scale(),
            'config': runner.cfg.pretty_text,
        }


class NonFiniteError(RuntimeError):
    """Too many optimizer steps in a row had gradients or buffers that are not finite."""


class _BufferCopy:
    """A copy, ``values``, of the buffers of one device and type, in one tensor.

    Args:
        buffers: Not empty.
    """

    def __init__(self, buffers: list[Tensor]) -> None:
        self._buffers = buffers
        self.values = self.read()

    def read(self) -> Tensor:
        """Return the present values of the buffers as a new tensor."""
        return torch.cat([buffer.detach().reshape(-1) for buffer in self._buffers])

    @torch.no_grad()
    def restore(self) -> None:
        """Write ``values`` into the buffers."""
        parts = self.values.split([buffer.numel() for buffer in self._buffers])
        sources = [part.view(buffer.shape) for part, buffer in zip(parts, self._buffers, strict=True)]
        torch._foreach_copy_(self._buffers, sources)


def _send_to_host(flag: Tensor) -> tuple[Tensor, Any]:
    """Start a copy from the GPU; return it with an event that marks its completion."""
    copied = torch.empty(flag.shape, dtype=flag.dtype, pin_memory=True).copy_(flag, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return copied, arrived


@torch.no_grad()
def _flag_non_finite(flag: Tensor, gradients: Sequence[Tensor], buffers: Sequence[Tensor]) -> None:
    """Set a scalar to 1 if a number is not finite.

    The kernel of GradScaler checks the gradients: one launch for all, with the same result as the scaler.
    """
    by_kind = defaultdict(list)
    for gradient in gradients:
        by_kind[gradient.device, gradient.dtype].append(gradient)
    for (device, _), alike in by_kind.items():
        found = torch.zeros((), device=device)
        torch._amp_foreach_non_finite_check_and_unscale_(alike, found, torch.ones((), device=device))
        flag.copy_(torch.maximum(flag, found.to(flag.device)))
    for values in buffers:
        flag.copy_(torch.maximum(flag, (~values.isfinite().all()).to(flag)))
