"""Evaluate an exported file on the test data: ``python tools/test_exported.py CONFIG MODEL.onnx``."""

import argparse
from collections.abc import Sequence

from mmengine.config import DictAction

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.exporting import evaluate_exported
from mmyolo_ext.cli.common import tool
from mmyolo_ext.export.runtime import ExportedDetector


@tool
def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate as ``argv`` defines it, by default the command line."""
    parser = argparse.ArgumentParser(description='Evaluate an exported detector as tools/test.py does its checkpoint')
    parser.add_argument('config', help='config file')
    parser.add_argument('model', help='.onnx, or .xml of OpenVINO')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='as test_dataloader.batch_size=8')
    args = parser.parse_args(argv)
    for name, value in evaluate_exported(
        ExportedDetector(args.model), load_config(args.config, args.cfg_options, with_recipe=False)
    ).items():
        print(f'{name}: {value:.4f}')


if __name__ == '__main__':
    main()
