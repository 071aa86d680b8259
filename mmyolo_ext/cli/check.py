"""Check a data set before training: ``mmyolo-ext check data.yaml``.

Exit code: 0 without errors and warnings, 1 with some, 2 if the data cannot be opened. Notes do not count.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmyolo_ext.apis.anchors import input_size_hw
from mmyolo_ext.apis.config_nodes import LOADERS, leaf_datasets
from mmyolo_ext.apis.model_names import config_path
from mmyolo_ext.apis.training import read_run_config
from mmyolo_ext.cli.common import tool, whole_or_nothing
from mmyolo_ext.cli.convert import name_files, write_coco
from mmyolo_ext.datasets.data_check import CHECKS, SEVERITIES, Finding, check_splits, inspect_splits
from mmyolo_ext.datasets.data_fix import fix_splits
from mmyolo_ext.datasets.data_section import data_page
from mmyolo_ext.datasets.label_errors import read_detections
from mmyolo_ext.datasets.raw_labels import find_splits, read_split

DEFAULT_MODEL = 'yolov5_n'  # gives anchors and input size for a data set without config
DATA_SUFFIXES = ('.yaml', '.yml', '.json', '.zip', '')
SHOWN = 3  # places of a finding that are printed


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0], epilog=__doc__.split('\n\n')[1])
    parser.add_argument('data', metavar='DATA_OR_CONFIG', help='data.yaml, COCO JSON file, folder, zip or config')
    parser.add_argument('--json', action='store_true', help='print the findings as JSON')
    parser.add_argument('--html', type=Path, metavar='FILE', help='write a page with images')
    parser.add_argument('--fix', type=Path, metavar='FOLDER', help='write a repaired copy to a new folder')
    parser.add_argument(
        '--predictions',
        type=Path,
        metavar='FILE',
        help='report/detections.json of a run, to suspect label errors',
    )
    return parser.parse_args(argv)


@tool(left='no file was written')
def main(argv: Sequence[str] | None = None) -> None:
    """Check the data that ``argv`` names, by default the command line."""
    args = parse_args(argv)
    if args.fix is not None and args.fix.exists() and (not args.fix.is_dir() or any(args.fix.iterdir())):
        raise ValueError(f'--fix writes to a new folder, {args.fix} exists: give another one')
    splits, refused, anchors_wh, size_hw = _source(args.data)
    raw = [read_split(name, config) for name, config in splits.items()]
    detections = read_detections(args.predictions, raw) if args.predictions else None
    facts = inspect_splits(raw)
    findings = check_splits(raw, facts, detections, anchors_wh, size_hw, refused)
    if args.json:
        print(json.dumps({'data': args.data, 'findings': [one.to_dict() for one in findings]}, indent=1))
    else:
        sizes = ', '.join(f'{one.name} {len(one.paths)} images {len(one.numbers)} boxes' for one in raw)
        print(f'{args.data}: {sizes}\n{report(findings)}')
    out = sys.stderr if args.json else sys.stdout
    if args.html is not None:
        args.html.parent.mkdir(parents=True, exist_ok=True)
        args.html.write_text(data_page(findings, f'Data check of {args.data}'), encoding='utf-8')
        print(f'written: {args.html}', file=out)
    if args.fix is not None:
        contents, classes, lines = fix_splits(raw, facts)
        with whole_or_nothing(args.fix):
            write_fixed(args.fix, contents, classes)
        print('\n'.join([*lines, f'written: {args.fix}']), file=out)
    if any(one.severity != 'note' for one in findings):
        sys.exit(1)


def report(findings: Sequence[Finding]) -> str:
    """Return findings as text, the worst first."""
    lines = []
    for one in findings:
        lines.append(f'{one.severity:8} {one.check} ({one.count}): {CHECKS[one.check][1]}. Cure: {one.cure}')
        places = [' '.join(filter(None, (item['image'], item['note']))) for item in one.items[:SHOWN]]
        lines += [f'         {place}' for place in places if place]
        lines += ['         ...'] if one.count > SHOWN else []
    counts = [f'{sum(one.severity == severity for one in findings)} {severity}s' for severity in SEVERITIES]
    return '\n'.join([*lines, f'{len(CHECKS)} checks: {", ".join(counts)}'])


def _source(data: str) -> tuple[dict, str | None, np.ndarray | None, tuple[int, int]]:
    """Return dataset configs by split, why the data are refused, anchors, and size of the network input."""
    path = Path(data)
    if path.exists() and path.suffix.lower() in DATA_SUFFIXES or path.is_dir():
        splits, refused, notes = find_splits(path)
        for note in notes:
            print(note, file=sys.stderr)
        cfg = read_run_config(config_path(DEFAULT_MODEL), None, None, {}, training=False)
    else:
        cfg, refused = read_run_config(data, None, None, {}, training=False), None
        splits = {}
        for loader in LOADERS:
            leaves = list(leaf_datasets(cfg[loader]['dataset'])) if cfg.get(loader) else []
            if leaves and dict(leaves[0]) not in splits.values():
                splits[loader.removesuffix('_dataloader')] = dict(leaves[0])
    head = cfg.model.get('bbox_head') or {}
    sizes = (head.get('prior_generator') or {}).get('base_sizes') if isinstance(head, dict) else None
    anchors_wh = None if sizes is None else np.concatenate([np.array(level, np.float64) for level in sizes])
    try:
        size_hw = input_size_hw(cfg)
    except ValueError:  # images are not scaled to one size
        size_hw = (640, 640)
    return splits, refused, anchors_wh, size_hw


def write_fixed(folder: Path, contents: dict[str, dict], classes: tuple[str, ...]) -> None:
    """Write repaired splits as COCO files and copies of their images, as ``mmyolo-ext convert`` does."""
    name_files(contents)
    write_coco(folder, contents, classes)
    for split, content in contents.items():
        (folder / split).mkdir()
        for image in content['images']:
            shutil.copyfile(image['path'], folder / split / image['file_name'])


if __name__ == '__main__':
    main()
