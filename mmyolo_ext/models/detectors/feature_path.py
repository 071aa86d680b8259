"""The way of the features: backbone, necks and head, each built for the one before it."""

import traceback
from collections.abc import Sequence

from mmengine.model import Sequential
from torch import nn

from mmyolo_ext.models.detectors.feature_spec import FeatureSpec, backbone_spec, neck_spec, takes
from mmyolo_ext.models.detectors.in_channels import MisfitError, filled_in, in_order, is_auto
from mmyolo_ext.registry import MODELS

PICTURE_CHANNELS = ('in_channels', 'in_chans')


def build_backbone(config: dict, required: bool) -> tuple[nn.Module, FeatureSpec | None]:
    """The backbone and what it gives; None if that cannot be found out and is not ``required``."""
    backbone = MODELS.build(config)
    in_channels = next((config[name] for name in PICTURE_CHANNELS if isinstance(config.get(name), int)), 3)
    try:
        return backbone, backbone_spec(backbone, in_channels)
    except ValueError:
        if required:
            raise
        return backbone, None


def build_neck(
    config: dict | Sequence[dict], features: FeatureSpec | None, giver: str, required: bool
) -> tuple[nn.Module, FeatureSpec | None]:
    """The neck, or several one after the other, and what comes out; None if that cannot be found out.

    Args:
        config: of one neck, or a list of configs.
        features: what the backbone gives.
        giver: name of the backbone.
        required: an error, not None, if what comes out cannot be found out.

    Raises:
        MisfitError: it does not take these features.
        ValueError: what comes out is required and cannot be measured.
    """
    if isinstance(config, dict):
        return _build_one(config, features, giver, required)
    necks = []
    for place, part in enumerate(config, start=1):
        neck, features = _build_one(part, features, giver, required or is_auto(config[place:]))
        giver = type(neck).__name__
        necks.append(neck)
    return Sequential(*necks), features


def build_head(config: dict, features: FeatureSpec | None, giver: str) -> nn.Module:
    """The head for these features; raises MisfitError if it cannot be built for so many levels."""
    return _built(config, features, giver)


def check_channels(head: nn.Module, config: dict, features: FeatureSpec | None, giver: str) -> None:
    """Raise ValueError if the config has other channels than the features, and the head does not run on these."""
    own = _own_channels(config, features)
    if own and own != features.channels and not takes(head, features):
        raise ValueError(
            f'{type(head).__name__} is written for in_channels={config["in_channels"]}, but {giver} gives '
            f"{features.channels}. Write in_channels='auto', or change {giver}."
        )


def _build_one(
    config: dict, features: FeatureSpec | None, giver: str, required: bool
) -> tuple[nn.Module, FeatureSpec | None]:
    neck = _built(config, features, giver)
    if features is None:
        return neck, None
    try:
        return neck, neck_spec(neck, features)
    except ValueError as error:
        if error.__cause__ and _runs_on_its_own(neck, config, features):
            raise MisfitError(
                f'{giver} gives maps of the channels {features.channels} and the strides {features.strides}; '
                f'{type(neck).__name__} (in_channels={config.get("in_channels")!r}) does not take them: '
                f'{_words(error.__cause__)}.'
            ) from error
        if required:
            raise
        return neck, None


def _built(config: dict, features: FeatureSpec | None, giver: str) -> nn.Module:
    config_for_features = filled_in(config, features, giver)
    try:
        return MODELS.build(config_for_features)
    except (AssertionError, IndexError, ValueError) as error:  # how parts refuse a number of levels
        if not is_auto(config):
            raise
        raise MisfitError(
            f'{giver} gives maps of the channels {features.channels} and the strides {features.strides}; '
            f'{config["type"]} cannot be built for them: {_words(error)}.'
        ) from error


def _own_channels(config: dict, features: FeatureSpec | None) -> tuple[int, ...] | None:
    """The channels written in the config, one a level, shallow to deep; None without any, or for unknown features."""
    own = config.get('in_channels')
    if features is None or own is None or is_auto(config):
        return None
    return (own,) * len(features.channels) if isinstance(own, int) else tuple(in_order(config, own))


def _runs_on_its_own(neck: nn.Module, config: dict, features: FeatureSpec) -> bool:
    """Whether a neck that fails on these features runs on the ones it is written for, so that they are at fault."""
    channels = _own_channels(config, features) or features.channels
    strides = tuple(features.strides[0] * 2**level for level in range(len(channels)))
    return takes(neck, FeatureSpec(channels, strides))


def _words(error: BaseException) -> str:
    """What an error says; of mmdet's assertions, which say nothing, the line of source."""
    return str(error).rstrip('.') or traceback.extract_tb(error.__traceback__)[-1].line or type(error).__name__
