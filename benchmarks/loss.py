"""Time assignment and losses, forward and backward, from the maps of a head to their gradients.

By default for 16 images of 640 x 640 px, 80 classes and 120 boxes in all, without the 1x1 convolutions. Times are in
milliseconds and in matrix products (float32, 1024 x 1024, two threads) measured in the same minute::

    OMP_NUM_THREADS=2 python benchmarks/loss.py [--device cuda] [--images 1 16] [--repeats 15]

Freed memory is kept, as in the command-line tools: else most of the time would go into the 137 MB of the gradient,
which Linux would map anew page by page in each step. The result shows whether it was kept.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from machine import calibrate, measure, report
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn

import mmyolo_ext  # noqa: F401
from mmyolo_ext.cli.common import keep_freed_memory
from mmyolo_ext.models.heads import YOLOv3Head, YOLOv5Head

HEADS = {'YOLOv5Head': YOLOv5Head, 'YOLOv3Head': YOLOv3Head}
# (head, dtype of the maps, channels-last)
CASES = {
    'yolov5': ('YOLOv5Head', torch.float32, False),
    'yolov5 channels-last': ('YOLOv5Head', torch.float32, True),
    'yolov5 bfloat16': ('YOLOv5Head', torch.bfloat16, False),
    'yolov5 bfloat16 channels-last': ('YOLOv5Head', torch.bfloat16, True),
    'yolov5 float16 channels-last': ('YOLOv5Head', torch.float16, True),
    'yolov3': ('YOLOv3Head', torch.float32, False),
    'yolov3 channels-last': ('YOLOv3Head', torch.float32, True),
}
BOXES_PER_IMAGE = 7.5


def without_convolutions(kind: str, num_classes: int) -> nn.Module:
    """Return a head that takes the maps themselves instead of features."""
    head = HEADS[kind](num_classes=num_classes, in_channels=[8, 8, 8])
    head.convs_pred = nn.ModuleList(nn.Identity() for _ in head.convs_pred)
    return head.train()


def truth(images: int, size: int, num_classes: int, boxes: int, device: str) -> list[DetDataSample]:
    """Return boxes with sides from 1% to 60% of the image, at random places of random images."""
    rng = np.random.RandomState(0)
    image = rng.randint(0, images, boxes)
    side, center = rng.uniform(0.01, 0.6, (boxes, 2)), rng.uniform(0, 1, (boxes, 2))
    xyxy = torch.from_numpy(np.hstack([center - side / 2, center + side / 2]) * size).float().to(device)
    labels = torch.from_numpy(rng.randint(0, num_classes, boxes)).to(device)
    samples = []
    for index in range(images):
        mine = torch.from_numpy(np.flatnonzero(image == index)).to(device)
        sample = DetDataSample(metainfo={'batch_input_shape': (size, size), 'img_shape': (size, size)})
        sample.gt_instances = InstanceData(bboxes=xyxy[mine].clamp(0, size), labels=labels[mine])
        samples.append(sample)
    return samples


def raw_maps(head: nn.Module, images: int, size: int, dtype: torch.dtype, channels_last: bool) -> list[Tensor]:
    """Return normally distributed maps that require gradients."""
    generator = torch.Generator().manual_seed(0)
    channels = head.num_anchors * (5 + head.num_classes)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    device = head.anchors_wh.device
    return [
        torch.randn(images, channels, size // stride, size // stride, generator=generator)
        .to(device=device, dtype=dtype, memory_format=layout)
        .requires_grad_()
        for stride in head.strides
    ]


def step(head: nn.Module, maps: list[Tensor], samples: list[DetDataSample]) -> Callable[[], Any]:
    """Return a call that assigns, computes the losses and the gradients of the maps."""
    return lambda: torch.autograd.grad(sum(head.loss(maps, samples).values()), maps)


def positives(head: nn.Module, maps: list[Tensor], samples: list[DetDataSample]) -> int:
    """Return the number of predictions that are positives: their box channels get a gradient."""
    gradients = step(head, maps, samples)()
    return sum(
        int((grad.unflatten(1, (head.num_anchors, -1))[:, :, :4] != 0).any(2).sum().item()) for grad in gradients
    )


def in_matmuls(call: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Return the time in milliseconds and in matrix products measured just before and after."""
    before = calibrate()
    times = measure(call, repeats, warmup=2)
    matmul_ms = (before['matmul_ms'] + calibrate()['matmul_ms']) / 2
    return {**times, 'matmul_ms': matmul_ms, 'matmuls': round(times['median_ms'] / matmul_ms, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', choices=('auto', 'cpu', 'cuda'), default='auto')
    parser.add_argument('--images', type=int, nargs='+', default=[16], help='images per batch, with 7.5 boxes each')
    parser.add_argument('--size', type=int, default=640, help='side of the images, px')
    parser.add_argument('--classes', type=int, default=80)
    parser.add_argument('--repeats', type=int, default=15)
    parser.add_argument('--only', default='', help='only cases whose name contains this text')
    options = parser.parse_args()
    if options.device == 'auto':
        options.device = 'cuda' if torch.cuda.is_available() else 'cpu'
    figures, memory_kept = {}, keep_freed_memory()
    for images in options.images:
        boxes = round(images * BOXES_PER_IMAGE)
        samples = truth(images, options.size, options.classes, boxes, options.device)
        for name, (kind, dtype, channels_last) in CASES.items():
            if options.only not in name or (dtype == torch.float16 and options.device == 'cpu'):
                continue
            head = without_convolutions(kind, options.classes).to(options.device)
            maps = raw_maps(head, images, options.size, dtype, channels_last)
            case = {'images': images, 'boxes': boxes, 'positives': positives(head, maps, samples)}
            figures[f'{name}, batch {images}'] = {**case, **in_matmuls(step(head, maps, samples), options.repeats)}
    about = {name: getattr(options, name) for name in ('device', 'size', 'classes')}
    report('loss', {**about, 'memory_kept': memory_kept, 'cases': figures})


if __name__ == '__main__':
    main()
