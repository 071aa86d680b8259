"""Give the weights of any YOLOv5 checkpoint our names, and tell what network they are of."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mmyolo_ext.checkpoint import ultralytics
from mmyolo_ext.checkpoint.config_text import parse_plain_parts
from mmyolo_ext.checkpoint.network import Network, describe
from mmyolo_ext.checkpoint.ultralytics import is_ultralytics

YOLOV5_FORMATS = ('ultralytics', 'mmyolo', 'mmyolo_ext')


@dataclass(frozen=True)
class Converted:
    """A checkpoint in our names.

    Attributes:
        state_dict: of a ``YOLODetector``.
        network: what it is the state dict of.
        source: the format it came in, one of :data:`YOLOV5_FORMATS`.
        has_anchors: whether the file has the anchors; else the published ones are used.
        left_out: names in the file that are no weights, such as anchors.
    """

    state_dict: dict[str, Tensor]
    network: Network
    source: str
    has_anchors: bool
    left_out: tuple[str, ...] = ()


def convert(content: Any, source: str = 'auto') -> Converted:
    """From what :func:`read_checkpoint` gives.

    Args:
        content: of the file.
        source: one of :data:`YOLOV5_FORMATS`, or ``'auto'`` to find it out.

    Raises:
        ValueError: of no such format, or of a network that is not YOLOv5's.
    """
    source = detect(content) if source == 'auto' else source
    left_out: tuple[str, ...] = ()
    if source == 'ultralytics':
        if not ultralytics.is_ultralytics(content):
            raise ValueError('it holds no model of Ultralytics: neither a pickled one nor names such as model.0.conv')
        weights = ultralytics.weights_of(content)
        told = ultralytics.facts_of(content, weights)
        weights, left_out = ultralytics.to_ours(weights, *ultralytics.shape_of(weights))
    elif source in ('mmyolo', 'mmyolo_ext') and detect(content) == source:
        weights = state_dict_of(content)
        weights = to_ours(weights) if source == 'mmyolo' else weights
        told = facts_of(content)
    else:
        raise ValueError(
            f'its names are not those of a YOLOv5 checkpoint ({", ".join(YOLOV5_FORMATS)}): {_sketch(content)}'
        )
    return Converted(weights, describe(weights, told), source, told.get('anchors') is not None, left_out)


def _sketch(content: Any) -> str:
    names = list(state_dict_of(content))
    if not names:
        return f'it holds no tensors by name, but an object of {type(content).__name__}'
    return f'it holds {len(names)} tensors, {", ".join(names[:3])}, ...'


FORMATS = ('ultralytics', 'mmyolo', 'mmyolo_ext', 'darknet', 'backbone')
# torchvision's and mmpretrain's ShuffleNetV2 and MobileNetV3, alone or with their classifier
BACKBONE = re.compile(r'(backbone\.)?(features\.0\.0\.weight|conv1\.(0|conv)\.weight|conv0\.conv\.weight)')


def state_dict_of(content: Any) -> dict[str, Tensor]:
    """The tensors by their names, without what a wrapper for several devices puts before them; empty if none."""
    inner = content.get('state_dict', content) if isinstance(content, Mapping) else {}
    inner = inner if isinstance(inner, Mapping) else {}
    return {str(key).removeprefix('module.'): value for key, value in inner.items() if isinstance(value, Tensor)}


def detect(content: Any) -> str | None:
    """One of :data:`FORMATS`, or None for something else, such as a checkpoint of another model of mmdet.

    Darknet's ``.weights`` are no checkpoints of torch, and are told by their suffix.
    """
    if is_ultralytics(content):
        return 'ultralytics'
    weights = state_dict_of(content)
    if is_mmyolo(weights):
        return 'mmyolo'
    if 'backbone.layers.1.0.conv.weight' in weights and 'bbox_head.convs_pred.0.weight' in weights:
        return 'mmyolo_ext'
    return 'backbone' if any(BACKBONE.match(name) for name in weights) else None


def is_mmyolo(weights: Mapping[str, Any]) -> bool:
    """Whether the names are MMYOLO's."""
    return any(name.startswith('bbox_head.head_module.convs_pred.') for name in weights)


def to_ours(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """MMYOLO's names -> ours; what is not YOLOv5's keeps its name."""
    levels = len({match[1] for name in weights if (match := re.match(r'bbox_head\..*convs_pred\.(\d+)\.', name))})
    return {
        _renamed(name, levels): value.float() if value.is_floating_point() else value
        for name, value in weights.items()
    }


def facts_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """Class names and anchors, where the file tells; the config inside it is read as text, never executed."""
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
    """``base_sizes`` in the text of a config, if it stands there as numbers; px, for each level."""
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


def _renamed(name: str, levels: int) -> str:
    if name.startswith('backbone.stem.'):
        return 'backbone.layers.0.' + name.removeprefix('backbone.stem.')
    if name.startswith('bbox_head.head_module.'):
        return 'bbox_head.' + name.removeprefix('bbox_head.head_module.')
    if stage := re.match(r'backbone\.stage(\d+)\.(.*)', name):
        return f'backbone.layers.{stage[1]}.{stage[2]}'
    if deepest := re.match(rf'neck\.reduce_layers\.{levels - 1}\.(.*)', name):
        return f'neck.reduce_layers.{levels - 2}.{deepest[1]}'
    if place := re.match(r'neck\.top_down_layers\.(\d+)\.(.*)', name):
        return _top_down(levels - 2 - int(place[1]), place[2])
    return name


def _top_down(joint: int, rest: str) -> str:
    """Of the joint of levels ``joint`` and ``joint + 1``; the shallowest has a block alone."""
    if joint == 0:
        return f'neck.top_down_layers.0.{rest}'
    number, _, inner = rest.partition('.')
    return f'neck.top_down_layers.{joint}.{inner}' if number == '0' else f'neck.reduce_layers.{joint - 1}.{inner}'


# the smallest model of each family; the factors are written out
DEFAULT_BASES = {'P5': 'yolov5/yolov5_n_640_coco.py', 'P6': 'yolov5/yolov5_n6_1280_coco.py'}


def default_base(network: Network, configs: Path) -> Path:
    """The config to build on where none is given.

    Raises:
        ValueError: the configs are not there, as in an installation without the source tree.
    """
    base = configs / DEFAULT_BASES[network.arch]
    if not base.is_file():
        raise ValueError(f'there is no config {base} to build on: name one by --config')
    return base


def config_text(network: Network, base: Path, checkpoint: Path, origin: str, own_base: bool = False) -> str:
    """A config that stands beside ``checkpoint``.

    Args:
        network: what the checkpoint holds.
        base: the config it builds on.
        checkpoint: the converted file; training starts from it.
        origin: where the weights come from, for its first line.
        own_base: the base is the user's own, whose input size is kept.
    """
    factors = {'deepen_factor': network.deepen_factor, 'widen_factor': network.widen_factor}
    sizes = ',\n                '.join(str(list(level)) for level in network.anchors)
    lines = [
        f'# {" ".join(origin.split())}',
        f'_base_ = [{_relative(base, checkpoint.parent)!r}]',
        '',
    ]
    # by these, tools/train.py and the others set what stands in many places
    if network.classes:
        lines.append(f'class_names = {network.classes!r}')
    if network.input_size and not own_base:
        lines.append(f'input_size = {network.input_size}')
    lines += [
        f"load_from = '{{{{ fileDirname }}}}/{checkpoint.name}'",
        'model = dict(',
        f'    backbone=dict(arch={network.arch!r}, version={network.version!r}, {_arguments(factors)}),',
        f'    neck=dict({_arguments(factors)}),',
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
    return '\n'.join(lines) + '\n'


def leaf_config_text(base: Path, checkpoint: Path, origin: str) -> str:
    """A config that starts the model of ``base`` from the checkpoint beside it."""
    lines = [
        f'# {" ".join(origin.split())}',
        f'_base_ = [{_relative(base, checkpoint.parent)!r}]',
        '',
        f"load_from = '{{{{ fileDirname }}}}/{checkpoint.name}'",
    ]
    return '\n'.join(lines) + '\n'


def darknet_config_text(cfg_file: Path, configs: Path, checkpoint: Path, origin: str) -> str:
    """A config for the network of a ``.cfg`` file, with COCO's data and the usual schedule.

    Raises:
        ValueError: the configs are not there, as in an installation without the source tree.
    """
    parts = ('datasets/coco_640.py', 'schedules/yolov5_300e.py', 'default_runtime.py')
    bases = [configs / '_base_' / part for part in parts]
    if not all(base.is_file() for base in bases):
        raise ValueError(f'there are no configs in {configs} to build on: name a config of a DarknetCfg by --config')
    lines = [
        f'# {" ".join(origin.split())}',
        '_base_ = [',
        *(f'    {_relative(base, checkpoint.parent)!r},' for base in bases),
        ']',
        '',
        f"load_from = '{{{{ fileDirname }}}}/{checkpoint.name}'",
        f"model = dict(type='mmyolo_ext.DarknetCfg', cfg_file={str(cfg_file.resolve())!r})",
    ]
    return '\n'.join(lines) + '\n'


def _arguments(values: dict[str, Any]) -> str:
    return ', '.join(f'{name}={value!r}' for name, value in values.items())


def _relative(base: Path, folder: Path) -> str:
    return Path(os.path.relpath(base.resolve(), folder.resolve())).as_posix()
