"""What all our backbones offer around their layers: choice of outputs, freezing, checkpointing, pretrained weights."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import Any

import torch
from mmengine.model import BaseModule, PretrainedInit
from mmengine.model.weight_init import update_init_info
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from mmyolo_ext.models.backbones.pretrained import load_pretrained
from mmyolo_ext.models.layers import INIT_CFG


class StagedBackbone(BaseModule):
    """A stem and the stages after it, numbered from 0 (the stem), one after the other in ``layers``.

    ``out_channels`` and ``out_strides`` (tuples) say what ``forward`` gives, ``stage_strides`` what each number would.
    Sizes that a stride does not divide are rounded by the layers.

    Args:
        layers: stem and stages in order; taken only as far as the last output, for the parameters of a stage that
            nothing is read from would never get a gradient.
        channels: what each of them gives.
        strides: likewise, px of the picture a cell.
        out_indices: numbers of the outputs, increasing.
        frozen_stages: stem and stages up to this number are not trained and stay in eval mode; -1 freezes nothing.
        norm_eval: keep every batch norm in eval mode.
        with_cp: in training, forget what is inside a stage and compute it again for the gradient: slower, less memory,
            the same numbers.
        init_cfg: the start of the weights; PyTorch's own by default. ``type='Pretrained'`` loads a file on top of it
            by :func:`load_pretrained`, after :meth:`unpack` and :meth:`translate`.

    Raises:
        ValueError: an index or ``frozen_stages`` out of range.
    """

    def __init__(
        self,
        layers: Iterable[nn.Module],
        channels: Sequence[int],
        strides: Sequence[int],
        out_indices: Sequence[int],
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        init_cfgs = [init_cfg] if isinstance(init_cfg, dict) else list(init_cfg or [])
        self_started = [cfg for cfg in init_cfgs if not _is_pretrained(cfg)]
        super().__init__(self_started or INIT_CFG)
        self.pretrained_cfgs = [cfg for cfg in init_cfgs if _is_pretrained(cfg)]
        self.out_indices = _checked_indices(out_indices, len(channels))
        if not -1 <= frozen_stages < len(channels):
            raise ValueError(f'frozen_stages must be from -1 (none) to {len(channels) - 1}, got {frozen_stages}')
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.stage_strides = tuple(strides)
        self.out_channels = tuple(channels[i] for i in self.out_indices)
        self.out_strides = tuple(strides[i] for i in self.out_indices)
        # The stem stands in the list too: as a child of its own MMEngine would start it by ConvModule's rule.
        self.layers = nn.ModuleList(islice(layers, self.out_indices[-1] + 1))
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Pictures (N, in_channels, H, W) -> maps, shallow to deep, of ``out_channels`` and ``out_strides``."""
        outputs = []
        forget = self.with_cp and self.training and torch.is_grad_enabled()
        for index, layer in enumerate(self.layers):
            x = _forgetful(layer, x) if forget and index > self.frozen_stages else layer(x)
            if index in self.out_indices:
                outputs.append(x)
        return tuple(outputs)

    def train(self, mode: bool = True) -> 'StagedBackbone':
        """Switch the mode, but for what is frozen and, under ``norm_eval``, the batch norms."""
        super().train(mode)
        self._freeze()
        if self.norm_eval:
            for module in _batch_norms(self):
                module.eval()
        return self

    def init_weights(self) -> None:
        """Start all weights, then take over those of the pretrained file, if there is one."""
        first_time = not self.is_init
        super().init_weights()
        for cfg in self.pretrained_cfgs if first_time else []:
            load_pretrained(self, cfg, self.translate, self.unpack)
            if hasattr(self, '_params_init_info'):
                update_init_info(self, init_info=f'Pretrained: load from {cfg["checkpoint"]}')

    def unpack(self, content: Any, source: str) -> Any:
        """What the pretrained file ``source`` holds -> a state dict, or a dict that has one; here as it is."""
        return content

    def translate(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights as another library names them -> the same by the names of this backbone; here nothing changes."""
        return state_dict

    def _freeze(self) -> None:
        for layer in self.layers[: self.frozen_stages + 1]:
            layer.eval()
            layer.requires_grad_(False)


def _is_pretrained(init_cfg: dict) -> bool:
    return init_cfg['type'] in ('Pretrained', 'mmengine.Pretrained', PretrainedInit)


def _checked_indices(out_indices: Sequence[int], num_outputs: int) -> tuple[int, ...]:
    indices = tuple(out_indices)
    if not indices or list(indices) != sorted(set(indices)) or indices[0] < 0 or indices[-1] >= num_outputs:
        raise ValueError(
            f'out_indices must be increasing numbers from 0 (stem) to {num_outputs - 1} (last stage), got '
            f'{out_indices}'
        )
    return indices


def _batch_norms(module: nn.Module) -> Iterator[nn.Module]:
    return (part for part in module.modules() if isinstance(part, _BatchNorm))


def _forgetful(layer: nn.Module, x: Tensor) -> Tensor:
    return checkpoint(layer, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _still_statistics(layer)))


@contextmanager
def _still_statistics(layer: nn.Module) -> Iterator[None]:
    """Keep the running statistics as they are: the second pass sees the same batch and must not count it twice."""
    norms = list(_batch_norms(layer))
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked.clone() for norm in norms if norm.num_batches_tracked is not None]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for norm, count in zip((n for n in norms if n.num_batches_tracked is not None), counts, strict=True):
            norm.num_batches_tracked.copy_(count)
