"""Time class-wise non-maximum suppression: ours and other implementations, on 1,000 to 30,000 boxes.

Ours is plain PyTorch and NumPy, for installations without mmcv's compiled ops. Beside it: OpenCV's; torchvision's and
mmcv's compiled ones, where they are; and the definition, one box after the other, in PyTorch::

    OMP_NUM_THREADS=1 python benchmarks/nms.py [--repeats 7] [--only 30000]

Prints one JSON line. Exits with 1 if ours keeps other boxes than mmcv's compiled one or than the definition, or, where
classes are many, takes over three times as long as mmcv's.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import torch
from machine import measure, report
from torch import Tensor

from mmyolo_ext.ops import ops_status
from mmyolo_ext.ops.sampling import torchvision_ops

# after ours, which stands in for the compiled ops where there are none
import mmcv.ops  # isort: skip
from compiled_ops import ours  # isort: skip
from op_cases import crowded_boxes  # isort: skip

COUNTS, CLASSES, THRESHOLD, BOUND = (1000, 10_000, 30_000), 80, 0.65, 3.0
# which takes minutes on more
DEFINITION, MOST_FOR_DEFINITION = 'definition in torch', 10_000
Suppress = Callable[[Tensor, Tensor, Tensor], Tensor]


def cases() -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """Name, boxes (N, 4) xyxy px, scores (N,) and classes (N,): crowds of boxes around objects, and boxes anywhere."""
    rng = np.random.RandomState(0)
    for count in COUNTS:
        corner = rng.rand(count, 2) * 640
        scenes = {f'{objects} objects': crowded_boxes(rng, count, objects) for objects in (20, 200, 2000)}
        scenes['spread evenly'] = np.hstack([corner, corner + rng.rand(count, 2) * 100])
        scores = torch.from_numpy(rng.rand(count).astype(np.float32))
        spreads = {'classes skewed': rng.rand(count) ** 4 * CLASSES, 'one class': np.zeros(count)}
        for scene, boxes in scenes.items():
            for spread, classes in spreads.items():
                name = f'{count} boxes, {scene}, {spread}'
                yield name, torch.from_numpy(boxes.astype(np.float32)), scores, torch.from_numpy(classes.astype(int))


def by_mmcv(boxes: Tensor, scores: Tensor, classes: Tensor) -> Tensor:
    """As our heads call it: mmcv's Python, with the compiled op or with ours."""
    config = {'type': 'nms', 'iou_threshold': THRESHOLD, 'split_thr': 10**9}
    return mmcv.ops.batched_nms(boxes, scores, classes, config)[1]


def by_ours(boxes: Tensor, scores: Tensor, classes: Tensor) -> Tensor:
    with ours('nms'):
        return by_mmcv(boxes, scores, classes)


def by_torchvision(boxes: Tensor, scores: Tensor, classes: Tensor) -> Tensor:
    return importlib.import_module('torchvision').ops.batched_nms(boxes, scores, classes, THRESHOLD)


def by_opencv(boxes: Tensor, scores: Tensor, classes: Tensor) -> Tensor:
    xywh = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).double().numpy()
    kept = cv2.dnn.NMSBoxesBatched(xywh, scores.numpy(), classes.int().numpy(), 0.0, THRESHOLD)
    return torch.from_numpy(np.asarray(kept).astype(int))


def by_definition(boxes: Tensor, scores: Tensor, classes: Tensor) -> Tensor:
    """The best box, then the best of those that do not overlap it, and so on."""
    # mmcv's shift, which sets the classes apart
    boxes = boxes + (classes.to(boxes) * (boxes.max() + 1))[:, None]
    order, kept = scores.argsort(descending=True), []
    boxes, alive = boxes[order], torch.arange(len(order))
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    while len(alive):
        best, rest = alive[0], alive[1:]
        kept.append(best)
        start, end = torch.maximum(boxes[best, :2], boxes[rest, :2]), torch.minimum(boxes[best, 2:], boxes[rest, 2:])
        common = (end - start).clamp(min=0).prod(1)
        alive = rest[common / (area[best] + area[rest] - common) <= THRESHOLD]
    return order[torch.stack(kept)]


def contestants() -> dict[str, Suppress]:
    """Those that are installed."""
    found: dict[str, Suppress] = {'ours': by_ours, 'opencv': by_opencv, DEFINITION: by_definition}
    if ops_status() == 'compiled':
        found['mmcv compiled'] = by_mmcv
    if torchvision_ops(torch.device('cpu')) is not None:
        found['torchvision'] = by_torchvision
    return found


def race(suppress: dict[str, Suppress], boxes: Tensor, scores: Tensor, classes: Tensor, repeats: int) -> dict:
    """Times of all on one case, and how many boxes each keeps that ours does not, or the reverse."""
    line, kept = {}, set(suppress['ours'](boxes, scores, classes).tolist())
    for who, call in suppress.items():
        if who == DEFINITION and len(boxes) > MOST_FOR_DEFINITION:
            continue
        otherwise = kept ^ set(call(boxes, scores, classes).tolist())
        times = measure(lambda call=call: call(boxes, scores, classes), repeats, warmup=0)
        line[who] = {**times, 'kept_otherwise': len(otherwise)}
    return {'kept': len(kept), **line}


def passed(name: str, line: dict) -> bool:
    """Whether ours keeps what the definition keeps, and is not much slower than what is compiled."""
    compiled = line.get('mmcv compiled')
    in_time = not compiled or 'one class' in name or line['ours']['median_ms'] <= BOUND * compiled['median_ms']
    same = [line[who]['kept_otherwise'] == 0 for who in (DEFINITION, 'mmcv compiled') if who in line]
    return in_time and all(same)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--repeats', type=int, default=7, help='timed runs of each, after one to warm up')
    parser.add_argument('--only', default='', help='take the cases alone whose name has this text')
    options = parser.parse_args()
    suppress, figures = contestants(), {}
    for name, boxes, scores, classes in cases():
        if options.only in name:
            line = race(suppress, boxes, scores, classes, options.repeats)
            figures[name] = {**line, 'passed': passed(name, line)}
    report('nms', figures)
    return 0 if all(line['passed'] for line in figures.values()) else 1


if __name__ == '__main__':
    sys.exit(main())
