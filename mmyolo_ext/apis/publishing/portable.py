"""The config that goes with published weights: whole, and without what belongs to one run on one machine."""

import re
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from mmengine.config import Config

from mmyolo_ext.apis.config_nodes import walk
from mmyolo_ext.apis.exporting import letterbox_of
from mmyolo_ext.apis.publishing.origin import pretrained_of
from mmyolo_ext.apis.shortcuts import leaf_datasets

OF_ONE_RUN = ('work_dir', 'launcher', 'local_rank')
ABSOLUTE = re.compile(r'(/|~|[A-Za-z]:[\\/])[\w.]')


def portable(cfg: Config) -> Config:
    """A copy that starts from nothing: the weights to start from are in the published file."""
    cfg = deepcopy(cfg)
    for key in OF_ONE_RUN:
        cfg.pop(key, None)
    cfg.load_from, cfg.resume = None, False
    for node in walk(cfg.model):
        _drop_start(node)
    return cfg


def config_text(text: str, weights: str, source: str) -> str:
    """What to write beside the file ``weights``; a config based on it starts training from them.

    Args:
        text: of a :func:`portable` config, by ``pretty_text``.
        weights: name of the file.
        source: name of the checkpoint, for its first line.
    """
    start = f"load_from = '{{{{ fileDirname }}}}/{weights}'"
    lines = [start if line == 'load_from = None' else line for line in text.splitlines()]
    assert start in lines
    return '\n'.join([f'# Written by tools/publish.py for {weights}, from {" ".join(source.split())}.', *lines, ''])


def local_paths(cfg: Config) -> list[str]:
    """Values that are absolute paths, each once."""
    return list(dict.fromkeys(text for text in _texts(cfg._cfg_dict.to_dict()) if ABSOLUTE.match(text)))


def input_lines(cfg: Config) -> list[str]:
    """How a picture becomes the network's input, a line for each step."""
    try:
        rule, (height, width) = letterbox_of(cfg)
        where = 'on all sides' if rule['centred'] else 'at the right and the bottom'
        lines = [f'letterbox to {width} x {height} px (width x height), padded {where} with {rule["pad_val"]}']
    except ValueError:  # without our letterbox
        steps = next(leaf_datasets(cfg.test_dataloader.dataset)).pipeline
        lines = [f'{step["type"]}: {step.get("scale", "")}' for step in steps if 'Resize' in str(step['type'])]
    told = cfg.model.get('data_preprocessor') or {}
    order = 'RGB' if told.get('bgr_to_rgb') else 'BGR'
    if told.get('mean') is not None:
        mean, std = list(told['mean']), list(told['std'])
        lines.append(f'channels in the order {order}, (pixel - mean) / std with mean {mean}, std {std}')
    return lines


def _drop_start(node: dict) -> None:
    pretrained = pretrained_of(node)
    if isinstance(node.get('init_cfg'), (list, tuple)):
        node['init_cfg'] = [init for init in node['init_cfg'] if init not in pretrained]
    elif pretrained:
        node['init_cfg'] = None
    if node.get('pretrained'):
        node['pretrained'] = False if node['pretrained'] is True else None
    if isinstance(node.get('weights'), str):
        node['weights'] = None


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from _texts(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _texts(value)
