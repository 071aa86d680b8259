"""Detect objects on images: ``python tools/predict.py CONFIG CHECKPOINT photo.jpg folder/ 'more/*.png'``.

Writes each image with its boxes, and one JSON with all boxes in px of the images.
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
    parser = argparse.ArgumentParser(description='Detect objects on images')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('images', nargs='+', help='files, folders (searched recursively), or patterns in quotes')
    parser.add_argument('--out-dir', default='predictions', help='output folder (default: predictions)')
    parser.add_argument('--score-thr', type=float, default=0.25, help='minimum score of a box (default: 0.25)')
    parser.add_argument('--device', help='cpu, cuda:0, ...; default: a GPU if there is one')
    parser.add_argument('--half', action='store_true', help='compute in float16, on a CPU in bfloat16')
    parser.add_argument('--fuse', action='store_true', help='fold batch norms into convolutions')
    parser.add_argument('--no-draw', action='store_true', help='write the JSON only')
    return parser.parse_args(argv)


@tool
def main(argv: Sequence[str] | None = None) -> None:
    """Detect as ``argv`` defines it, by default the command line."""
    args = parse_args(argv)
    files = find_images(args.images)
    check_work_dir(args.out_dir)
    detector = Detector(
        load_config(args.config, with_recipe=False), args.checkpoint, args.device, half=args.half, fuse=args.fuse
    )
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
    print(f'{len(records)} images, {broken} skipped; boxes in {target}')
    if not records:
        raise ValueError(f'none of the {len(files)} images could be read')


def find_images(patterns: Iterable[str]) -> list[Path]:
    """Return files as named, the images in folders and the matches of patterns, each once, in order.

    Raises:
        ValueError: If nothing matches one of them.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            files = sorted(file for file in path.rglob('*') if file.suffix.lower() in SUFFIXES)
        else:
            files = [path] if path.is_file() else [Path(file) for file in sorted(glob(pattern, recursive=True))]
        if not files:
            raise ValueError(f'no images match {pattern!r}; in folders, suffixes are {", ".join(SUFFIXES)}')
        found.update(dict.fromkeys(files))
    return list(found)


def output_names(files: list[Path]) -> list[str]:
    """Return a name for the drawing of each file; equal names get the name of their folder as a prefix."""
    names = [file.name for file in files]
    names = [
        name if names.count(name) == 1 else f'{file.parent.name}_{name}'
        for file, name in zip(files, names, strict=True)
    ]
    return [name if names.count(name) == 1 else f'{number}_{name}' for number, name in enumerate(names)]


def describe(file: Path, found: Detections, classes: tuple[str, ...]) -> dict:
    """Return the entry of an image in the JSON: boxes are x1, y1, x2, y2 in px."""
    rows = zip(found.boxes_xyxy.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
    boxes = [
        {'box': [round(side, 2) for side in box], 'score': round(score, 4), 'label': label, 'class': classes[label]}
        for box, score, label in rows
    ]
    return {'file': str(file), 'boxes': boxes}


if __name__ == '__main__':
    main()
