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
        groups, own = state_dict['param_groups'], self.optimizer.param_groups
        before, now = _layout(groups), _layout(own)
        if before != now:
            raise ValueError(
                f'the optimizer of the checkpoint has the groups {before} (role, multiple of the rate, tensors), the '
                f'config has {now}: set frozen_parts, frozen_stages and paramwise_cfg back to resume, or start a new '
                'training from its weights by load_from'
            )
        forms = [{key: group[key] for key in IMPLEMENTATIONS if key in group} for group in own]
        groups = [{**group, **form} for group, form in zip(groups, forms, strict=True)]
        super().load_state_dict({**state_dict, 'param_groups': groups})

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
        on_gpu = self.device_type == 'cuda'
        name = str(dtype or ('float16' if on_gpu else 'bfloat16')).removeprefix('torch.')
        if name not in AMP_DTYPES or name == 'float16' and not on_gpu:
            raise ValueError(f'dtype must be "bfloat16", or on a CUDA device "float16", got {dtype!r}')
        self.cast_dtype = getattr(torch, name)
        scaling = dict(loss_scale) if isinstance(loss_scale, dict) else {}
        self._fixed_scale = None if loss_scale == 'dynamic' or scaling else float(loss_scale)
        if self._fixed_scale is not None:
            scaling = {'init_scale': self._fixed_scale}
        self.loss_scaler = torch.amp.GradScaler(self.device_type, enabled=name == 'float16', **scaling)

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
