"""What our backbones share: choice of outputs, freezing, activation checkpointing, pretrained weights."""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import islice
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule, PretrainedInit
from mmengine.model.weight_init import update_init_info
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from mmyolo_ext.checkpoint.backbone_keys import fetch
from mmyolo_ext.checkpoint.conversion import state_dict_of
from mmyolo_ext.checkpoint.matching import NOT_WEIGHTS, LoadReport
from mmyolo_ext.checkpoint.safe_load import check_finite
from mmyolo_ext.models.layers import INIT_CFG

# keys under which training tools keep a state dict in their checkpoints; the first that exists is used
CONTAINERS = ('state_dict', 'model', 'model_ema', 'ema_state_dict')
# prefixes of DistributedDataParallel and EMA models, torch.compile, and models with a head
WRAPPERS = ('module.', '_orig_mod.', 'backbone.')


class StagedBackbone(BaseModule):
    """Base class of backbones that are a stem (index 0) and stages, one after the other in ``layers``.

    ``out_channels`` and ``out_strides`` (tuples) declare what ``forward`` returns, ``stage_strides`` the stride of
    every index. Layers round sizes that a stride does not divide.

    Args:
        layers: Stem and stages in order; built as far as the last output only, because the parameters of an unused
            stage would never get a gradient.
        channels: Output channels of each.
        strides: Stride of each with respect to the image.
        out_indices: Increasing indices of the outputs.
        frozen_stages: Stem and stages up to this index are not trained and stay in eval mode; -1 freezes nothing.
        norm_eval: Keep every batch norm in eval mode.
        with_cp: In training, recompute the activations of each stage in the backward pass: slower, less memory, the
            same numbers.
        init_cfg: Initialization; PyTorch's own by default. ``type='Pretrained'`` loads a file on top of it by
            :func:`load_pretrained`, after :meth:`unpack` and :meth:`translate`.

    Raises:
        ValueError: If an index or ``frozen_stages`` is out of range.
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
        pretrained = [cfg for cfg in init_cfgs if cfg['type'] in ('Pretrained', 'mmengine.Pretrained', PretrainedInit)]
        super().__init__([cfg for cfg in init_cfgs if cfg not in pretrained] or INIT_CFG)
        self.pretrained_cfgs = pretrained
        self.out_indices = tuple(out_indices)
        last = len(channels) - 1
        in_range = all(0 <= index <= last for index in self.out_indices)
        if not self.out_indices or not in_range or list(self.out_indices) != sorted(set(self.out_indices)):
            raise ValueError(
                f'out_indices must be increasing numbers from 0 (stem) to {last} (last stage), got {out_indices}'
            )
        if not -1 <= frozen_stages <= last:
            raise ValueError(f'frozen_stages must be from -1 (none) to {last}, got {frozen_stages}')
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.stage_strides = tuple(strides)
        self.out_channels = tuple(channels[i] for i in self.out_indices)
        self.out_strides = tuple(strides[i] for i in self.out_indices)
        # The stem is in the list too: as a direct child, MMEngine would initialize it by ConvModule's rule.
        self.layers = nn.ModuleList(islice(layers, self.out_indices[-1] + 1))
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (N, in_channels, H, W) -> maps, shallow to deep, of ``out_channels`` and ``out_strides``."""
        outputs = []
        with_cp = self.with_cp and self.training and torch.is_grad_enabled()
        for index, layer in enumerate(self.layers):
            if with_cp and index > self.frozen_stages:
                contexts = partial(_recomputation, layer)
                x = checkpoint(layer, x, use_reentrant=False, context_fn=contexts)
            else:
                x = layer(x)
            if index in self.out_indices:
                outputs.append(x)
        return tuple(outputs)

    def train(self, mode: bool = True) -> 'StagedBackbone':
        """Set the mode, except for frozen stages and, with ``norm_eval``, batch norms."""
        super().train(mode)
        self._freeze()
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def init_weights(self) -> None:
        """Initialize all weights, then load the pretrained file, if there is one."""
        first_time = not self.is_init
        super().init_weights()
        for cfg in self.pretrained_cfgs if first_time else []:
            load_pretrained(self, cfg)
            if hasattr(self, '_params_init_info'):
                update_init_info(self, init_info=f'Pretrained: load from {cfg["checkpoint"]}')

    def unpack(self, content: Any, source: str) -> Any:
        """Return the state dict in the content of a pretrained file, or a dict that contains it."""
        return content

    def translate(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename weights of another library to the names of this backbone."""
        return state_dict

    def _freeze(self) -> None:
        for layer in self.layers[: self.frozen_stages + 1]:
            layer.eval()
            layer.requires_grad_(False)


def _recomputation(layer: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Return the contexts of the forward pass and of its recomputation, which must not update statistics again."""
    return nullcontext(), _constant_buffers(layer)


@contextmanager
def _constant_buffers(layer: nn.Module) -> Iterator[None]:
    before = [buffer.clone() for buffer in layer.buffers()]
    try:
        yield
    finally:
        for buffer, value in zip(layer.buffers(), before, strict=True):
            buffer.data.copy_(value)


def load_pretrained(backbone: StagedBackbone, init_cfg: Mapping[str, Any]) -> None:
    """Load the weights that match by name and shape, and log which did and which did not.

    The head of a classifier or detector, and stages after the last that is built, are expected to be left over and
    only counted. Any other mismatch is listed in a warning.

    Args:
        backbone: Its ``unpack`` and ``translate`` adapt the content of the file.
        init_cfg: ``checkpoint`` (see :func:`fetch`), ``prefix`` of the names to load (by default ``backbone.``, if the
            file has such names) and ``map_location``, ``'cpu'`` by default.

    Raises:
        ValueError: If nothing matches, the file is absent, unreadable or without weights, or weights are not finite.
    """
    source = str(init_cfg['checkpoint'])
    saved = _state_dict(backbone.unpack(fetch(source, init_cfg.get('map_location', 'cpu')), source), source)
    given = backbone.translate(_without_prefix(saved, init_cfg.get('prefix'), source))
    stages = {key: re.match(r'layers\.(\d+)\.', key) for key in given}
    given = {
        key: value for key, value in given.items() if not stages[key] or int(stages[key][1]) < len(backbone.layers)
    }
    current = backbone.state_dict()
    report = LoadReport.of(current, given)
    name = type(backbone).__name__
    if not report.matched:
        raise ValueError(
            f'{source} does not fit {name}: {report}. Names in the file start with {next(iter(saved))}; those of '
            f'{name}, torchvision and mmpretrain can be loaded'
        )
    check_finite({key: given[key] for key in report.matched}, source)
    matching = {key: given[key] for key in current if key in given and key not in report.reshaped}
    backbone.load_state_dict(matching, strict=False)

    text = f'{name} from {source}: {report}.'
    num_saved, num_given = (sum(not key.endswith(NOT_WEIGHTS) for key in names) for names in (saved, given))
    if num_saved > num_given:
        text += f' {num_saved - num_given} more in the file belong to parts not built here (head, neck, later stages).'
    if report.complete:
        print_log(text, logger='current')
        return
    if len(report.matched) < len(report.missing) + len(report.reshaped):
        text += ' Most of the network keeps its random weights: do width and architecture match the checkpoint?'
    print_log(f'{text} Not loaded:\n{report.table()}', logger='current', level=logging.WARNING)


def _state_dict(content: Any, source: str) -> dict[str, Tensor]:
    """Return the tensors by name, from one of :data:`CONTAINERS` in the content or from the content itself."""
    outer = content if isinstance(content, Mapping) else {}
    for candidate in (*(outer.get(key) for key in CONTAINERS), outer):
        if tensors := state_dict_of(candidate):
            return tensors
    raise ValueError(
        f'{source} contains no named weights but a {type(content).__name__}; it must be a state dict, or have one in '
        f'{" or ".join(CONTAINERS)}'
    )


def _without_prefix(saved: dict[str, Tensor], prefix: str | None, source: str) -> dict[str, Tensor]:
    """Return the backbone's tensors without the prefix of their names."""

    def under(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in saved.items() if key.startswith(prefix)}

    if prefix:
        part = under(prefix.rstrip('.') + '.')
        if not part:
            raise ValueError(f'{source} has no names with the prefix {prefix!r}, but {next(iter(saved))} and others')
        return part
    while wrapped := [part for wrapper in WRAPPERS if (part := under(wrapper))]:
        saved = wrapped[0]
    return saved
