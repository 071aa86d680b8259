"""Write heat maps of what each detection depends on: ``mmyolo-ext explain best.pth image.jpg``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2

from mmyolo_ext.apis.explain import METHODS, PARTS, explain
from mmyolo_ext.cli.common import tool


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Write a heat map per detection and level')
    parser.add_argument('checkpoint', help='file written by training')
    parser.add_argument('image', help='image file')
    parser.add_argument('--config', help='only for a checkpoint without its config')
    parser.add_argument('--method', choices=METHODS, default='layercam', help='default: layercam')
    parser.add_argument('--part', choices=PARTS, default='backbone', help='whose outputs are shown; default: backbone')
    parser.add_argument('--score-thr', type=float, default=0.25, help='lowest score (default: 0.25)')
    parser.add_argument('--max', type=int, default=5, metavar='N', help='number of detections (default: 5)')
    parser.add_argument('--device', help='cpu, cuda or cuda:1; default: a GPU if there is one')
    parser.add_argument('--out', type=Path, metavar='FILE', help='default: explain/IMAGE.jpg')
    return parser.parse_args(argv)


@tool
def main(argv: Sequence[str] | None = None) -> None:
    """Run the tool on ``argv``, by default the command line."""
    args = parse_args(argv)
    out = args.out or Path('explain') / f'{Path(args.image).stem}.jpg'
    if out.suffix.lower() not in ('.jpg', '.png'):
        raise ValueError(f'--out must end in .jpg or .png, got {out}')
    seen = explain(
        args.checkpoint, args.image, args.config, args.method, args.part, args.score_thr, args.max, args.device
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imencode(out.suffix, seen.draw())[1].tofile(out)
    found = seen.detections
    for index, shares in enumerate(seen.shares):
        levels = ', '.join(f'stride {s}: {share:.0%}' for s, share in zip(seen.strides, shares, strict=True))
        if not shares.any():  # of a score that is 0 or 1 to the last bit, or where nothing raises it
            levels = 'no map, since no feature raises this score: choose --method eigencam'
        label = int(found.labels[index]) if args.method != 'eigencam' else None
        name = 'all' if label is None else found.names[label] if found.names else label
        print(f'{name}{"" if label is None else f" {found.scores[index]:.2f}"}: {levels}')
    print(f'written: {out}')


if __name__ == '__main__':
    main()
