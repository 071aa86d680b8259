"""Figures of an exported file on the test data: ``python tools/test_exported.py CONFIG MODEL.onnx``."""

import argparse

from mmengine.config import DictAction

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.cli import run_tool
from mmyolo_ext.apis.exported_ap import evaluate
from mmyolo_ext.export.runtime import ExportedDetector


def main() -> None:
    parser = argparse.ArgumentParser(description='Evaluate an exported detector as tools/test.py does its checkpoint')
    parser.add_argument('config', help='config file')
    parser.add_argument('model', help='.onnx, or .xml of OpenVINO')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='as test_dataloader.batch_size=8')
    args = parser.parse_args()
    for name, value in evaluate(ExportedDetector(args.model), load_config(args.config, args.cfg_options)).items():
        print(f'{name}: {value:.4f}')


if __name__ == '__main__':
    run_tool(main)
