"""Open a web page that shows what detectors find: ``mmyolo-ext app work_dirs/my_run other.onnx``."""

import argparse
import ipaddress
import sys
from collections.abc import Sequence
from glob import glob

from mmyolo_ext.apis.app import Model, build, launch
from mmyolo_ext.cli.common import tool


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Open a web page that shows what detectors find')
    parser.add_argument(
        'models', nargs='*', help='folders of runs, checkpoints (.pth), exports (.onnx, .xml); default: work_dirs/*'
    )
    parser.add_argument('--device', help='cpu, cuda:0, ...; default: a GPU if there is one')
    parser.add_argument('--host', default='127.0.0.1', help='address to listen on (default: this machine only)')
    parser.add_argument('--port', type=int, help='port (default: the first free one from 7860)')
    parser.add_argument('--max-upload', type=int, default=200, metavar='MB', help='largest file to upload (200 MB)')
    return parser.parse_args(argv)


@tool
def main(argv: Sequence[str] | None = None) -> None:
    """Serve the page until Ctrl-C."""
    args = parse_args(argv)
    models = [Model(path, args.device) for path in args.models or runs_with_a_checkpoint()]
    if not is_loopback(args.host):
        print(f'warning: anyone who reaches {args.host} can use this page, it asks for no password', file=sys.stderr)
    launch(build(models), args.host, args.port, args.max_upload)


def runs_with_a_checkpoint() -> list[str]:
    """Return the folders in ``work_dirs`` that hold a best checkpoint; ValueError if there is none."""
    found = sorted({file.rpartition('/')[0] for file in glob('work_dirs/*/best_*.pth')})
    if not found:
        raise ValueError('there is no work_dirs/*/best_*.pth here: name the folder of a run, or a model file')
    return found


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == 'localhost'


if __name__ == '__main__':
    main()
