"""What maps a backbone or neck gives: declared by it, or measured on a blank picture.

Letters: N images, C channels.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# Sides in px. The first suffices unless a map shrinks to one cell, which would look the same for any longer stride
# (stride 128), or a layer without padding shaves off borders (SSD's).
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
            run_without_trace(module, _blank_maps(module, inputs, size))
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
    channels: tuple[int, ...] = ()
    widths: dict[int, list[int]] = {}  # of the maps, by the size of the picture
    failure = None
    for size in BLANK_SIZES:
        blank = blank_of_size(size)
        try:
            maps = run_without_trace(module, blank)
        except Exception as error:  # any model may stand here, and fail in its own way
            failure = error
            continue
        channels = _channels(module, maps)
        widths[size] = [max(item.shape[-1], 1) for item in maps]
        if all(width > 1 and size % width == 0 for width in widths[size]):
            break
    if not widths:
        name = type(module).__name__
        given = [tuple(item.shape) for item in ([blank] if isinstance(blank, Tensor) else blank)]
        raise ValueError(
            f'{name} does not declare out_channels and out_strides, and cannot be measured: given zeros of {given} it '
            f'raised {type(failure).__name__}: {failure}. Give the attributes to {name}, or write the numbers in '
            "place of in_channels='auto'."
        ) from failure
    return FeatureSpec(channels, _strides(widths))


def _channels(module: nn.Module, maps: Any) -> tuple[int, ...]:
    if not isinstance(maps, Sequence) or not all(isinstance(item, Tensor) and item.dim() == 4 for item in maps):
        raise ValueError(
            f'{type(module).__name__} must give a tuple of maps (N, C, H, W), shallow to deep, got {_told(maps)}; '
            "transformers of mmpretrain give maps with out_type='featmap'"
        )
    return tuple(item.shape[1] for item in maps)


def _told(output: Any) -> str:
    """What came, with shapes: ``tuple of (1, 768)``."""
    if isinstance(output, Tensor):
        return f'one tensor {tuple(output.shape)}'
    if not isinstance(output, Sequence):
        return type(output).__name__
    parts = [str(tuple(item.shape)) if isinstance(item, Tensor) else type(item).__name__ for item in output]
    return f'{type(output).__name__} of {", ".join(parts) or "nothing"}'


def _strides(widths: dict[int, list[int]]) -> tuple[int, ...]:
    """From the largest picture; by how much a map grew with it where a layer without padding shaves off its border."""
    size = max(widths)
    smaller = max((other for other in widths if other < size), default=0)
    return tuple(
        size // width if size % width == 0 or width == before else round((size - smaller) / (width - before))
        for width, before in zip(widths[size], widths.get(smaller, [0] * len(widths[size])), strict=True)
    )


def _blank_maps(module: nn.Module, inputs: FeatureSpec, size: int) -> tuple[Tensor, ...]:
    return tuple(
        _zeros(module, channels, math.ceil(size / stride))
        for channels, stride in zip(inputs.channels, inputs.strides, strict=True)
    )


def _zeros(module: nn.Module, channels: int, size: int) -> Tensor:
    like = next(module.parameters(), torch.empty(0))
    return like.new_zeros(1, channels, size, size)


def run_without_trace(module: nn.Module, inputs: Any) -> Any:
    """Run a module; no gradient, statistic, mode or random number is changed."""
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
