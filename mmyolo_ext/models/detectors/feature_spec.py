"""What maps a backbone or neck gives: declared by it, or measured on a blank picture.

Letters: N images, C channels.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# The smallest at which no map shrinks to one cell is used: one cell would look the same for any longer stride. 128
# costs nothing; 256 is for stride 128; 512 for networks that shave off borders, like SSD's.
BLANK_SIZES = (128, 256, 512)


class FeatureSpec(NamedTuple):
    """Channels and strides of maps, in the order in which they are given."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]


def backbone_spec(backbone: nn.Module, in_channels: int = 3) -> FeatureSpec:
    """Declared as ``out_channels`` and ``out_strides``, else measured.

    Args:
        backbone: takes a picture (N, in_channels, H, W).
        in_channels: of the picture.

    Raises:
        ValueError: it declares nothing and does not take a blank picture.
    """
    return _declared(backbone) or _measured(backbone, lambda size: _zeros(backbone, in_channels, size))


def neck_spec(neck: nn.Module, inputs: FeatureSpec) -> FeatureSpec:
    """Declared as ``out_channels`` and ``out_strides``, else measured.

    Args:
        neck: takes a tuple of maps.
        inputs: what the backbone gives it.

    Raises:
        ValueError: it declares nothing and does not take blank maps of these channels and strides.
    """
    return _declared(neck) or _measured(neck, lambda size: _blank_maps(neck, inputs, size))


def takes(module: nn.Module, inputs: FeatureSpec) -> bool:
    """Whether a neck or head runs on blank maps of these channels and strides."""
    for size in BLANK_SIZES:
        try:
            _run(module, _blank_maps(module, inputs, size))
        except Exception:  # any model may stand here, and fail in its own way
            continue
        return True
    return False


def _declared(module: nn.Module) -> FeatureSpec | None:
    # Both, for mmdet's necks have an attribute out_channels of several meanings.
    channels, strides = getattr(module, 'out_channels', None), getattr(module, 'out_strides', None)
    if isinstance(channels, Sequence) and isinstance(strides, Sequence):
        return FeatureSpec(tuple(channels), tuple(strides))
    return None


def _measured(module: nn.Module, blank_of_size: Callable[[int], Any]) -> FeatureSpec:
    spec = failure = None
    for size in BLANK_SIZES:
        blank = blank_of_size(size)
        try:
            maps = _run(module, blank)
        except Exception as error:  # any model may stand here, and fail in its own way
            failure = error
            continue
        spec = _spec_of(module, maps, size)
        if all(item.shape[-1] > 1 and size % item.shape[-1] == 0 for item in maps):
            break
    if spec is None:
        name = type(module).__name__
        given = [tuple(item.shape) for item in ([blank] if isinstance(blank, Tensor) else blank)]
        raise ValueError(
            f'{name} does not declare out_channels and out_strides, and cannot be measured: given zeros of {given} it '
            f'raised {type(failure).__name__}: {failure}. Give the attributes to {name}, or write the numbers in '
            "place of in_channels='auto'."
        ) from failure
    return spec


def _spec_of(module: nn.Module, maps: Any, size: int) -> FeatureSpec:
    if not isinstance(maps, Sequence) or not all(isinstance(item, Tensor) and item.dim() == 4 for item in maps):
        raise ValueError(
            f'{type(module).__name__} must give a tuple of maps (N, C, H, W), shallow to deep, got '
            f'{type(maps).__name__}'
        )
    return FeatureSpec(
        tuple(item.shape[1] for item in maps),
        tuple(round(size / max(item.shape[-1], 1)) for item in maps),
    )


def _blank_maps(module: nn.Module, inputs: FeatureSpec, size: int) -> tuple[Tensor, ...]:
    return tuple(
        _zeros(module, channels, math.ceil(size / stride))
        for channels, stride in zip(inputs.channels, inputs.strides, strict=True)
    )


def _zeros(module: nn.Module, channels: int, size: int) -> Tensor:
    like = next(module.parameters(), torch.empty(0))
    return like.new_zeros(1, channels, size, size)


def _run(module: nn.Module, inputs: Any) -> Any:
    """Its output, with no trace left in it: no gradient, statistic, mode or random number."""
    devices = {parameter.device for parameter in module.parameters() if parameter.is_cuda}
    with _evaluating(module), torch.no_grad(), torch.random.fork_rng(devices=list(devices)):
        return module(inputs)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode, so that no running statistic moves; then every part back in the mode it was in.

    Set without ``eval()``, for in many backbones that also freezes their stages.
    """
    was_training = {part: part.training for part in module.modules()}
    for part in was_training:
        part.training = False
    try:
        yield
    finally:
        for part, mode in was_training.items():
            part.training = mode
