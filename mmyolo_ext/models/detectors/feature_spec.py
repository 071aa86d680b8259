"""What maps a backbone or neck gives: declared by it, or measured on a blank picture."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

# enough for a level of stride 128, small enough to cost nothing
BLANK_SIZE = 128


class FeatureSpec(NamedTuple):
    """Channels and strides of maps, shallow to deep."""

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
    channels, strides = getattr(backbone, 'out_channels', None), getattr(backbone, 'out_strides', None)
    if isinstance(channels, Sequence) and isinstance(strides, Sequence):
        return FeatureSpec(tuple(channels), tuple(strides))
    return _measure(backbone, torch.zeros(1, in_channels, BLANK_SIZE, BLANK_SIZE))


def neck_spec(neck: nn.Module, inputs: FeatureSpec) -> FeatureSpec:
    """Declared as ``out_channels``, one for each input, with the strides of the inputs; else measured.

    Args:
        neck: takes a tuple of maps.
        inputs: what the backbone gives it.

    Raises:
        ValueError: it declares nothing and does not take blank maps of these channels.
    """
    channels = getattr(neck, 'out_channels', None)
    if isinstance(channels, Sequence) and len(channels) == len(inputs.strides):
        return FeatureSpec(tuple(channels), tuple(getattr(neck, 'out_strides', inputs.strides)))
    sizes = [math.ceil(BLANK_SIZE / stride) for stride in inputs.strides]
    blank = tuple(torch.zeros(1, c, size, size) for c, size in zip(inputs.channels, sizes, strict=True))
    return _measure(neck, blank)


def _measure(module: nn.Module, blank: Tensor | tuple[Tensor, ...]) -> FeatureSpec:
    name = type(module).__name__
    try:
        with _evaluating(module), torch.no_grad():
            maps = module(blank)
    except Exception as error:  # any model may stand here, and fail in its own way
        given = [tuple(item.shape) for item in ([blank] if isinstance(blank, Tensor) else blank)]
        raise ValueError(
            f'{name} does not declare out_channels and out_strides, and cannot be measured: given zeros of {given} it '
            f'raised {type(error).__name__}: {error}. Give the attributes to {name}, or write the numbers in place of '
            "in_channels='auto'."
        ) from error
    if isinstance(maps, Tensor) or not all(isinstance(item, Tensor) and item.dim() == 4 for item in maps):
        raise ValueError(f'{name} must give a tuple of maps (N, C, H, W), shallow to deep, got {type(maps).__name__}')
    return FeatureSpec(
        tuple(item.shape[1] for item in maps),
        tuple(round(BLANK_SIZE / max(item.shape[-1], 1)) for item in maps),
    )


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode, so that no running statistic moves; then every part back in the mode it was in."""
    was_training = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in was_training.items():
            part.training = mode


def check_strides(features: FeatureSpec, head_strides: tuple[int, ...], backbone: nn.Module) -> None:
    """Raise ValueError unless the levels that reach the head have the strides of its priors."""
    if features.strides == head_strides:
        return
    name = type(backbone).__name__
    out_indices = getattr(backbone, 'out_indices', None)
    hint = _fitting_indices(out_indices, features.strides, head_strides)
    advice = f'try out_indices={hint}' if hint else 'choose those of the strides of the head'
    raise ValueError(
        f'The features that reach the head have the strides {features.strides}, its priors have {head_strides}. '
        f'Change out_indices of {name} (now {out_indices}; {advice}), or the strides of the head.'
    )


def _fitting_indices(
    out_indices: Sequence[int] | None, strides: tuple[int, ...], wanted: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Indices that would give the wanted strides if stage i + 1 has twice the stride of stage i; None if unknown."""
    if not out_indices or len(out_indices) > len(strides):
        return None
    stage_of_stride1 = out_indices[0] - math.log2(strides[0])
    stages = [stage_of_stride1 + math.log2(stride) for stride in wanted]
    if min(stages) < 0 or any(stage != int(stage) for stage in stages):
        return None
    return tuple(int(stage) for stage in stages)
