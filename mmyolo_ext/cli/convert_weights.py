"""Convert weights: ``python tools/convert_weights.py yolov5n.pt weights/yolov5n.pth``.

Reads YOLOv5 checkpoints of Ultralytics (releases 5.0 to 7.0), of MMYOLO and of ours; with ``--config`` also Darknet's
``.weights`` and the classifiers of torchvision and mmpretrain. Nothing in a file is executed. Prints what matched, and
writes next to the result a config that fits it; for Ultralytics, the ``.yaml`` of the model.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmyolo_ext.apis.conversion import convert_file
from mmyolo_ext.checkpoint.conversion import FORMATS
from mmyolo_ext.cli.common import tool


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
        type=Path,
        help='config that the one of DST builds on (default: COCO at 640 or 1280 px); for darknet and backbone the '
        'config of the model, or a .cfg file; with --to ultralytics where anchors and class names are taken from',
    )
    return parser.parse_args(argv)


@tool
def main(argv: Sequence[str] | None = None) -> None:
    """Convert as ``argv`` defines it, by default the command line."""
    args = parse_args(argv)
    for line in convert_file(args.source, args.target, args.source_format, args.target_format, args.config):
        print(line)


if __name__ == '__main__':
    main()
