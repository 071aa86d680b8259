"""Show what the network receives in training: ``mmyolo-ext browse my_config.py --html``.

Images after mosaic, collate function and preprocessor, with boxes, labels, ignore regions, and the positives: which
predictions are responsible for which box.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmyolo_ext.apis.browse import browse, summary, write
from mmyolo_ext.apis.config import OptionsAction
from mmyolo_ext.apis.training import read_run_config
from mmyolo_ext.cli.common import tool

DEFAULT_MODEL = 'yolov5_n'  # gives pipeline and assigner for a data set without config


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[1])
    parser.add_argument('config', metavar='CONFIG_OR_DATA', help='config, name of a model, data.yaml, folder or zip')
    parser.add_argument('data', nargs='?', help='data set, if the first argument is a config without one')
    parser.add_argument('--count', type=int, default=8, metavar='N', help='number of images (default: 8)')
    parser.add_argument('--html', action='store_true', help='write one page instead of single images')
    parser.add_argument('--out', type=Path, default=Path('browse'), metavar='FOLDER', help='default: browse')
    parser.add_argument('--checkpoint', metavar='FILE', help='weights for assigners that look at predictions')
    parser.add_argument('--cfg-options', nargs='+', action=OptionsAction, help='settings that replace the config')
    args = parser.parse_args(argv)
    if args.count < 1:
        raise ValueError(f'--count must be 1 or more, got {args.count}')
    return args


@tool
def main(argv: Sequence[str] | None = None) -> None:
    """Run the tool on ``argv``, by default the command line."""
    args = parse_args(argv)
    path, model, data = Path(args.config), args.config, args.data
    if data is None and (path.is_dir() or path.exists() and path.suffix.lower() in ('.yaml', '.yml', '.json', '.zip')):
        model, data = DEFAULT_MODEL, args.config
    cfg = read_run_config(model, data, 'auto', args.cfg_options or {})
    found, source = browse(cfg, args.count, args.checkpoint)
    print('\n'.join([*summary(found), source]))
    for file in write(found, source, args.out, args.html, f'{args.config} as the network receives it'):
        print(f'written: {file}')


if __name__ == '__main__':
    main()
