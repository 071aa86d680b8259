"""Convert checkpoint files: what ``tools/convert_weights.py`` does."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from mmyolo_ext.apis.config import load_config
from mmyolo_ext.apis.config_nodes import leaf_datasets
from mmyolo_ext.checkpoint.conversion import (
    Converted,
    config_text,
    convert,
    darknet_config_text,
    default_base,
    detect,
    leaf_config_text,
)
from mmyolo_ext.checkpoint.matching import LoadReport, fit
from mmyolo_ext.checkpoint.mmengine_loader import read_weights
from mmyolo_ext.checkpoint.safe_load import read_checkpoint
from mmyolo_ext.checkpoint.ultralytics import model_yaml, to_ultralytics
from mmyolo_ext.registry import MODELS

CONFIGS = Path(__file__).parents[2] / 'configs'
WRITTEN_BY = 'Written by tools/convert_weights.py from'
MODEL_FORMATS = ('darknet', 'backbone')  # of which a model must be there to tell what is what


def convert_file(source: Path, target: Path, source_format: str, target_format: str, config: Path | None) -> list[str]:
    """Convert one file, and check the result before it is written.

    Args:
        source: the checkpoint.
        target: to write; the config (or ``.yaml``) gets its name with another suffix.
        source_format: one of :data:`mmyolo_ext.checkpoint.conversion.FORMATS`, or ``'auto'``.
        target_format: ``'mmyolo_ext'`` or ``'ultralytics'``.
        config: to build on, or of the model; see the tool.

    Returns:
        Lines to print: what the file is, the load report, what was written.

    Raises:
        ValueError: on anything that stands in the way; then nothing is written.
    """
    _check_paths(source, target, config)
    if source_format == 'auto' and source.suffix == '.weights':
        source_format = 'darknet'
    content = None if source_format == 'darknet' else read_checkpoint(source)
    if source_format == 'auto':
        source_format = detect(content) or 'auto'
    if source_format in MODEL_FORMATS:
        if target_format == 'ultralytics':
            raise ValueError(f'{source} is of {source_format}: only YOLOv5 detectors can be written for Ultralytics')
        return _convert_by_model(source, target, source_format, config)
    try:
        converted = convert(content, source_format)
    except ValueError as error:
        raise ValueError(f'{source} cannot be converted: {error}') from error
    if target_format == 'ultralytics':
        return _write_for_ultralytics(converted, source, target, config)
    return _write_for_us(converted, source, target, config)


def _write_for_us(converted: Converted, source: Path, target: Path, config: Path | None) -> list[str]:
    network = converted.network
    base = config or default_base(network, CONFIGS)
    _check_base(base, network.arch)
    origin = f'{WRITTEN_BY} {source.name} ({converted.source})'
    text = config_text(network, base, target, origin, own_base=config is not None)
    path = target.with_suffix('.py')
    report = _check_against(text, path, converted.state_dict)
    meta: dict[str, Any] = {'converted_from': f'{source.name} ({converted.source})'}
    if network.classes:
        meta['dataset_meta'] = {'classes': network.classes}
    torch.save({'state_dict': converted.state_dict, 'meta': meta}, target)
    return [
        *_sketch(converted, source),
        report.full_table(converted.left_out),
        f'written: {target}',
        f'written: {path}',
    ]


def _write_for_ultralytics(converted: Converted, source: Path, target: Path, config: Path | None) -> list[str]:
    network = converted.network
    if config is not None:
        network = replace(network, **_facts_of_config(load_config(config)))
        converted = replace(converted, network=network, anchors_told=True)
    there = to_ultralytics(converted.state_dict, network)
    back = convert(there).state_dict
    report = LoadReport.of(converted.state_dict, back)
    different = [name for name in report.matched if not torch.equal(back[name], converted.state_dict[name])]
    assert report.complete and not different, (str(report), different)
    path = target.with_suffix('.yaml')
    torch.save(OrderedDict(there), target)
    path.write_text(f'# {WRITTEN_BY} {" ".join(source.name.split())}\n{model_yaml(network)}', encoding='utf-8')
    added = tuple(name for name in there if name.endswith(('.anchors', '.anchor_grid')))
    return [
        *_sketch(converted, source),
        report.full_table(),
        f'converted back, every bit of them is the same; added: {", ".join(added)}',
        f'written: {target}',
        f'written: {path}',
    ]


def _convert_by_model(source: Path, target: Path, source_format: str, config: Path | None) -> list[str]:
    if config is None:
        need = 'a DarknetCfg, or the .cfg file itself' if source_format == 'darknet' else 'a model with that backbone'
        raise ValueError(f'{source} is of {source_format} and does not tell the network: give --config, of {need}')
    origin = f'{WRITTEN_BY} {source.name} ({source_format})'
    if config.suffix == '.cfg':
        text = darknet_config_text(config, CONFIGS, target, origin)
        model = _build({'type': 'mmyolo_ext.DarknetCfg', 'cfg_file': str(config)})
    else:
        text = leaf_config_text(config, target, origin)
        model = _build(load_config(config).model)
    checkpoint = read_weights(source) if source_format == 'darknet' else {'state_dict': _tensors(source)}
    before = len(checkpoint['state_dict'])
    fit(model, checkpoint, start_anew=False)
    part = '' if source_format == 'darknet' else 'backbone.'
    wanted = {name: value for name, value in model.state_dict().items() if name.startswith(part)}
    kept = {name: value for name, value in checkpoint['state_dict'].items() if name in wanted}
    report = LoadReport.of(wanted, kept)
    if not report.matched or report.reshaped:
        raise ValueError(f'{source} does not fit the model of {config}: {report}')
    more = before - len(kept)
    left = [f'  {more} more are of no part of it (classifier, later stages)'] if more > 0 else []
    path = target.with_suffix('.py')
    path.write_text(text, encoding='utf-8')
    torch.save({'state_dict': kept, 'meta': {'converted_from': f'{source.name} ({source_format})'}}, target)
    return [
        f'{source}: {source_format}, taken for the {part.removesuffix(".") or "whole model"} of {config}',
        report.full_table(),
        *left,
        f'written: {target}',
        f'written: {path}',
    ]


def _sketch(converted: Converted, source: Path) -> list[str]:
    network = converted.network
    lines = [
        f'{source}: {converted.source}, YOLOv5 {network.arch} {network.version}, deepen_factor '
        f'{network.deepen_factor}, widen_factor {network.widen_factor}, strides {network.strides}',
        f'{network.num_classes} classes: {", ".join(network.classes) if network.classes else "the file has no names"}',
    ]
    if not converted.anchors_told:
        lines.append('the file does not tell its anchors: the published ones are taken')
    return lines


def _check_base(base: Path, arch: str) -> None:
    backbone = load_config(base).model.get('backbone', {})
    kind, its_arch = str(backbone.get('type')), backbone.get('arch', 'P5')
    if not kind.endswith('YOLOv5CSPDarknet') or its_arch != arch:
        raise ValueError(f'{base} has the backbone {kind} {its_arch}: name a config of a YOLOv5 {arch}')


def _check_against(text: str, path: Path, state_dict: Mapping[str, Tensor]) -> LoadReport:
    """Build the model of the config and compare; the config stays only if every tensor fits."""
    path.write_text(text, encoding='utf-8')
    try:
        report = LoadReport.of(_build(load_config(path).model).state_dict(), state_dict)
        if not report.complete:
            raise ValueError(f'the weights do not fit the network of YOLOv5: {report}\n{report.table()}')
    except Exception:
        path.unlink()
        raise
    return report


def _build(model: Any) -> nn.Module:
    init_default_scope('mmdet')
    return MODELS.build(model)


def _tensors(source: Path) -> dict[str, Tensor]:
    content = read_checkpoint(source)
    inner = content.get('state_dict', content)
    return {str(key): value for key, value in inner.items() if isinstance(value, Tensor)}


def _facts_of_config(cfg: Config) -> dict[str, Any]:
    head = cfg.model.get('bbox_head', {})
    told: dict[str, Any] = {}
    sizes = head.get('prior_generator', {}).get('base_sizes')
    if sizes:
        told['anchors'] = tuple(tuple((w, h) for w, h in level) for level in sizes)
    classes = next(leaf_datasets(cfg.test_dataloader.dataset)).get('metainfo', {}).get('classes')
    if classes and len(classes) == head.get('num_classes'):
        told['classes'] = tuple(classes)
    return told


def _check_paths(source: Path, target: Path, config: Path | None) -> None:
    if not source.is_file():
        raise ValueError(f'there is no checkpoint {source}')
    if target.suffix not in ('.pt', '.pth'):
        raise ValueError(f'DST must be a .pth or .pt file, got {target}')
    if target.resolve() == source.resolve():
        raise ValueError(f'DST is SRC, {target}: choose another name, the original is not written over')
    if config is not None and not config.is_file():
        raise ValueError(f'there is no config {config}')
    beside = target.with_suffix('.py')
    if beside.exists() and WRITTEN_BY not in beside.read_text(encoding='utf-8'):
        raise ValueError(f'{beside} would be written over: choose another name for DST')
    target.parent.mkdir(parents=True, exist_ok=True)
