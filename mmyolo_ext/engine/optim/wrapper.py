"""Optimizer wrappers that sum gradients over images and iterations."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from mmyolo_ext.engine.optim.constructor import IMPLEMENTATIONS
from mmyolo_ext.registry import OPTIM_WRAPPERS

AMP_DTYPES = ('float16', 'bfloat16')


@OPTIM_WRAPPERS.register_module()
class YOLOOptimWrapper(OptimWrapper):
    """Take optimizer steps on the *sum* of the gradients of several iterations.

    The losses of our heads are sums over the images of a batch, so the sum over k batches is the gradient of one batch
    k times as large; MMEngine's wrapper takes the mean. Accumulation restarts with every epoch, whose last iteration
    always steps, so that no checkpoint between epochs holds a partial sum.

    With several processes DistributedDataParallel averages the gradient over ranks. Our heads scale the loss of each
    rank so that this mean belongs to the images of all ranks.

    Args:
        **kwargs: As MMEngine's ``OptimWrapper``: ``optimizer``, ``accumulative_counts``, ``clip_grad``.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._epoch_start = 0
        self._epoch_length: int | None = None

    @property
    def accumulative_counts(self) -> int:
        """Number of iterations per step."""
        return self._accumulative_counts

    def begin_epoch(self, accumulative_counts: int, epoch_length: int, done: int = 0) -> None:
        """Step after every ``accumulative_counts`` iterations of this epoch and after its last.

        Args:
            accumulative_counts: Number of iterations per step.
            epoch_length: Number of iterations of the epoch.
            done: Number of iterations of this epoch before the run was resumed.
        """
        if accumulative_counts < 1 or epoch_length < 1:
            raise ValueError(
                f'accumulative_counts and epoch_length must be at least 1, got {accumulative_counts}, {epoch_length}'
            )
        self._accumulative_counts = accumulative_counts
        self._epoch_start = self._inner_count - done
        self._epoch_length = epoch_length

    def should_update(self) -> bool:
        """Return whether the last iteration ended with a step; valid until the next backward pass."""
        return self._steps_after(self._inner_count)

    def should_sync(self) -> bool:
        """Return whether the next iteration must exchange gradients between ranks."""
        return self._steps_after(self._inner_count + 1)

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Return the loss unchanged: gradients are summed over iterations."""
        return loss

    def load_state_dict(self, state_dict: dict) -> None:
        """Resume with the rates of the checkpoint.

        Raises:
            ValueError: If the parameter groups differ, because other parts are frozen or have other rates.
        """
        before, now = _layout(state_dict['param_groups']), _layout(self.optimizer.param_groups)
        if before != now:
            raise ValueError(
                f'the optimizer of the checkpoint has the groups {before} (role, multiple of the rate, tensors), the '
                f'config has {now}: resuming needs the same frozen_parts, frozen_stages and paramwise_cfg. To change '
                'them, start a new training from its weights: load_from, without --resume'
            )
        super().load_state_dict({**state_dict, 'param_groups': self._in_this_form(state_dict['param_groups'])})

    def _in_this_form(self, groups: list[dict]) -> list[dict]:
        """Return the groups of a checkpoint, adapted to the implementation (fused or not) of this optimizer."""
        forms = [{key: group[key] for key in IMPLEMENTATIONS if key in group} for group in self.optimizer.param_groups]
        return [{**group, **form} for group, form in zip(groups, forms, strict=True)]

    def _steps_after(self, count: int) -> bool:
        done = count - self._epoch_start
        last = self._max_counts if self._epoch_length is None else self._epoch_start + self._epoch_length
        return done % self._accumulative_counts == 0 or count == last


@OPTIM_WRAPPERS.register_module()
class YOLOAmpOptimWrapper(YOLOOptimWrapper):
    """:class:`YOLOOptimWrapper` with automatic mixed precision on the device of the parameters.

    The default is float16 with gradient scaling on CUDA, as MMEngine's, and bfloat16 elsewhere, which has the range of
    float32 and needs no scaling.

    Args:
        loss_scale: ``'dynamic'``, a fixed scale, or arguments of ``torch.amp.GradScaler``. Only used with float16.
        dtype: ``'float16'``, ``'bfloat16'`` or None for the device's default.
        **kwargs: As :class:`YOLOOptimWrapper`.
    """

    def __init__(
        self, *args, loss_scale: str | float | dict = 'dynamic', dtype: str | torch.dtype | None = None, **kwargs
    ) -> None:
        super().__init__(*args, **kwargs)
        self.device_type = self.optimizer.param_groups[0]['params'][0].device.type
        self.cast_dtype = self._resolve_dtype(dtype)
        scaled = self.device_type == 'cuda' and self.cast_dtype == torch.float16
        self._fixed_scale = None if isinstance(loss_scale, (str, dict)) else float(loss_scale)
        self.loss_scaler = torch.amp.GradScaler(self.device_type, enabled=scaled, **self._scaler_args(loss_scale))

    def _resolve_dtype(self, dtype: str | torch.dtype | None) -> torch.dtype:
        if dtype is None:
            return torch.float16 if self.device_type == 'cuda' else torch.bfloat16
        name = str(dtype).removeprefix('torch.')
        if name not in AMP_DTYPES:
            raise ValueError(f'dtype must be one of {AMP_DTYPES} or None, got {dtype!r}')
        if name == 'float16' and self.device_type != 'cuda':
            raise ValueError(f'float16 training needs a CUDA device, got {self.device_type}: use dtype="bfloat16"')
        return getattr(torch, name)

    def _scaler_args(self, loss_scale: str | float | dict) -> dict:
        if loss_scale == 'dynamic':
            return {}
        if isinstance(loss_scale, str):
            raise ValueError(f'loss_scale must be "dynamic", a number or a dict, got {loss_scale!r}')
        return dict(loss_scale) if isinstance(loss_scale, dict) else {'init_scale': float(loss_scale)}

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast, and exchange gradients between ranks only in the last accumulated iteration."""
        with super().optim_context(model), torch.autocast(self.device_type, dtype=self.cast_dtype):
            yield

    def backward(self, loss: Tensor, **kwargs) -> None:
        self.loss_scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs) -> None:
        if self.clip_grad_kwargs:
            self.loss_scaler.unscale_(self.optimizer)
            self._clip_grad()
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.loss_scaler.update(self._fixed_scale)

    def state_dict(self) -> dict:
        return {**super().state_dict(), 'loss_scaler': self.loss_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        state_dict = dict(state_dict)
        scaler_state = state_dict.pop('loss_scaler', None)
        if scaler_state:  # empty where nothing is scaled, absent where the checkpoint was trained without AMP
            self.loss_scaler.load_state_dict(scaler_state)
        super().load_state_dict(state_dict)


def _layout(groups: list[dict]) -> list[tuple]:
    """Return what optimizers must have in common to load each other's state, one tuple per group."""
    return [(group.get('role'), group.get('lr_mult', 1.0), len(group['params'])) for group in groups]
