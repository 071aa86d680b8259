"""Convert YOLOv5 checkpoints of other tools to our names, and write a config for what they hold."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mmyolo_ext.checkpoint import ultralytics
from mmyolo_ext.checkpoint.config_text import base_text, parse_plain_parts
from mmyolo_ext.checkpoint.network import Network, describe

YOLOV5_FORMATS = ('ultralytics', 'mmyolo', 'mmyolo_ext')
FORMATS = (*YOLOV5_FORMATS, 'darknet', 'backbone')
# torchvision's and mmpretrain's ShuffleNetV2 and MobileNetV3, alone or with their classifier
BACKBONE = re.compile(r'(backbone\.)?(features\.0\.0\.weight|conv1\.(0|conv)\.weight|conv0\.conv\.weight)')
# the smallest model of each family is the base; the factors are written out
DEFAULT_BASES = {'P5': 'yolov5/yolov5_n_640_coco.py', 'P6': 'yolov5/yolov5_n6_1280_coco.py'}
DARKNET_BASES = ('_base_/datasets/coco_640.py', '_base_/schedules/yolov5_300e.py', '_base_/default_runtime.py')


@dataclass(frozen=True)
class Converted:
    """A checkpoint in our names.

    Attributes:
        state_dict: State dict of a ``YOLODetector``.
        network: The network of the state dict.
        source: Format of the file, one of :data:`YOLOV5_FORMATS`.
        has_anchors: Whether the file has anchors; if not, the published ones are used.
        left_out: Names in the file that are not weights, such as anchors.
    """

    state_dict: dict[str, Tensor]
    network: Network
    source: str
    has_anchors: bool
    left_out: tuple[str, ...] = ()


def convert(content: Any, source: str = 'auto') -> Converted:
    """Convert the content of a checkpoint to our names.

    Args:
        content: Result of :func:`~.safe_load.read_checkpoint`.
        source: One of :data:`YOLOV5_FORMATS`, or ``'auto'`` to detect it.

    Raises:
        ValueError: If it has none of these formats, or its network is not YOLOv5's.
    """
    source = detect(content) if source == 'auto' else source
    left_out: tuple[str, ...] = ()
    if source == 'ultralytics':
        if not ultralytics.is_ultralytics(content):
            raise ValueError('it holds no model of Ultralytics: neither a pickled one nor names such as model.0.conv')
        weights = ultralytics.weights_of(content)
        facts = ultralytics.facts_of(content, weights)
        weights, left_out = ultralytics.to_ours(weights, *ultralytics.shape_of(weights))
    elif source in ('mmyolo', 'mmyolo_ext') and detect(content) == source:
        weights = state_dict_of(content)
        weights = _from_mmyolo(weights) if source == 'mmyolo' else weights
        facts = _facts_of_meta(content)
    else:
        names = list(state_dict_of(content))
        sketch = f'{len(names)} tensors, {", ".join(names[:3])}, ...'
        raise ValueError(
            f'its names are not those of a YOLOv5 checkpoint ({", ".join(YOLOV5_FORMATS)}): it holds '
            + (sketch if names else f'no tensors by name, but an object of {type(content).__name__}')
        )
    return Converted(weights, describe(weights, facts), source, facts.get('anchors') is not None, left_out)


def detect(content: Any) -> str | None:
    """Return one of :data:`FORMATS`, or None for another content, such as a checkpoint of another model of mmdet.

    Darknet's ``.weights`` are not checkpoints of torch; their suffix identifies them.
    """
    if ultralytics.is_ultralytics(content):
        return 'ultralytics'
    weights = state_dict_of(content)
    if any(name.startswith('bbox_head.head_module.convs_pred.') for name in weights):
        return 'mmyolo'
    if 'backbone.layers.1.0.conv.weight' in weights and 'bbox_head.convs_pred.0.weight' in weights:
        return 'mmyolo_ext'
    return 'backbone' if any(BACKBONE.match(name) for name in weights) else None


def state_dict_of(content: Any) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name, without the prefix ``module.``; empty if there are none."""
    inner = content.get('state_dict', content) if isinstance(content, Mapping) else {}
    inner = inner if isinstance(inner, Mapping) else {}
    return {str(key).removeprefix('module.'): value for key, value in inner.items() if isinstance(value, Tensor)}


# MMYOLO: a state dict like ours with other names. Its neck counts from deep to shallow, keeps the 1x1 convolution
# after a top-down block beside it, and the deepest one apart. Four levels (P6) are assumed to follow the same rule; a
# shape that does not fit is an error.


def _from_mmyolo(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    levels = len({match[1] for name in weights if (match := re.match(r'bbox_head\..*convs_pred\.(\d+)\.', name))})
    return {
        _renamed(name, levels): value.float() if value.is_floating_point() else value
        for name, value in weights.items()
    }


def _renamed(name: str, levels: int) -> str:
    """Return our name of a tensor of MMYOLO; names outside YOLOv5 are kept."""
    if name.startswith('backbone.stem.'):
        return 'backbone.layers.0.' + name.removeprefix('backbone.stem.')
    if name.startswith('bbox_head.head_module.'):
        return 'bbox_head.' + name.removeprefix('bbox_head.head_module.')
    if stage := re.match(r'backbone\.stage(\d+)\.(.*)', name):
        return f'backbone.layers.{stage[1]}.{stage[2]}'
    if deepest := re.match(rf'neck\.reduce_layers\.{levels - 1}\.(.*)', name):
        return f'neck.reduce_layers.{levels - 2}.{deepest[1]}'
    if layer := re.match(r'neck\.top_down_layers\.(\d+)\.(.*)', name):
        joint, rest = levels - 2 - int(layer[1]), layer[2]  # of levels joint and joint + 1
        if joint == 0:  # the shallowest has a block alone
            return f'neck.top_down_layers.0.{rest}'
        number, _, inner = rest.partition('.')
        return f'neck.top_down_layers.{joint}.{inner}' if number == '0' else f'neck.reduce_layers.{joint - 1}.{inner}'
    return name


def _facts_of_meta(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return class names and anchors, if given; the config in the file is parsed as text, never executed."""
    meta = content.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    dataset = meta.get('dataset_meta')
    dataset = {str(key).lower(): value for key, value in dataset.items()} if isinstance(dataset, Mapping) else {}
    classes = dataset.get('classes')
    return {
        'classes': tuple(map(str, classes)) if isinstance(classes, (list, tuple)) else None,
        'anchors': anchors_of_config(meta.get('cfg')),
    }


def anchors_of_config(text: Any) -> list | None:
    """Return the ``base_sizes`` of a config's text if they are numbers, px of each level; else None."""
    for value in _values_of('base_sizes', parse_plain_parts(text)):
        try:
            return [[(float(w), float(h)) for w, h in level] for level in value]
        except (TypeError, ValueError, OverflowError):  # not pairs of numbers
            return None
    return None


def _values_of(key: str, node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            yield from _values_of(key, value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _values_of(key, value)


# configs for converted checkpoints


def default_base(network: Network, configs: Path) -> Path:
    """Return the config to build on if none is given.

    Raises:
        ValueError: If the configs are not installed.
    """
    base = configs / DEFAULT_BASES[network.arch]
    if not base.is_file():
        raise ValueError(f'there is no config {base} to build on: name one by --config')
    return base


def config_text(network: Network, base: Path, checkpoint: Path, origin: str, own_base: bool = False) -> str:
    """Return a config for a converted checkpoint in the same folder.

    Args:
        network: Network of the checkpoint.
        base: Config to build on.
        checkpoint: Converted file, from which training starts.
        origin: Source of the weights, for the first line.
        own_base: Whether the base is the user's own, whose input size is kept.
    """
    factors = f'deepen_factor={network.deepen_factor!r}, widen_factor={network.widen_factor!r}'
    sizes = ',\n                '.join(str(list(level)) for level in network.anchors)
    shortcuts = []
    if network.classes:
        shortcuts.append(f'class_names = {network.classes!r}')
    if network.input_size and not own_base:
        shortcuts.append(f'input_size = {network.input_size}')
    model = [
        'model = dict(',
        f'    backbone=dict(arch={network.arch!r}, version={network.version!r}, {factors}),',
        f'    neck=dict({factors}),',
        '    bbox_head=dict(',
        f'        num_classes={network.num_classes},',
        '        prior_generator=dict(',
        '            base_sizes=[',
        f'                {sizes},',
        '            ],',
        f'            strides={list(network.strides)},',
        '        ),',
        '    ),',
        ')',
    ]
    return _config([base], checkpoint, origin, shortcuts, model)


def leaf_config_text(base: Path, checkpoint: Path, origin: str) -> str:
    """Return a config that starts the model of ``base`` from the checkpoint in the same folder."""
    return _config([base], checkpoint, origin)


def darknet_config_text(cfg_file: Path, configs: Path, checkpoint: Path, origin: str) -> str:
    """Return a config for the network of a ``.cfg`` file, with COCO and the usual schedule.

    Raises:
        ValueError: If the configs are not installed.
    """
    bases = [configs / base for base in DARKNET_BASES]
    if not all(base.is_file() for base in bases):
        raise ValueError(f'there are no configs in {configs} to build on: name a config of a DarknetCfg by --config')
    model = f"model = dict(type='mmyolo_ext.DarknetCfg', cfg_file={str(cfg_file.resolve())!r})"
    return _config(bases, checkpoint, origin, model=[model])


def _config(
    bases: Sequence[Path], checkpoint: Path, origin: str, shortcuts: Sequence[str] = (), model: Sequence[str] = ()
) -> str:
    folder = checkpoint.parent.resolve()
    paths = [base_text(base, folder) for base in bases]
    lines = [
        f'# {" ".join(origin.split())}',
        *([f'_base_ = {paths!r}'] if len(paths) == 1 else ['_base_ = [', *(f'    {path!r},' for path in paths), ']']),
        '',
        *shortcuts,
        f"load_from = '{{{{ fileDirname }}}}/{checkpoint.name}'",
        *model,
    ]
    return '\n'.join(lines) + '\n'
