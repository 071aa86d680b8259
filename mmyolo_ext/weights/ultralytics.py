"""YOLOv5 checkpoints of Ultralytics, releases 5.0 to 7.0: a pickled model, or the state dict of one.

The pickled model comes from the reader as stand-ins; its tensors are found by walking through them.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from mmyolo_ext.compat.inert import StandIn
from mmyolo_ext.weights.network import POOLS
from mmyolo_ext.weights.ultralytics_names import head_number

NAME = re.compile(r'model\.(\d+)\.')
# a model has some hundred modules, ten deep
MOST_DEPTH, MOST_MODULES = 50, 100_000
RELEASE_EPS = 0.001
PYRAMIDS = {'SPP': 'v5', 'SPPF': 'v6'}


def is_ultralytics(content: Any) -> bool:
    """Whether the content of a file is such a checkpoint."""
    return _model(content) is not None or bool(_plain(content))


def weights_of(content: Any) -> dict[str, Tensor]:
    """Weights and buffers by their names, ``model.N....``; float32. The averaged model is taken where there is one.

    Raises:
        ValueError: a model that is not a YOLOv5 detector, is fused, or has layers that our network has otherwise.
    """
    model = _model(content)
    tensors = _plain(content) if model is None else dict(_tensors(model))
    if any(re.search(r'\.(proto|cv4)\.', name) for name in tensors):
        raise ValueError('it is a model for segmentation or poses; detectors alone can be converted')
    if not any(name.endswith('bn.weight') for name in tensors):
        raise ValueError('its batch norms are fused into the convolutions; take the file that training wrote')
    if model is not None:
        _check_modules(model, shape_of(tensors)[0])
    return {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}


def shape_of(weights: Mapping[str, Tensor]) -> tuple[int, str]:
    """How many levels and which version, ``'v5'`` or ``'v6'``, by names and shapes.

    Raises:
        ValueError: it is not a YOLOv5 detector.
    """
    head = max((int(match[1]) for name in weights if (match := NAME.match(name))), default=0)
    levels = sum(bool(re.fullmatch(rf'model\.{head}\.m\.\d+\.weight', name)) for name in weights)
    if levels not in (3, 4) or head != head_number(levels):
        raise ValueError(
            f'its last layer with weights has the number {head} and {levels} outputs; YOLOv5 detectors have 24 and 3 '
            '(P5) or 33 and 4 (P6)'
        )
    return levels, 'v5' if 'model.0.conv.conv.weight' in weights else 'v6'


def facts_of(content: Any, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the file tells besides weights, as :func:`.network.describe` takes it."""
    model = _model(content)
    levels, _ = shape_of(weights)
    strides = [8 * 2**level for level in range(levels)]
    plan = model.get('yaml') if model else None
    plan = plan if isinstance(plan, dict) else {}
    options = content.get('opt') if isinstance(content, Mapping) else None
    options = options.state if isinstance(options, StandIn) else options
    size = options.get('imgsz') if isinstance(options, dict) else None
    told = model.get('stride') if model else None
    return {
        'deepen_factor': _number(plan.get('depth_multiple')),
        'widen_factor': _number(plan.get('width_multiple')),
        'classes': _class_names(model.get('names') if model else None),
        'strides': [int(stride) for stride in told.tolist()] if isinstance(told, Tensor) else None,
        'anchors': _anchors(weights, levels, strides),
        'input_size': size if type(size) is int else None,
    }


def _model(content: Any) -> StandIn | None:
    """The pickled model, out of its checkpoint and its wrapper for several devices."""
    candidates = [content.get('ema'), content.get('model')] if isinstance(content, Mapping) else [content]
    for model in candidates:
        if isinstance(model, StandIn) and isinstance(model.get('_modules'), dict):
            inner = model.get('_modules').get('module')
            return inner if isinstance(inner, StandIn) else model
    return None


def _plain(content: Any) -> dict[str, Tensor]:
    """A state dict with such names, alone or under a key; empty if there is none."""
    if not isinstance(content, Mapping):
        return {}
    for part in (content, *(content.get(key) for key in ('state_dict', 'ema', 'model'))):
        if isinstance(part, Mapping):
            tensors = {key: value for key, value in part.items() if isinstance(value, Tensor)}
            if tensors and all(isinstance(key, str) and NAME.match(key) for key in tensors):
                return tensors
    return {}


def _modules(module: StandIn, prefix: str = '', depth: int = 0) -> Iterator[tuple[str, StandIn]]:
    yield prefix, module
    children = module.get('_modules')
    for name, child in children.items() if isinstance(children, dict) else ():
        if isinstance(child, StandIn):
            if depth == MOST_DEPTH:
                raise ValueError(f'its modules are more than {MOST_DEPTH} deep')
            yield from _modules(child, f'{prefix}{name}.', depth + 1)


def _tensors(model: StandIn) -> Iterator[tuple[str, Tensor]]:
    for count, (prefix, module) in enumerate(_modules(model)):
        if count == MOST_MODULES:
            raise ValueError(f'it has more than {MOST_MODULES} modules')
        for kind in ('_parameters', '_buffers'):
            tensors = module.get(kind)
            for name, tensor in tensors.items() if isinstance(tensors, dict) else ():
                if isinstance(tensor, Tensor):
                    yield prefix + name, tensor


def _check_modules(model: StandIn, levels: int) -> None:
    """What does not show in names and shapes must be as in our network, or the outputs would differ."""
    for name, module in _modules(model):
        kind = type(module).__name__
        if name.endswith('.act.') and kind != 'SiLU':
            raise ValueError(f'{name[:-1]} is {kind}; releases 5.0 to 7.0 have SiLU, and so has our network')
        if kind == 'BatchNorm2d' and module.get('eps', RELEASE_EPS) != RELEASE_EPS:
            raise ValueError(f'{name[:-1]} has eps {module.get("eps")}; it must be {RELEASE_EPS}')
        if kind in PYRAMIDS:
            sizes = tuple(
                inner.get('kernel_size') for _, inner in _modules(module) if type(inner).__name__ == 'MaxPool2d'
            )
            ours = POOLS[PYRAMIDS[kind], levels]
            if sizes != ours:
                raise ValueError(f'{name[:-1]} ({kind}) pools by {sizes}; our network of {levels} levels has {ours}')


def _anchors(weights: Mapping[str, Tensor], levels: int, strides: list[int]) -> list | None:
    """(levels, A, 2) in px; the file holds them in cells."""
    anchors = weights.get(f'model.{head_number(levels)}.anchors')
    if anchors is None or anchors.dim() != 3:
        return None
    return (anchors.float() * torch.tensor(strides).view(-1, 1, 1)).tolist()


def _class_names(names: Any) -> tuple[str, ...] | None:
    if isinstance(names, Mapping):
        names = [names[key] for key in sorted(names)]
    return tuple(str(name) for name in names) if isinstance(names, (list, tuple)) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
