"""Compare runs on one page: ``mmyolo-ext compare work_dirs/a work_dirs/b``."""

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from mmyolo_ext.cli.common import tool
from mmyolo_ext.cli.flops import WithMetas, build, count, parameters, size_of
from mmyolo_ext.cli.report import config_of
from mmyolo_ext.engine.hooks.curves import read_scalars
from mmyolo_ext.evaluation.report.compare import Compared, write_comparison

WARM_UP, PASSES = 3, 20  # forward passes of a measured latency


@tool
def main(argv: Sequence[str] | None = None) -> None:
    """Run the tool on ``argv``, by default the command line."""
    parser = argparse.ArgumentParser(description='Compare runs that have a report: the first with each other one')
    parser.add_argument('runs', nargs='+', type=Path, metavar='RUN', help='folder of a training or test')
    parser.add_argument('--out', type=Path, default=Path('comparison'), help='folder to write; default: comparison')
    parser.add_argument('--latency', action='store_true', help='measure the time of the network on one image')
    args = parser.parse_args(argv)
    print(write_comparison(args.out, [_read(folder, args.runs, args.latency) for folder in args.runs]))


def _read(folder: Path, all_folders: Sequence[Path], with_latency: bool) -> Compared:
    names = [one.resolve().name for one in all_folders]
    name = folder.resolve().name if names.count(folder.resolve().name) == 1 else str(folder)
    config = config_of(folder)
    if config:
        config.pop('overridden', None)  # what was set is in the config itself
    return Compared(
        name,
        folder,
        log=read_scalars(sorted(folder.glob('*/vis_data/scalars.json'))),
        config=config.pretty_text if config else '',
        cost=_cost(config, with_latency) if config and config.get('model') else {},
    )


def _cost(config: Config, with_latency: bool) -> dict[str, Any]:
    """Return parameters and FLOPs of the network at the size of its test images, and its latency if wanted."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # about tracing
        try:
            size_hw = size_of(config)
            model = build(config)
            cost = {'parameters': parameters(model)['total'], 'GFLOPs': count(model, size_hw)['flops']['total'] / 1e9}
        except Exception as error:  # of a config whose modules or sizes are unknown here
            text = ' '.join(str(error).split())
            print(f'the cost of {config.filename} is left out: {type(error).__name__}: {text}', file=sys.stderr)
            return {}
    cost['input (height x width)'] = f'{size_hw[0]} x {size_hw[1]}'
    return {**cost, **latency(model, size_hw)} if with_latency else cost


def latency(model: nn.Module, size_hw: tuple[int, int]) -> dict[str, float]:
    """Return the median time of one forward pass, ms, on the GPU if there is one, by the name of the device."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    network, image = WithMetas(model, size_hw).to(device).eval(), torch.rand(1, 3, *size_hw, device=device)
    times = []
    with torch.no_grad():
        for _ in range(WARM_UP + PASSES):
            start = time.perf_counter()
            network(image)
            if device == 'cuda':
                torch.cuda.synchronize()
            times.append(1000 * (time.perf_counter() - start))
    return {f'latency on {device} (ms)': statistics.median(times[WARM_UP:])}


if __name__ == '__main__':
    main()
