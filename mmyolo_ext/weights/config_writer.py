"""A config for a converted checkpoint: a base config, and what the file says of its network."""

import os
from pathlib import Path
from typing import Any

from mmyolo_ext.weights.network import Network

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
