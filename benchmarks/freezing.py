"""Time a training step with parts of the detector frozen: forward, losses, backward, optimizer.

On noise images with 10 boxes each::

    OMP_NUM_THREADS=2 python benchmarks/freezing.py [--config CONFIG] [--size 320] [--batch 16] [--device cuda]
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from machine import calibrate, measure, report
from mmdet.structures import DetDataSample
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData

from mmyolo_ext.apis import load_config

CONFIG = Path(__file__).parents[1] / 'configs/yolov5/yolov5_n_320_bccd.py'
FROZEN = {
    'nothing': (),
    'stem and first stage': ('backbone.layers.[01]',),
    'backbone': ('backbone',),
    'backbone and neck': ('backbone', 'neck'),
}
BOXES = 10


def step_with(frozen_parts: tuple[str, ...], args: argparse.Namespace) -> Callable[[], object]:
    """A training step of the config's detector, its tensors laid out by pixel as in training."""
    # a rate at which noise does not make the weights diverge, for arithmetic on tiny or infinite numbers is slow
    options = {'model.frozen_parts': list(frozen_parts), 'optim_wrapper.optimizer.lr': 1e-7}
    cfg = load_config(args.config, {**options, 'input_size': args.size})
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).to(args.device, memory_format=torch.channels_last).train()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    images = torch.rand(args.batch, 3, args.size, args.size, device=args.device)
    images = images.contiguous(memory_format=torch.channels_last)
    samples = [sample(args.size, model.bbox_head.num_classes, args.device) for _ in range(args.batch)]

    def step() -> None:
        losses = model(images, samples, mode='loss')
        wrapper.update_params(model.parse_losses(losses)[0])

    return step


def sample(size: int, num_classes: int, device: str) -> DetDataSample:
    """Boxes of sides from 5% to 40% of the image."""
    corner, side = torch.rand(BOXES, 2) * 0.6, 0.05 + torch.rand(BOXES, 2) * 0.35
    truth = DetDataSample(metainfo={'batch_input_shape': (size, size), 'img_shape': (size, size)})
    truth.gt_instances = InstanceData(
        bboxes=(torch.cat([corner, corner + side], 1) * size).to(device),
        labels=torch.randint(num_classes, (BOXES,), device=device),
    )
    return truth


def main() -> None:
    parser = argparse.ArgumentParser(description='Time a training step with parts frozen')
    parser.add_argument('--config', default=CONFIG)
    parser.add_argument('--size', type=int, default=320, help='px, a multiple of the largest stride')
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--repeats', type=int, default=7)
    args = parser.parse_args()
    figures = {what: measure(step_with(parts, args), args.repeats) for what, parts in FROZEN.items()}
    settings = {'config': Path(args.config).stem, 'size': args.size, 'batch': args.batch, 'device': args.device}
    report('freezing', {**settings, 'step_ms': figures}, calibrate())


if __name__ == '__main__':
    main()
