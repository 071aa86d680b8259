"""Channels and strides between backbone, neck and head: ``in_channels='auto'``, and errors for parts that do not fit.

What a part outputs is declared by its ``out_channels`` and ``out_strides``, or measured by running it once on zeros.
"""

import inspect
import math
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

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
            f'{name} does not declare out_channels and out_strides, and does not run on an image of {IMAGE_SIZE} px: '
            f"{type(error).__name__}: {error}. Add the attributes to {name}, or replace in_channels='auto' by numbers."
        ) from error
    if not isinstance(maps, Sequence) or not all(isinstance(item, Tensor) and item.dim() == 4 for item in maps):
        raise ValueError(
            f'{name} must return a tuple of maps (N, C, H, W), shallow to deep, got {type(maps).__name__} of '
            f"{[getattr(item, 'shape', item) for item in maps]}; in mmpretrain set out_type='featmap'"
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
            f'{features.channels}: put mmdet.FPN or mmdet.ChannelMapper between them, or make the out_channels equal'
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
        parameter = _parameter(cls, 'in_channels')
        if parameter is not None and parameter.annotation is not parameter.empty:
            return parameter.annotation in (int, int | None, 'int')
    return False


def head_strides(head: nn.Module | dict) -> tuple[int, ...] | None:
    """Return the strides of a head's levels, from the built head or from its config; None if it has none."""
    found = (_option(head, name) if isinstance(head, dict) else getattr(head, name, None) for name in GENERATORS)
    generator = next(filter(None, found), None)
    if isinstance(head, dict) and generator is None:
        strides = _option(head, 'strides')
        return tuple(strides) if isinstance(strides, Sequence) else None
    if isinstance(generator, dict):
        generator = TASK_UTILS.build(generator)  # of mmdet, whose defaults have no scope
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
    name, now = type(backbone).__name__, getattr(backbone, 'out_indices', None)
    stages = None if now is None or wanted is None else _all_stages(config, in_channels)
    if stages is None:
        return f'Change out_indices of {name} (now {now}), the neck, or the strides of the head.'
    now = (now,) if isinstance(now, int) else tuple(now)
    # of several indices of one stride the one in the default out_indices, else the deepest
    index_of = {stride: index for index, stride in enumerate(stages.strides)}
    default = _option({'type': config['type']}, 'out_indices')
    if isinstance(default, Sequence):
        index_of |= {stages.strides[index]: index for index in default if index < len(stages.strides)}
    indices = tuple(index_of[stride] for stride in sorted(index_of) if stride in wanted)
    if _fits(FeatureSpec(*(tuple(values[i] for i in indices) for values in stages)), necks, wanted):
        written = any(neck.get('in_channels', 'auto') != 'auto' for neck in necks)
        if indices == tuple(index % len(stages.strides) for index in now):
            return "Write in_channels='auto' in the neck." if written else ''
        also = " with in_channels='auto' in the neck" if written else ''
        return f'Try out_indices={indices} of {name} (now {now}){also}, or change the strides of the head.'
    strides = ', '.join(f'{index}: {stride}' for index, stride in enumerate(stages.strides))
    return (
        f'Change out_indices of {name} (now {now}; the strides of its indices are {strides}), the neck, or the '
        'strides of the head.'
    )


def _all_stages(config: dict, in_channels: int) -> FeatureSpec | None:
    """Return the features of all indices of a backbone: the most that it can be built with."""
    config = {key: value for key, value in config.items() if key not in WEIGHT_OPTIONS}
    for count in range(MAX_STAGES, 0, -1):
        with suppress(Exception):  # any backbone may be here, and refuse in its own way
            features = features_of(MODELS.build({**config, 'out_indices': tuple(range(count))}), in_channels)
            if len(features.strides) == count:
                return features
    return None


def _fits(features: FeatureSpec, necks: Sequence[dict], wanted: tuple[int, ...]) -> bool:
    """Return whether the necks, with the channels of the features, give the wanted strides."""
    with suppress(Exception):  # any neck may be here, and refuse in its own way
        for neck in necks:
            features = build_neck({**neck, 'in_channels': 'auto'} if 'in_channels' in neck else neck, features, '')[1]
        return features.strides == wanted
    return False


def _classes(part: dict) -> tuple[type, ...]:
    """Return the class that the registry would build and its bases, nearest first; empty if it is unknown."""
    kind = part['type']
    if isinstance(kind, str):
        with MODELS.switch_scope_and_registry(part.get('_scope_')) as registry:
            kind = registry.get(kind)
    return inspect.getmro(kind) if inspect.isclass(kind) else ()


def _parameter(cls: type, name: str) -> inspect.Parameter | None:
    """Return an argument of the constructor that a class defines itself."""
    init = cls.__dict__.get('__init__')
    return inspect.signature(init).parameters.get(name) if inspect.isfunction(init) else None


def _option(part: dict, name: str) -> Any:
    """Return an argument from a config, or its default in the nearest class that takes it; None without either."""
    if name in part:
        return part[name]
    found = (parameter for cls in _classes(part) if (parameter := _parameter(cls, name)))
    return next((None if p.default is p.empty else p.default for p in found), None)


def _message(error: BaseException) -> str:
    """Return the message of an error; for an assertion without one, as in mmdet, its line of source."""
    return str(error).rstrip('.') or traceback.extract_tb(error.__traceback__)[-1].line or type(error).__name__
