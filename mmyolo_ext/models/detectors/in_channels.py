"""Channels and strides between backbone, neck and head: ``in_channels='auto'``, and errors for parts that do not fit.

What a part outputs is declared by its ``out_channels`` and ``out_strides``, or measured by running it once on zeros.
"""

import inspect
import math
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import torch
from mmdet.models.task_modules.prior_generators import SSDAnchorGenerator
from mmdet.registry import TASK_UTILS
from torch import Tensor, nn

from mmyolo_ext.registry import MODELS

IMAGE_SIZE = 256  # of the dry run, in px; a multiple of every usual stride
GENERATORS = ('prior_generator', 'anchor_generator', 'square_anchor_generator')  # of mmdet's heads
# parts of mmdet that take one number although their signature has no type hint for it, or a wrong one
ONE_NUMBER = ('YOLOFHead', 'DyHead', 'DilatedEncoder')
DEEP_FIRST = ('YOLOV3Neck',)  # parts of mmdet that list their levels deep to shallow
MAX_STAGES = 12  # of a backbone, when its strides are listed
WEIGHT_OPTIONS = ('pretrained', 'checkpoint_path', 'init_cfg')  # of backbones; slow, and irrelevant for strides


class FeatureSpec(NamedTuple):
    """Channels and strides of feature maps, in their order."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __str__(self) -> str:
        return f'channels {self.channels} and strides {self.strides}'


class MisfitError(ValueError):
    """Two parts whose configs do not fit together."""


def is_auto(part: dict) -> bool:
    """Return whether the config of a neck or head asks for its channels."""
    return part.get('in_channels') == 'auto'


def features_of(module: nn.Module, inputs: FeatureSpec | int) -> FeatureSpec:
    """Return what a backbone or neck outputs: declared, or measured by one dry run.

    Args:
        module: Declares ``out_channels`` and ``out_strides``, or runs on zeros.
        inputs: Channels of the image for a backbone, features of the backbone for a neck.

    Raises:
        ValueError: If it declares nothing and does not run, or returns something else than maps (N, C, H, W).
    """
    channels, strides = getattr(module, 'out_channels', None), getattr(module, 'out_strides', None)
    # both, because out_channels alone means different things in mmdet's necks
    if isinstance(channels, Sequence) and isinstance(strides, Sequence):
        return FeatureSpec(tuple(channels), tuple(strides))
    name = type(module).__name__
    like = next(module.parameters(), torch.empty(0))
    if isinstance(inputs, int):
        zeros = like.new_zeros(1, inputs, IMAGE_SIZE, IMAGE_SIZE)
    else:
        sizes = [math.ceil(IMAGE_SIZE / stride) for stride in inputs.strides]
        zeros = tuple(like.new_zeros(1, c, size, size) for c, size in zip(inputs.channels, sizes, strict=True))
    try:
        maps = run_without_side_effects(module, zeros)
    except Exception as error:  # any model may be here, and fail in its own way
        raise ValueError(
            f'{name} does not declare out_channels and out_strides, and does not run on zeros for an image of '
            f'{IMAGE_SIZE} px: {type(error).__name__}: {error}. Add the attributes to {name}, or replace '
            "in_channels='auto' by numbers."
        ) from error
    if not isinstance(maps, Sequence) or not all(isinstance(item, Tensor) and item.dim() == 4 for item in maps):
        shapes = [tuple(item.shape) if isinstance(item, Tensor) else type(item).__name__ for item in maps]
        raise ValueError(
            f'{name} must return a tuple of maps (N, C, H, W), shallow to deep, got {type(maps).__name__} of '
            f"{shapes}; transformers of mmpretrain return maps with out_type='featmap'"
        )
    return FeatureSpec(
        tuple(item.shape[1] for item in maps), tuple(round(IMAGE_SIZE / max(item.shape[-1], 1)) for item in maps)
    )


def run_without_side_effects(module: nn.Module, inputs: Any) -> Any:
    """Run a module in eval mode without changing a gradient, a statistic, a mode or the random state."""
    devices = {parameter.device for parameter in module.parameters() if parameter.is_cuda}
    with _eval_mode(module), torch.no_grad(), torch.random.fork_rng(devices=list(devices)):
        return module(inputs)


@contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    """Set the modes one by one: in many backbones ``eval()`` and ``train()`` also freeze stages."""
    modes = {part: part.training for part in module.modules()}
    for part in modes:
        part.training = False
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def build_for(config: dict, features: FeatureSpec | None, source: str) -> nn.Module:
    """Build a neck or head, its ``in_channels='auto'`` replaced by the channels of the features.

    Args:
        config: Of the neck or head; not changed.
        features: Its inputs; may be None if it does not ask for them.
        source: Class name of the part that outputs the features.

    Raises:
        ValueError: If it takes one number, and the channels differ.
        MisfitError: If it cannot be built for this number of levels.
    """
    if not is_auto(config):
        return MODELS.build(config)
    if not takes_one_number(config):
        deep_first = any(kind.__name__ in DEEP_FIRST for kind in _classes(config))
        in_channels = list(features.channels[::-1] if deep_first else features.channels)
    elif len(set(features.channels)) == 1:
        in_channels = features.channels[0]
    else:
        raise ValueError(
            f'{config["type"]} takes maps of equal channels (its in_channels is one number), but {source} outputs '
            f'{features.channels}. Put a neck with one out_channels for all levels between them, e.g. mmdet.FPN or '
            'mmdet.ChannelMapper, or give the existing neck equal out_channels.'
        )
    try:
        return MODELS.build({**config, 'in_channels': in_channels})
    except (AssertionError, IndexError, ValueError) as error:  # how parts refuse a number of levels
        raise MisfitError(
            f'{source} outputs maps of {features}; {config["type"]} cannot be built for them: {_message(error)}.'
        ) from error


def build_neck(config: dict, features: FeatureSpec | None, source: str) -> tuple[nn.Module, FeatureSpec | None]:
    """Build a neck as :func:`build_for` does, and return it with its features, None if its inputs are unknown.

    Raises:
        MisfitError: If it does not accept its inputs.
    """
    neck = build_for(config, features, source)
    if features is None:
        return neck, None
    try:
        return neck, features_of(neck, features)
    except ValueError as error:
        raise MisfitError(
            f'{source} outputs maps of {features}; {type(neck).__name__} (in_channels={config.get("in_channels")!r}) '
            f'does not accept them: {_message(error.__cause__ or error)}.'
        ) from error


def takes_one_number(part: dict) -> bool:
    """Return whether ``in_channels`` of a part is one number for all levels, not a list with one per level.

    The type hint of the nearest class that has one decides: ``RetinaHead`` has none, its base ``AnchorHead`` has
    ``int``. Without any hint it is a list.
    """
    for cls in _classes(part):
        if cls.__name__ in ONE_NUMBER:
            return True
        init = cls.__dict__.get('__init__')
        if not inspect.isfunction(init) or 'in_channels' not in inspect.signature(init).parameters:
            continue
        try:
            hint = get_type_hints(init).get('in_channels')
        except Exception:  # hints that name what only type checkers import
            hint = {'int': int}.get(init.__annotations__.get('in_channels'))
        if hint is not None:
            choices = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
            return set(choices) <= {int, type(None)}
    return False


def head_strides(head: nn.Module | dict) -> tuple[int, ...] | None:
    """Return the strides of a head's levels, from the built head or from its config; None if it has none."""
    if isinstance(head, dict):
        generator = next((value for value in (_option(head, name) for name in GENERATORS) if value), None)
        if not generator:
            strides = _option(head, 'strides')
            return tuple(strides) if isinstance(strides, Sequence) else None
        generator = TASK_UTILS.build(generator)  # of mmdet, whose defaults have no scope
    else:
        generator = next((value for value in (getattr(head, name, None) for name in GENERATORS) if value), None)
    # the strides of SSDAnchorGenerator are distances between anchors, not strides of maps
    if generator is None or isinstance(generator, SSDAnchorGenerator):
        return None
    return tuple(stride_w for stride_w, _ in generator.strides)


def out_indices_advice(
    config: dict, backbone: nn.Module, necks: Sequence[dict], wanted: tuple[int, ...] | None, in_channels: int
) -> str:
    """Return a sentence on which ``out_indices`` of a backbone give the head its strides; empty if those it has do.

    Args:
        config: Of the backbone.
        backbone: The built backbone.
        necks: Configs of the necks.
        wanted: Strides of the head, if known.
        in_channels: Channels of the image.
    """
    name = type(backbone).__name__
    now = getattr(backbone, 'out_indices', None)
    if now is None:
        return f'{name} has no out_indices to choose from: change the neck, or the strides of the head.'
    now = (now,) if isinstance(now, int) else tuple(now)
    stages = _all_stages(config, max(now), in_channels)
    if stages is None or wanted is None:
        return f'Change out_indices of {name} (now {now}), the neck, or the strides of the head.'
    written = any(isinstance(neck.get('in_channels'), int | Sequence) and not is_auto(neck) for neck in necks)
    auto_necks = [{**neck, 'in_channels': 'auto'} if 'in_channels' in neck else neck for neck in necks]
    for indices in _candidates(config, stages.strides, wanted):
        features = FeatureSpec(*(tuple(values[i] for i in indices) for values in stages))
        try:
            for neck in auto_necks:
                features = build_neck(neck, features, name)[1]
        except Exception:  # any neck may be here, and refuse in its own way
            continue
        if features.strides != wanted:
            continue
        if indices == tuple(index % len(stages.strides) for index in now):
            return "Write in_channels='auto' in the neck." if written else ''
        also = " with in_channels='auto' in the neck" if written else ''
        return f'Try out_indices={indices} of {name} (now {now}){also}, or change the strides of the head.'
    strides = ', '.join(f'{index}: {stride}' for index, stride in enumerate(stages.strides))
    return (
        f'Change out_indices of {name} (now {now}; the strides of its indices are {strides}), the neck, or the '
        'strides of the head.'
    )


def _all_stages(config: dict, last: int, in_channels: int) -> FeatureSpec | None:
    """Return the features of all indices of a backbone, found by asking for one more until it refuses."""
    config = {key: value for key, value in config.items() if key not in WEIGHT_OPTIONS}
    stages = None
    for count in range(max(last + 1, 1), max(last + 1, MAX_STAGES) + 1):
        try:
            features = features_of(MODELS.build({**config, 'out_indices': tuple(range(count))}), in_channels)
        except Exception:  # any backbone may be here, and refuse in its own way
            break
        if len(features.strides) != count:
            break
        stages = features
    return stages


def _candidates(config: dict, strides: tuple[int, ...], wanted: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield indices of the wanted strides, then with more and more of the shallower ones, which a neck may skip.

    Of several indices of one stride, the one in the default ``out_indices`` is taken, else the deepest.
    """
    index_of = {stride: index for index, stride in enumerate(strides)}
    default = _option({'type': config['type']}, 'out_indices')
    for index in (default,) if isinstance(default, int) else default or ():
        if -len(strides) <= index < len(strides):
            index_of[strides[index]] = index % len(strides)
    present = sorted(stride for stride in index_of if stride in wanted)
    shallower = sorted(stride for stride in index_of if present and stride < present[0])
    for skipped in range(len(shallower), -1, -1):
        yield tuple(index_of[stride] for stride in (*shallower[skipped:], *present))


def _classes(part: dict) -> tuple[type, ...]:
    """Return the class that the registry would build and its bases, nearest first; empty if it is unknown."""
    kind = part['type']
    if isinstance(kind, str):
        with MODELS.switch_scope_and_registry(part.get('_scope_')) as registry:
            kind = registry.get(kind)
    return inspect.getmro(kind) if inspect.isclass(kind) else ()


def _option(part: dict, name: str) -> Any:
    """Return an argument from a config, or its default in the nearest class that takes it; None without either."""
    if name in part:
        return part[name]
    for cls in _classes(part):
        init = cls.__dict__.get('__init__')
        parameter = inspect.signature(init).parameters.get(name) if inspect.isfunction(init) else None
        if parameter is not None:
            return None if parameter.default is parameter.empty else parameter.default
    return None


def _message(error: BaseException) -> str:
    """Return the message of an error; for an assertion without one, as in mmdet, its line of source."""
    return str(error).rstrip('.') or traceback.extract_tb(error.__traceback__)[-1].line or type(error).__name__
