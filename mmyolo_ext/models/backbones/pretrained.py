"""Load pretrained weights into a backbone, and say what it got."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmyolo_ext.compat.load_report import NOT_WEIGHTS, LoadReport
from mmyolo_ext.models.backbones.checkpoint_source import fetch

# where the tools of training keep a state dict in their checkpoints, the first that is there is taken
CONTAINERS = ('state_dict', 'model', 'model_ema', 'ema_state_dict')
# what DistributedDataParallel, averaged models, torch.compile and models with a head put before names
WRAPPERS = ('module.', '_orig_mod.', 'backbone.')
INIT_CFG_KEYS = ('type', 'checkpoint', 'prefix', 'map_location')
TELLTALES = {
    r'\bbranch2\.\d': 'ShuffleNetV2',
    r'features\.\d+\.block\.|\bdepthwise_conv\b': 'MobileNetV3',
    r'features\.\d+\.conv\.': 'MobileNetV2',
    r'\blayer\d\.\d+\.conv\d\.': 'a ResNet',
    r'\bmain_conv\b': 'a CSPDarknet',
    r'\b(attn|self_attention|qkv)\b': 'a transformer',
}

Translate = Callable[[dict[str, Tensor]], dict[str, Tensor]]
Unpack = Callable[[Any, str], Any]


def load_pretrained(
    backbone: nn.Module, init_cfg: Mapping[str, Any], translate: Translate, unpack: Unpack | None = None
) -> None:
    """Copy into the backbone what fits by name and shape, and log what did and what did not.

    What a classifier or detector has besides its backbone, and stages after the last that the backbone builds, are
    left out as expected and only counted. Anything else that does not match is listed in a warning.

    Args:
        backbone: its stem and stages stand in ``layers``.
        init_cfg: ``checkpoint`` (see :func:`fetch`), ``prefix`` of the names to take (by default ``backbone.``, where
            the file has such names) and ``map_location``, ``'cpu'`` by default.
        translate: gives the weights the names that they have in the backbone.
        unpack: makes a state dict of what the file holds, given its name too; for files that are none by themselves.

    Raises:
        ValueError: nothing matches, no such file, one that cannot be read or without weights, weights that are not
            finite.
    """
    source, prefix, map_location = _checked(init_cfg)
    content = fetch(source, map_location)
    saved = _state_dict(unpack(content, source) if unpack else content, source)
    given = _built(translate(_part(saved, prefix, source)), backbone)
    current = backbone.state_dict()
    report = LoadReport.of(current, given)
    name = type(backbone).__name__
    if not report.matched:
        raise ValueError(
            f'{source} does not fit {name}: {report}. It holds {_sketch(saved)}{_guess(saved)}. {name} takes '
            f'{_sketch(current)}, or the weights of the same network as torchvision and mmpretrain name them'
        )
    _check_finite(given, report, source)
    fitting = {key: given[key] for key in current if key in given and key not in report.reshaped}
    backbone.load_state_dict(fitting, strict=False)
    _tell(f'{name} from {source}', report, left_out=_count(saved) - _count(given))


def _checked(init_cfg: Mapping[str, Any]) -> tuple[str, str | None, Any]:
    unknown = [key for key in init_cfg if key not in INIT_CFG_KEYS]
    if unknown:
        raise ValueError(f'an init_cfg of type Pretrained has the keys {INIT_CFG_KEYS}, got {unknown}')
    source = init_cfg.get('checkpoint')
    if not source:
        raise ValueError(f'an init_cfg of type Pretrained needs a checkpoint, a path or URL, got {source!r}')
    return str(source), init_cfg.get('prefix'), init_cfg.get('map_location', 'cpu')


def _state_dict(content: Any, source: str) -> dict[str, Tensor]:
    """The tensors by their names, from the checkpoint itself or from one of :data:`CONTAINERS` in it."""
    inner = [content[key] for key in CONTAINERS if key in content] if isinstance(content, Mapping) else []
    # the state dict first: beside it there may be tensors that are no weights, such as a generator's state
    candidates = [*inner, content]
    for candidate in candidates:
        if isinstance(candidate, Mapping):
            tensors = {str(key): value for key, value in candidate.items() if isinstance(value, Tensor)}
            if tensors:
                return tensors
    raise ValueError(
        f'{source} holds no weights by name, but {_kind(content)}; it must be a state dict, or have one under '
        f'{" or ".join(CONTAINERS)}'
    )


def _kind(content: Any) -> str:
    """``a dict of model (models.yolo.Model), epoch (int)``, or what it is instead."""
    if not isinstance(content, Mapping):
        return f'an object of {_class(content)}'
    keys = [f'{key} ({_class(value)})' for key, value in islice(content.items(), 5)]
    return f'a dict of {", ".join(keys) or "nothing"}{", ..." if len(content) > 5 else ""}'


def _class(value: Any) -> str:
    return f'{type(value).__module__}.{type(value).__qualname__}'.removeprefix('builtins.')


def _part(saved: dict[str, Tensor], prefix: str | None, source: str) -> dict[str, Tensor]:
    """The backbone's tensors, without what stands before their names."""
    if prefix:
        prefix = prefix.rstrip('.') + '.'
        part = _under(saved, prefix)
        if not part:
            raise ValueError(f'{source} has no names that start with {prefix!r}: it holds {_sketch(saved)}')
        return part
    while wrapped := [part for wrapper in WRAPPERS if (part := _under(saved, wrapper))]:
        saved = wrapped[0]
    return saved


def _under(saved: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in saved.items() if key.startswith(prefix)}


def _built(given: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """Without the stages after the last that is built."""
    numbers = {key: re.match(r'layers\.(\d+)\.', key) for key in given}
    return {
        key: value for key, value in given.items() if not numbers[key] or int(numbers[key][1]) < len(backbone.layers)
    }


def _check_finite(given: dict[str, Tensor], report: LoadReport, source: str) -> None:
    broken = [name for name in report.matched if not torch.isfinite(given[name]).all()]
    if broken:
        raise ValueError(
            f'{source} has NaN or infinite values in {len(broken)} tensors ({", ".join(broken[:3])}): the training '
            'that wrote it had diverged'
        )


def _tell(what: str, report: LoadReport, left_out: int) -> None:
    text = f'{what}: {report}.'
    if left_out:
        text += f' {left_out} more in the file are of no part that is built here (head, neck, later stages).'
    if report.complete:
        print_log(text, logger='current')
        return
    if len(report.matched) < len(report.missing) + len(report.reshaped):
        text += ' Most of the network keeps its random start: are width and architecture those of the checkpoint?'
    print_log(f'{text} What was not loaded:\n{report.table()}', logger='current', level=logging.WARNING)


def _count(state_dict: dict[str, Tensor]) -> int:
    return sum(not name.endswith(NOT_WEIGHTS) for name in state_dict)


def _sketch(state_dict: dict[str, Tensor]) -> str:
    """``244 tensors, features.* (240), classifier.* (4), the first is features.0.0.weight (16, 3, 3, 3)``."""
    groups = Counter(name.partition('.')[0] for name in state_dict)
    shown = ', '.join(f'{group}.* ({count})' for group, count in groups.most_common(5))
    first = next(iter(state_dict))
    return f'{len(state_dict)} tensors, {shown}, the first is {first} {tuple(state_dict[first].shape)}'


def _guess(state_dict: dict[str, Tensor]) -> str:
    for pattern, network in TELLTALES.items():
        if any(re.search(pattern, name) for name in state_dict):
            return f' (by the names, {network})'
    return ''
