"""Parameters and FLOPs of a detector: ``python tools/flops.py CONFIG --size 640 --size 320``.

The counts are those of one forward pass of one image in eval mode, from pixels to the raw maps of the head, without
decoding and NMS. For two-stage detectors they include the proposals between the stages.

A **MAC** is one multiplication and one addition in a convolution or matrix product; **FLOPs** are 2 x MACs. (mmdet
and mmengine print MACs as FLOPs; YOLOv5's published FLOPs are 2 x MACs.) Other operations are listed below the table:
with their counts where mmengine can count them, else with the number of calls.
"""

import argparse
import json
import warnings
from collections.abc import Iterator, Sequence
from math import ceil

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config, DictAction
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.config_nodes import leaf_datasets, walk
from mmyolo_ext.apis.model_names import config_path
from mmyolo_ext.cli.common import tool

# mmengine's names of products with weights or between maps; it counts elementwise operations as well
PRODUCTS = ('conv', 'addmm', 'bmm', 'einsum', 'matmul', 'mm', 'linear')
PARTS = ('backbone', 'neck', 'head')
# moves of data that mmengine's list of operations without arithmetic leaves out
MOVES = ('aten::unflatten', 'aten::clone', 'aten::alias', 'aten::repeat', 'aten::_unsafe_view')


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Parameters and FLOPs (2 x MACs) of a detector')
    parser.add_argument('config', help='config file, name such as yolov5_n, or mmdet::retinanet/...')
    parser.add_argument(
        '--size',
        nargs='+',
        type=int,
        action='append',
        metavar='PX',
        help='side of a square, or height and width; may be given several times (default: that of the config)',
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='settings that replace those of the config'
    )
    parser.add_argument('--json', action='store_true', help='print one line of JSON instead of the table')
    return parser.parse_args(argv)


@tool
def main(argv: Sequence[str] | None = None) -> None:
    """Print the counts for ``argv``, by default the command line."""
    args = parse_args(argv)
    cfg = load_config(config_path(args.config), args.cfg_options, with_recipe=False)
    sizes_hw = [check_size(size) for size in args.size] if args.size else [size_of(cfg)]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # about deprecated layers and about tracing
        model = build(cfg)
        counts = [{'size_hw': list(size_hw), **count(model, size_hw)} for size_hw in sizes_hw]
    if args.json:
        print(json.dumps({'config': args.config, 'params': parameters(model), 'counts': counts}))
    else:
        print('\n\n'.join(table(parameters(model), counted) for counted in counts))


def check_size(size: list[int]) -> tuple[int, int]:
    """Return (height, width) of one or two numbers."""
    if len(size) > 2 or min(size) < 1:
        raise ValueError(f'--size takes a side or height and width, in px, got {size}; repeat it for another size')
    return size[0], size[-1]


def size_of(cfg: Config) -> tuple[int, int]:
    """Return the (height, width) that the test pipeline of a config resizes to, padded as its preprocessor pads.

    Raises:
        ValueError: The pipeline has no step with a fixed size.
    """
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}
    pipelines = [dataset.get('pipeline', []) for dataset in leaf_datasets(loader)]
    divisor = (cfg.model.get('data_preprocessor') or {}).get('pad_size_divisor', 1)
    for step in walk(pipelines):
        size_hw = step.get('size_hw') or (step.get('scale') or ())[::-1]  # mmdet writes (width, height)
        if len(size_hw) == 2:
            return tuple(ceil(side / divisor) * divisor for side in size_hw)
    raise ValueError('the test pipeline of the config names no size; give --size HEIGHT WIDTH')


def build(cfg: Config) -> nn.Module:
    """Build the detector without a checkpoint: counts do not depend on weights."""
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    return revert_sync_batchnorm(MODELS.build(cfg.model)).eval()


def parameters(model: nn.Module) -> dict[str, int]:
    """Count the parameters of each part and in total; all that is neither backbone nor neck is head."""
    return _split({name: sum(p.numel() for p in part.parameters()) for name, part in _parts(model)})


def count(model: nn.Module, size_hw: tuple[int, int]) -> dict:
    """Count the operations on one image of ``size_hw``.

    Returns:
        ``macs`` and ``flops``: of each part and in total; ``elementwise``: elementwise operations by name;
        ``not_counted``: number of calls, by name, of operations that mmengine cannot count.

    Raises:
        ValueError: The network cannot process images of this size.
    """
    height, width = size_hw
    analyzer = FlopAnalyzer(WithMetas(model, size_hw), torch.rand(1, 3, height, width))
    analyzer.set_op_handle(**dict.fromkeys(MOVES))
    analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings('none')
    try:
        with torch.no_grad():
            by_operator = {name: analyzer.by_operator(f'model.{name}'.rstrip('.')) for name, _ in _parts(model)}
    except RuntimeError as error:
        name = type(model).__name__
        raise ValueError(f'{name} cannot process an image of height {height}, width {width}: {error}') from error
    macs = _split({name: int(sum(ops[op] for op in PRODUCTS)) for name, ops in by_operator.items()})
    all_operators = by_operator['']
    return {
        'macs': macs,
        'flops': {part: 2 * value for part, value in macs.items()},
        'elementwise': {op: int(value) for op, value in sorted(all_operators.items()) if op not in PRODUCTS},
        'not_counted': {op.removeprefix('aten::'): calls for op, calls in sorted(analyzer.unsupported_ops().items())},
    }


class WithMetas(nn.Module):
    """The raw forward pass of a detector as a function of the image alone, with metadata of its size."""

    def __init__(self, model: nn.Module, size_hw: tuple[int, int]) -> None:
        super().__init__()
        from mmdet.structures import DetDataSample  # here, for mmyolo_ext must supply mmcv's ops first

        sizes = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), size_hw)
        self.samples = [DetDataSample(metainfo={**sizes, 'scale_factor': (1.0, 1.0), 'img_id': 0})]
        self.model = model

    def forward(self, image: Tensor) -> object:
        """(1, 3, H, W) -> raw outputs."""
        return self.model(image, self.samples, mode='tensor')


def _parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    yield '', model
    yield from ((name, part) for name, part in model.named_children() if name in PARTS[:2])


def _split(figures: dict[str, int]) -> dict[str, int]:
    """The total under '' and those of some parts -> all parts and ``total``."""
    total = figures['']
    backbone, neck = (figures.get(name, 0) for name in PARTS[:2])
    return dict(zip((*PARTS, 'total'), (backbone, neck, total - backbone - neck, total), strict=True))


def table(params: dict[str, int], counted: dict) -> str:
    """Return the counts of one size as a table."""
    height, width = counted['size_hw']
    lines = [f'input {height} x {width} (height x width)', f'{"":10}{"parameters":>12}{"GMACs":>10}{"GFLOPs":>10}']
    for part in (*PARTS, 'total'):
        macs, flops = (counted[kind][part] / 1e9 for kind in ('macs', 'flops'))
        lines.append(f'{part:10}{params[part]:>12,}{macs:>10.3f}{flops:>10.3f}')
    known = [f'{op} {operations / 1e9:.3f} G' for op, operations in counted['elementwise'].items()]
    unknown = [f'{op} x {calls}' for op, calls in counted['not_counted'].items()]
    lines.append('FLOPs are 2 x MACs of convolutions and matrix products. Not in them:')
    lines.append(f'  operations on single elements: {", ".join(known) or "none"}')
    lines.append(f'  calls without a count: {", ".join(unknown) or "none"}')
    return '\n'.join(lines)


if __name__ == '__main__':
    main()
