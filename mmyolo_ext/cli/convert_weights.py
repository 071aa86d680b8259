"""Convert weights: ``python tools/convert_weights.py yolov5n.pt weights/yolov5n.pth``.

Reads YOLOv5 checkpoints of Ultralytics (releases 5.0 to 7.0), of MMYOLO and of ours; with ``--config`` also Darknet's
``.weights`` and the classifiers of torchvision and mmpretrain. Nothing in a file is executed. Prints what matched, and
writes a matching config next to the result; for Ultralytics, the ``.yaml`` of the model.
"""

import argparse
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from mmyolo_ext.apis.config import load_config
from mmyolo_ext.apis.config_nodes import leaf_datasets
from mmyolo_ext.apis.model_names import config_folder, config_path
from mmyolo_ext.checkpoint.conversion import (
    FORMATS,
    Converted,
    config_text,
    convert,
    darknet_config_text,
    default_base,
    detect,
    leaf_config_text,
    state_dict_of,
)
from mmyolo_ext.checkpoint.matching import LoadReport, fit
from mmyolo_ext.checkpoint.mmengine_loader import read_weights
from mmyolo_ext.checkpoint.safe_load import read_checkpoint
from mmyolo_ext.checkpoint.ultralytics import model_yaml, to_ultralytics
from mmyolo_ext.cli.common import tool
from mmyolo_ext.registry import MODELS

WRITTEN_BY = 'Written by tools/convert_weights.py from'
MODEL_FORMATS = ('darknet', 'backbone')  # which do not describe their network


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Convert the weights of other tools to ours, and back')
    parser.add_argument('source', type=Path, metavar='SRC', help='checkpoint to read')
    parser.add_argument('target', type=Path, metavar='DST', help='.pth or .pt file to write')
    parser.add_argument(
        '--from', dest='source_format', choices=('auto', *FORMATS), default='auto', help='what SRC is (default: auto)'
    )
    parser.add_argument(
        '--to', dest='target_format', choices=('mmyolo_ext', 'ultralytics'), default='mmyolo_ext', help='what DST is'
    )
    parser.add_argument(
        '--config',
        help='config that the one of DST builds on (default: COCO at 640 or 1280 px); for darknet and backbone the '
        'config of the model, or a .cfg file; with --to ultralytics where anchors and class names are taken from',
    )
    return parser.parse_args(argv)


@tool
def main(argv: Sequence[str] | None = None) -> None:
    """Convert as ``argv`` defines it, by default the command line."""
    args = parse_args(argv)
    config = args.config and (Path(args.config) if args.config.endswith('.cfg') else config_path(args.config))
    for line in convert_file(args.source, args.target, args.source_format, args.target_format, config):
        print(line)


def convert_file(source: Path, target: Path, source_format: str, target_format: str, config: Path | None) -> list[str]:
    """Convert one file, and check the result before it is written.

    Args:
        source: Checkpoint to read.
        target: File to write; the config (or ``.yaml``) gets its name with another suffix.
        source_format: One of :data:`mmyolo_ext.checkpoint.conversion.FORMATS`, or ``'auto'``.
        target_format: ``'mmyolo_ext'`` or ``'ultralytics'``.
        config: Base of the written config, or config of the model; see the option ``--config``.

    Returns:
        Lines to print: the format of the file, the load report, the files written.

    Raises:
        ValueError: If the file cannot be converted; then nothing is written.
    """
    _check_paths(source, target)
    if source_format == 'auto' and source.suffix == '.weights':
        source_format = 'darknet'
    content = None if source_format == 'darknet' else read_checkpoint(source)
    if source_format == 'auto':
        source_format = detect(content) or 'auto'
    suffix = '.py' if target_format == 'mmyolo_ext' else '.yaml'
    if source_format in MODEL_FORMATS:
        if target_format == 'ultralytics':
            raise ValueError(f'{source} is of {source_format}: only YOLOv5 detectors can be written for Ultralytics')
        lines = _convert_by_model(content, source, target, source_format, config)
    else:
        try:
            converted = convert(content, source_format)
        except ValueError as error:
            raise ValueError(f'{source} cannot be converted: {error}') from error
        write = _write_for_us if target_format == 'mmyolo_ext' else _write_for_ultralytics
        lines = [*_sketch(converted, source), *write(converted, source, target, config)]
    return [*lines, f'written: {target}', f'written: {target.with_suffix(suffix)}']


def _write_for_us(converted: Converted, source: Path, target: Path, config: Path | None) -> list[str]:
    network = converted.network
    base = config or default_base(network, config_folder())
    backbone = load_config(base).model.get('backbone', {})
    kind, arch = str(backbone.get('type')), backbone.get('arch', 'P5')
    if not kind.endswith('YOLOv5CSPDarknet') or arch != network.arch:
        raise ValueError(f'{base} has the backbone {kind} {arch}: name a config of a YOLOv5 {network.arch}')
    origin = f'{WRITTEN_BY} {source.name} ({converted.source})'
    text = config_text(network, base, target, origin, own_base=config is not None)
    path = target.with_suffix('.py')
    path.write_text(text, encoding='utf-8')
    try:
        report = LoadReport.of(_build(load_config(path).model).state_dict(), converted.state_dict)
        if not report.complete:
            raise ValueError(f'the weights do not fit the network of YOLOv5: {report}\n{report.table()}')
    except Exception:
        path.unlink()
        raise
    meta: dict[str, Any] = {'converted_from': f'{source.name} ({converted.source})'}
    if network.classes:
        meta['dataset_meta'] = {'classes': network.classes}
    torch.save({'state_dict': converted.state_dict, 'meta': meta}, target)
    return [report.full_table(converted.left_out)]


def _write_for_ultralytics(converted: Converted, source: Path, target: Path, config: Path | None) -> list[str]:
    network = converted.network
    if config is not None:
        network = replace(network, **_facts_of_config(load_config(config)))
        converted = replace(converted, network=network, has_anchors=True)
    there = to_ultralytics(converted.state_dict, network)
    back = convert(there).state_dict
    report = LoadReport.of(converted.state_dict, back)
    different = [name for name in report.matched if not torch.equal(back[name], converted.state_dict[name])]
    assert report.complete and not different, (str(report), different)
    torch.save(OrderedDict(there), target)
    text = f'# {WRITTEN_BY} {" ".join(source.name.split())}\n{model_yaml(network)}'
    target.with_suffix('.yaml').write_text(text, encoding='utf-8')
    added = ', '.join(name for name in there if name.endswith(('.anchors', '.anchor_grid')))
    return [report.full_table(), f'converted back, all weights are bit-identical; added: {added}']


def _convert_by_model(content: Any, source: Path, target: Path, source_format: str, config: Path | None) -> list[str]:
    if config is None:
        need = 'a DarknetCfg, or the .cfg file itself' if source_format == 'darknet' else 'a model with that backbone'
        raise ValueError(f'{source} is of {source_format} and does not describe its network: give --config, of {need}')
    origin = f'{WRITTEN_BY} {source.name} ({source_format})'
    if config.suffix == '.cfg':
        text = darknet_config_text(config, config_folder(), target, origin)
        model = _build({'type': 'mmyolo_ext.DarknetCfg', 'cfg_file': str(config)})
    else:
        text = leaf_config_text(config, target, origin)
        model = _build(load_config(config).model)
    checkpoint = read_weights(source) if source_format == 'darknet' else {'state_dict': state_dict_of(content)}
    before = len(checkpoint['state_dict'])
    fit(model, checkpoint, start_anew=False)
    part = '' if source_format == 'darknet' else 'backbone.'
    wanted = {name: value for name, value in model.state_dict().items() if name.startswith(part)}
    kept = {name: value for name, value in checkpoint['state_dict'].items() if name in wanted}
    report = LoadReport.of(wanted, kept)
    if not report.matched or report.reshaped:
        raise ValueError(f'{source} does not fit the model of {config}: {report}')
    more = before - len(kept)
    left = [f'  {more} more are not part of it (classifier, later stages)'] if more > 0 else []
    target.with_suffix('.py').write_text(text, encoding='utf-8')
    torch.save({'state_dict': kept, 'meta': {'converted_from': f'{source.name} ({source_format})'}}, target)
    return [
        f'{source}: {source_format}, used as the {part.removesuffix(".") or "whole model"} of {config}',
        report.full_table(),
        *left,
    ]


def _sketch(converted: Converted, source: Path) -> list[str]:
    network = converted.network
    lines = [
        f'{source}: {converted.source}, YOLOv5 {network.arch} {network.version}, deepen_factor '
        f'{network.deepen_factor}, widen_factor {network.widen_factor}, strides {network.strides}',
        f'{network.num_classes} classes: {", ".join(network.classes) if network.classes else "the file has no names"}',
    ]
    if not converted.has_anchors:
        lines.append('the file has no anchors: the published ones are used')
    return lines


def _build(model: Any) -> nn.Module:
    init_default_scope('mmdet')
    return MODELS.build(model)


def _facts_of_config(cfg: Config) -> dict[str, Any]:
    head = cfg.model.get('bbox_head', {})
    facts: dict[str, Any] = {}
    sizes = head.get('prior_generator', {}).get('base_sizes')
    if sizes:
        facts['anchors'] = tuple(tuple((w, h) for w, h in level) for level in sizes)
    classes = next(leaf_datasets(cfg.test_dataloader.dataset)).get('metainfo', {}).get('classes')
    if classes and len(classes) == head.get('num_classes'):
        facts['classes'] = tuple(classes)
    return facts


def _check_paths(source: Path, target: Path) -> None:
    if target.suffix not in ('.pt', '.pth'):
        raise ValueError(f'DST must be a .pth or .pt file, got {target}')
    if target.resolve() == source.resolve():
        raise ValueError(f'DST is SRC, {target}: choose another name, the source is never overwritten')
    beside = target.with_suffix('.py')
    if beside.exists() and WRITTEN_BY not in beside.read_text(encoding='utf-8'):
        raise ValueError(f'{beside} would be overwritten: choose another name for DST')
    target.parent.mkdir(parents=True, exist_ok=True)


if __name__ == '__main__':
    main()
