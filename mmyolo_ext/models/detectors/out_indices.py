"""Which outputs of a backbone suit the rest of a detector: found by trying."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from torch import nn

from mmyolo_ext.models.detectors.feature_path import build_backbone, build_neck
from mmyolo_ext.models.detectors.feature_spec import FeatureSpec
from mmyolo_ext.models.detectors.in_channels import AUTO
from mmyolo_ext.models.detectors.part_kinds import default, option

# more than any backbone of stages has; VGG's are single layers
MOST_INDICES = 12
# not needed to learn of strides, and slow
WEIGHTS = ('pretrained', 'checkpoint_path', 'init_cfg')


def advice(
    config: dict, neck: dict | Sequence[dict] | None, wanted: tuple[int, ...] | None, backbone: nn.Module
) -> str:
    """What to do about features that do not suit: the indices that would, tried out, or else all that there are;
    nothing, where it is not for the indices.

    Args:
        config: of the backbone.
        neck: its config, a list of them or None.
        wanted: strides of the head's levels, if known.
        backbone: built.
    """
    name = type(backbone).__name__
    written = getattr(backbone, 'out_indices', None)
    now = _as_tuple(option(config, 'out_indices') if written is None else written)
    if not now:
        return f'{name} has no out_indices to choose from: change the neck, or the strides of the head.'
    change = f'Change out_indices of {name} (now {now}; '
    strides = _stage_strides(config, backbone, now)
    asking = _asking(neck)
    usual = _counted_from_0(_as_tuple(default(config, 'out_indices')), len(strides))
    for indices in _candidates(strides, wanted or (), usual):
        features = _features(config, asking, indices)
        if not features or features.strides != wanted:
            continue
        if indices == _counted_from_0(now, len(strides)):
            return '' if asking == neck else "Write in_channels='auto' in the neck."
        also = '' if asking == neck else " with in_channels='auto' in the neck"
        return f'{change}try out_indices={indices}{also}), or the strides of the head.'
    listed = _listed(strides)
    known = f'the strides of its indices are {listed}' if listed else 'choose those of the strides of the head'
    return f'{change}{known}), the neck, or the strides of the head.'


def _stage_strides(config: dict, backbone: nn.Module, out_indices: Sequence[int]) -> tuple[int, ...]:
    """Strides of all outputs of a backbone: declared, else found by asking for one more until it refuses."""
    declared = getattr(backbone, 'stage_strides', None)
    if declared is not None:
        return tuple(declared)
    found: tuple[int, ...] = ()
    first = max(1, max(out_indices) + 1)
    for count in range(first, max(first, MOST_INDICES) + 1):
        features = _features(config, None, tuple(range(count)))
        if features is None or len(features.strides) != count:
            break
        found = features.strides
    return found


def _as_tuple(out_indices: int | Sequence[int] | None) -> tuple[int, ...]:
    """Indices as parts write them: none, one number, or several."""
    if out_indices is None:
        return ()
    return (out_indices,) if isinstance(out_indices, int) else tuple(out_indices)


def _counted_from_0(indices: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Indices below 0 count from the last of ``count`` outputs."""
    return tuple(index + count if index < 0 else index for index in indices)


def _listed(strides: Sequence[int]) -> str:
    """``(4, 8, 8, 8)`` -> '0: 4, 1 to 3: 8'."""
    runs = [
        (stride, [index for index, _ in run]) for stride, run in groupby(enumerate(strides), key=lambda pair: pair[1])
    ]
    return ', '.join(
        f'{run[0]}: {stride}' if len(run) == 1 else f'{run[0]} to {run[-1]}: {stride}' for stride, run in runs
    )


def _candidates(strides: tuple[int, ...], wanted: Sequence[int], usual: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Indices of the wanted strides, as far as there are such; then with more and more of the shallower ones before.

    A neck may add levels after the last one, and leave out first ones. Of several indices of one stride a usual one
    is taken, else the deepest.
    """
    index_of = {stride: index for index, stride in enumerate(strides)}
    index_of |= {strides[index]: index for index in usual if index < len(strides)}
    present = sorted(stride for stride in set(wanted) if stride in index_of)
    shallower = sorted(stride for stride in index_of if present and stride < present[0])
    for start in range(len(shallower), -1, -1):
        if present:
            yield tuple(index_of[stride] for stride in (*shallower[start:], *present))


def _features(config: dict, neck: dict | Sequence[dict] | None, out_indices: tuple[int, ...]) -> FeatureSpec | None:
    """What comes out of backbone and neck with these indices; None if they cannot be built so."""
    config = {key: value for key, value in config.items() if key not in WEIGHTS}
    try:
        _, features = build_backbone({**config, 'out_indices': out_indices}, required=True)
        return features if neck is None else build_neck(neck, features, '', required=True)[1]
    except Exception:  # any part may stand here, and refuse in its own way
        return None


def _asking(neck: dict | Sequence[dict] | None) -> dict | list[dict] | None:
    """The neck's config with ``in_channels='auto'`` wherever it has numbers."""
    if isinstance(neck, dict):
        return {**neck, 'in_channels': AUTO} if 'in_channels' in neck else neck
    return neck and [_asking(part) for part in neck]
