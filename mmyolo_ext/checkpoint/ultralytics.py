"""YOLOv5 checkpoints of Ultralytics, releases 5.0 to 7.0: a pickled model, or the state dict of one.

A pickled model is read as stand-ins, whose tensors are collected recursively.

Layers are numbered there and named here. The numbers follow from the order of the layers: the stem; for every stage a
convolution and a CSP block, with the pooling next to the last block; top-down, for every joint of two levels a 1x1
convolution, an upsampling, a concatenation and a block; bottom-up, for every joint a convolution, a concatenation and
a block; the head.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from mmyolo_ext.checkpoint.network import NECK_DEPTH, POOLS, STAGE_DEPTHS, STAGE_WIDTHS, Network
from mmyolo_ext.checkpoint.pickle_objects import StandIn

NAME = re.compile(r'model\.(\d+)\.')
# a model has some hundred modules, ten deep
MOST_DEPTH, MOST_MODULES = 50, 100_000
RELEASE_EPS = 0.001
PYRAMIDS = {'SPP': 'v5', 'SPPF': 'v6'}


def is_ultralytics(content: Any) -> bool:
    """Return whether the content of a file is a checkpoint of Ultralytics."""
    return _model(content) is not None or bool(_plain(content))


def weights_of(content: Any) -> dict[str, Tensor]:
    """Return weights and buffers by their names ``model.N....`` in float32, those of the EMA if the file has one.

    Raises:
        ValueError: If the model is no YOLOv5 detector, is fused, or has layers that differ from our network's.
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
    """Return the number of levels and the version, ``'v5'`` or ``'v6'``, from names and shapes.

    Raises:
        ValueError: If it is not a YOLOv5 detector.
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
    """Return the facts that a file holds besides weights, for :func:`.network.describe`."""
    model = _model(content)
    levels, _ = shape_of(weights)
    strides = [8 * 2**level for level in range(levels)]
    plan = model.get('yaml') if model else None
    plan = plan if isinstance(plan, dict) else {}
    options = content.get('opt') if isinstance(content, Mapping) else None
    options = options.state if isinstance(options, StandIn) else options
    size = options.get('imgsz') if isinstance(options, dict) else None
    stated = model.get('stride') if model else None
    return {
        'deepen_factor': _number(plan.get('depth_multiple')),
        'widen_factor': _number(plan.get('width_multiple')),
        'classes': _class_names(model.get('names') if model else None),
        'strides': [int(stride) for stride in stated.tolist()] if isinstance(stated, Tensor) else None,
        'anchors': _anchors(weights, levels, strides),
        'input_size': size if type(size) is int else None,
    }


def _model(content: Any) -> StandIn | None:
    """Return the pickled model of a checkpoint, without its wrapper for several devices."""
    candidates = [content.get('ema'), content.get('model')] if isinstance(content, Mapping) else [content]
    for model in candidates:
        if isinstance(model, StandIn) and isinstance(model.get('_modules'), dict):
            inner = model.get('_modules').get('module')
            return inner if isinstance(inner, StandIn) else model
    return None


def _plain(content: Any) -> dict[str, Tensor]:
    """Return a state dict with such names, alone or under a key; empty if there is none."""
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
    """Check the properties that names and shapes do not show, and that would change the outputs."""
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
    """Return the anchors, (levels, A, 2) px; the file holds them in units of cells."""
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


CONV, CSP, POOLING, HEAD = 'convolution', 'CSP block', 'pooling', 'head'
# names inside a layer: Ultralytics', ours
INSIDE = {
    CONV: [('', '')],
    CSP: [
        ('m.{}.cv{}.', 'blocks.{}.conv{}.'),
        ('cv1.', 'main_conv.'),
        ('cv2.', 'short_conv.'),
        ('cv3.', 'final_conv.'),
    ],
    POOLING: [('cv{}.', 'conv{}.')],
    HEAD: [('m.{}.', 'convs_pred.{}.')],
}
NOT_WEIGHTS = ('anchors', 'anchor_grid')  # buffers of the head, which our configs hold


def layers(levels: int, version: str) -> Iterator[tuple[int, str, str]]:
    """Yield number, our name and kind of all layers with weights."""
    yield 0, 'backbone.layers.0', CONV
    last = levels + 1
    for stage in range(1, last + 1):
        yield 2 * stage - 1, f'backbone.layers.{stage}.0', CONV
        kinds = (CSP,) if stage < last else (POOLING, CSP) if version == 'v5' else (CSP, POOLING)
        for place, kind in enumerate(kinds, 1):
            yield 2 * stage - 1 + place, f'backbone.layers.{stage}.{place}', kind
    start = 2 * last + 2
    for joint in reversed(range(levels - 1)):
        number = start + 4 * (levels - 2 - joint)
        yield number, f'neck.reduce_layers.{joint}', CONV
        yield number + 3, f'neck.top_down_layers.{joint}', CSP
    start += 4 * (levels - 1)
    for joint in range(levels - 1):
        yield start + 3 * joint, f'neck.downsample_layers.{joint}', CONV
        yield start + 3 * joint + 2, f'neck.bottom_up_layers.{joint}', CSP
    yield start + 3 * (levels - 1), 'bbox_head', HEAD


def head_number(levels: int) -> int:
    """Return the number of the head, the last layer."""
    return 9 * levels - 3


def to_ours(weights: Mapping[str, Tensor], levels: int, version: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Rename ``model.N....`` to our names; return them and the names that are not weights.

    Raises:
        ValueError: If YOLOv5 has no such layer, or no such tensor in it.
    """
    known = {number: (part, kind) for number, part, kind in layers(levels, version)}
    renamed, others = {}, []
    for name, tensor in weights.items():
        match = re.fullmatch(r'model\.(\d+)\.(.+)', name)
        part, kind = known.get(int(match[1]) if match else None, ('', 'no layer with weights'))
        if kind == HEAD and match[2] in NOT_WEIGHTS:
            others.append(name)
            continue
        inner = _renamed(match[2], INSIDE[kind]) if part else None
        if inner is None:
            raise ValueError(f'{name} is not part of YOLOv5 {version}, which has {kind} there')
        renamed[f'{part}.{inner}'] = tensor
    return renamed, tuple(others)


def from_ours(weights: Mapping[str, Tensor], levels: int, version: str) -> dict[str, Tensor]:
    """Rename our names to ``model.N....``, in the order of the layers.

    Raises:
        ValueError: If no layer has a name.
    """
    renamed, left = {}, dict(weights)
    for number, part, kind in sorted(layers(levels, version)):
        for name in [name for name in left if name.startswith(f'{part}.')]:
            inner = _renamed(name.removeprefix(f'{part}.'), [(ours, theirs) for theirs, ours in INSIDE[kind]])
            if inner is not None:
                renamed[f'model.{number}.{inner}'] = left.pop(name)
    if left:
        raise ValueError(f'{len(left)} tensors have no place in Ultralytics YOLOv5: {", ".join(list(left)[:3])}')
    return renamed


def _renamed(name: str, rules: list[tuple[str, str]]) -> str | None:
    for before, after in rules:
        if match := re.match(re.escape(before).replace(r'\{\}', r'(\d+)'), name):
            return after.format(*match.groups()) + name[match.end() :]
    return None


# channels of the neck's outputs at full width
OUT_WIDTHS = {3: (256, 512, 1024), 4: (256, 512, 768, 1024)}


def to_ultralytics(state_dict: Mapping[str, Tensor], network: Network) -> dict[str, Tensor]:
    """Return every tensor under Ultralytics' name, unchanged, and the anchors, which its head holds as buffers.

    Raises:
        ValueError: If YOLOv5 does not have a tensor.
    """
    renamed = from_ours(state_dict, network.levels, network.version)
    head = f'model.{head_number(network.levels)}'
    # (levels, A, 2) px
    anchors = torch.tensor(network.anchors, dtype=torch.float32)
    renamed[f'{head}.anchors'] = anchors / torch.tensor(network.strides).view(-1, 1, 1)
    if network.version == 'v5':
        # (levels, 1, A, 1, 1, 2) px
        renamed[f'{head}.anchor_grid'] = anchors[:, None, :, None, None]
    return renamed


def model_yaml(network: Network) -> str:
    """Return the text of the ``.yaml`` from which Ultralytics builds this network."""
    lines = [
        f'nc: {network.num_classes}',
        f'depth_multiple: {network.deepen_factor}',
        f'width_multiple: {network.widen_factor}',
    ]
    rows = {
        'anchors': [[side for anchor in level for side in anchor] for level in network.anchors],
        'backbone': backbone_layers(network),  # from, number, module, arguments
        'head': head_layers(network.levels),
    }
    for key, values in rows.items():
        lines += [f'{key}:', *(f'  - {json.dumps(row)}' for row in values)]
    if network.classes:
        lines += ['names:', *(f'  {i}: {json.dumps(name)}' for i, name in enumerate(network.classes))]
    return '\n'.join(lines) + '\n'


def backbone_layers(network: Network) -> list[list[Any]]:
    """Return (from, number, module, arguments) of the layers of the backbone, at full width and depth."""
    is_v5 = network.version == 'v5'
    widths, depths = STAGE_WIDTHS[network.levels], STAGE_DEPTHS[network.version, network.levels]
    rows: list[list[Any]] = [[-1, 1, 'Focus', [widths[0], 3]] if is_v5 else [-1, 1, 'Conv', [widths[0], 6, 2, 2]]]
    for width, depth in zip(widths[1:], depths, strict=True):
        rows += [[-1, 1, 'Conv', [width, 3, 2]], [-1, depth, 'C3', [width]]]
    pools = list(POOLS[network.version, network.levels])
    if is_v5:
        rows[-1:] = [[-1, 1, 'SPP', [widths[-1], pools]], [-1, depths[-1], 'C3', [widths[-1], False]]]
    else:
        rows.append([-1, 1, 'SPPF', [widths[-1], *pools]])
    return rows


def head_layers(levels: int) -> list[list[Any]]:
    """Return (from, number, module, arguments) of neck and head."""
    widths = OUT_WIDTHS[levels]
    start = 2 * levels + 4
    rows: list[list[Any]] = []
    for joint in reversed(range(levels - 1)):
        # the block of a stage follows its convolution
        lateral = 2 * (joint + 2)
        rows += [
            [-1, 1, 'Conv', [widths[joint], 1, 1]],
            [-1, 1, 'nn.Upsample', ['None', 2, 'nearest']],
            [[-1, lateral], 1, 'Concat', [1]],
            [-1, NECK_DEPTH, 'C3', [widths[joint], False]],
        ]
    outputs = [start + len(rows) - 1]
    for joint in range(levels - 1):
        reduced = start + 4 * (levels - 2 - joint)
        rows += [
            [-1, 1, 'Conv', [widths[joint], 3, 2]],
            [[-1, reduced], 1, 'Concat', [1]],
            [-1, NECK_DEPTH, 'C3', [widths[joint + 1], False]],
        ]
        outputs.append(start + len(rows) - 1)
    return [*rows, [outputs, 1, 'Detect', ['nc', 'anchors']]]
