"""Detect on pictures: ``python tools/predict.py CONFIG CHECKPOINT photo.jpg folder/ 'more/*.png'``.

Writes each picture with its boxes drawn, and one JSON with all boxes in px of the pictures.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from glob import glob
from pathlib import Path

from mmyolo_ext.apis import Detections, Detector, load_config
from mmyolo_ext.apis.inference import draw
from mmyolo_ext.apis.start import check_work_dir
from mmyolo_ext.cli.common import tool

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Detect on pictures')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('pictures', nargs='+', help='files, folders (searched through), or patterns in quotes')
    parser.add_argument('--out-dir', default='predictions', help='folder to write (default: predictions)')
    parser.add_argument('--score-thr', type=float, default=0.25, help='least score of a box (default: 0.25)')
    parser.add_argument('--device', help='cpu, cuda:0, ...; default: a GPU if there is one')
    parser.add_argument('--half', action='store_true', help='compute in float16, on a CPU in bfloat16')
    parser.add_argument('--fuse', action='store_true', help='fold batch norms into convolutions')
    parser.add_argument('--no-draw', action='store_true', help='write the JSON only')
    return parser.parse_args(argv)


@tool
def main(argv: Sequence[str] | None = None) -> None:
    """Run the tool on ``argv``, by default the command line."""
    args = parse_args(argv)
    files = find_pictures(args.pictures)
    check_work_dir(args.out_dir)
    detector = Detector(load_config(args.config), args.checkpoint, args.device, half=args.half, fuse=args.fuse)
    records, broken = [], 0
    for number, (file, name) in enumerate(zip(files, output_names(files), strict=True), 1):
        try:
            (found,) = detector([file], score_thr=args.score_thr)
        except ValueError as error:
            broken += 1
            print(f'[{number}/{len(files)}] skipped: {error}', file=sys.stderr)
            continue
        records.append(describe(file, found, detector.classes))
        if not args.no_draw:
            draw(file, found, detector.classes, Path(args.out_dir) / name)
        print(f'[{number}/{len(files)}] {file}: {len(found.scores)} boxes')
    target = Path(args.out_dir) / 'predictions.json'
    target.write_text(json.dumps(records, indent=1))
    print(f'{len(records)} pictures, {broken} skipped; boxes in {target}')
    if not records:
        raise ValueError(f'none of the {len(files)} pictures could be read')


def find_pictures(patterns: Iterable[str]) -> list[Path]:
    """Files as named, the pictures in folders, and what patterns match; each once, in order.

    Raises:
        ValueError: If one of them leads to no picture.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            files = sorted(file for file in path.rglob('*') if file.suffix.lower() in SUFFIXES)
        else:
            files = [path] if path.is_file() else [Path(file) for file in sorted(glob(pattern, recursive=True))]
        if not files:
            raise ValueError(f'{pattern} leads to no picture; known suffixes in folders are {", ".join(SUFFIXES)}')
        found.update(dict.fromkeys(files))
    return list(found)


def output_names(files: list[Path]) -> list[str]:
    """A name for each file's drawing; files of one name in several folders get their folder's name in front."""
    names = [file.name for file in files]
    names = [
        name if names.count(name) == 1 else f'{file.parent.name}_{name}'
        for file, name in zip(files, names, strict=True)
    ]
    return [name if names.count(name) == 1 else f'{number}_{name}' for number, name in enumerate(names)]


def describe(file: Path, found: Detections, classes: tuple[str, ...]) -> dict:
    """One picture's entry of the JSON: boxes are x1, y1, x2, y2 in px."""
    rows = zip(found.boxes_xyxy.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
    boxes = [
        {'box': [round(side, 2) for side in box], 'score': round(score, 4), 'label': label, 'class': classes[label]}
        for box, score, label in rows
    ]
    return {'file': str(file), 'boxes': boxes}


if __name__ == '__main__':
    main()
