"""The strides of a head's levels, and whether those of the features are the same."""

from collections.abc import Sequence
from typing import Any

from mmdet.models.task_modules.prior_generators import SSDAnchorGenerator
from mmdet.registry import TASK_UTILS
from torch import nn

from mmyolo_ext.models.detectors.feature_spec import FeatureSpec
from mmyolo_ext.models.detectors.in_channels import MisfitError
from mmyolo_ext.models.detectors.part_kinds import option

GENERATORS = ('prior_generator', 'anchor_generator', 'square_anchor_generator')


def head_strides(head: nn.Module) -> tuple[int, ...] | None:
    """Of the levels a head has priors for, of ours or mmdet's; None if it does not say."""
    generators = (getattr(head, name, None) for name in GENERATORS)
    return next((strides for strides in map(_strides_of, generators) if strides), None)


def configured_strides(head: dict) -> tuple[int, ...] | None:
    """The same from the config of a head that is not built yet, or its defaults; None if they do not say."""
    generator = next((value for value in (option(head, name) for name in GENERATORS) if value), None)
    if generator:
        # mmdet's registry, where the defaults of its heads, written without scope, are at home
        return _strides_of(TASK_UTILS.build(generator))
    strides = option(head, 'strides')
    return tuple(strides) if isinstance(strides, Sequence) else None


def check_strides(features: FeatureSpec | None, head: nn.Module) -> None:
    """Raise MisfitError unless the levels that reach the head have the strides of its priors; unknown ones pass."""
    wanted = head_strides(head)
    if features is None or wanted is None or features.strides == wanted:
        return
    raise MisfitError(
        f'The features that reach the head have the channels {features.channels} and the strides {features.strides}, '
        f'the priors of {type(head).__name__} have {wanted}.'
    )


def _strides_of(generator: Any) -> tuple[int, ...] | None:
    # SSD's are distances between priors on a picture of one size, not strides of maps
    if generator is None or isinstance(generator, SSDAnchorGenerator):
        return None
    return tuple(stride_w for stride_w, _ in generator.strides)
