"""Results of mmcv's ops on small inputs, whoever supplies the ops.

``python tests/ops/golden_ops.py`` writes tests/data/compiled_ops.json; run it where mmcv has its compiled ops. The
tests compare with that file what comes out with ours.

No two boxes of a case have the same score: the compiled NMS leaves the order of equal scores to ``Tensor.sort``, whose
choice depends on the processor. ``benchmarks/compiled_ops.py`` compares those, both sides on one machine.
"""

import hashlib
import json
from pathlib import Path

import mmcv.ops
import numpy as np
import torch
from op_cases import KINDS, nms_case, rois

GOLDEN = Path(__file__).parents[1] / 'data' / 'compiled_ops.json'
NMS_SEEDS = range(200)
SOFT_NMS_SEEDS = [seed for seed in range(60) if KINDS[seed % len(KINDS)] not in ('many', 'classes', 'nonfinite')]


def collect() -> dict:
    return {
        'nms': [_digest(nms_indices(_ranked(seed))) for seed in NMS_SEEDS],
        'nms_in_full': nms_indices(_ranked(KINDS.index('ties'))),
        'nms_match': [_digest(sum(_nms_match(_ranked(seed)), [])) for seed in range(50)],
        'soft_nms': {method: [_soft_nms(seed, method) for seed in SOFT_NMS_SEEDS] for method in SOFT_NMS},
        'roi_align': [_roi_align(ratio, aligned) for ratio, aligned in ROI_ALIGN],
        'deform_conv': _deform_conv(masked=False),
        'modulated_deform_conv': _deform_conv(masked=True),
        'deform_conv_border': [_border(offset_yx, masked) for offset_yx in BORDER for masked in (False, True)],
    }


SOFT_NMS = ('naive', 'linear', 'gaussian')
ROI_ALIGN = [(ratio, aligned) for ratio in (0, 2) for aligned in (False, True)]

# with these offsets, some or all taps at the border read at exactly -1, or at the size of the map
BORDER = ((0, 0), (0, 0.5), (-1, 0), (0.5, -1), (-2, 1), (1, 1), (-0.5, 0.25))


def _ranked(seed: int) -> dict:
    case = nms_case(seed)
    ranks = np.argsort(np.argsort(case['scores'], kind='stable'), kind='stable')
    return {**case, 'scores': ((ranks + 1) / (len(ranks) + 1)).astype(np.float32)}


def nms_indices(case: dict) -> list[int]:
    arguments = {key: case[key] for key in ('iou_threshold', 'offset', 'score_threshold', 'max_num')}
    boxes, scores = torch.from_numpy(case['boxes']), torch.from_numpy(case['scores'])
    if case['classes'] is None:
        return mmcv.ops.nms(boxes, scores, **arguments)[1].tolist()
    classes = torch.from_numpy(case['classes'])
    return mmcv.ops.batched_nms(boxes, scores, classes, {'type': 'nms', **arguments})[1].tolist()


def _nms_match(case: dict) -> list[list[int]]:
    dets = torch.from_numpy(np.hstack([case['boxes'], case['scores'][:, None]]))
    return [group.tolist() for group in mmcv.ops.nms_match(dets, case['iou_threshold'])]


def _soft_nms(seed: int, method: str) -> dict:
    case = nms_case(seed)
    boxes, scores = torch.from_numpy(case['boxes']), torch.from_numpy(case['scores'])
    dets, indices = mmcv.ops.soft_nms(
        boxes, scores, case['iou_threshold'], min_score=0.01, method=method, offset=case['offset']
    )
    return {'indices': _digest(indices.tolist()), 'scores': _numbers(dets[:5, 4])}


def _roi_align(ratio: int, aligned: bool) -> dict:
    rng = np.random.RandomState(7)
    features = torch.from_numpy(rng.rand(2, 2, 5, 6).astype(np.float32)).requires_grad_()
    regions = torch.from_numpy(rois(rng, 6, 2, 20, 24))
    output = mmcv.ops.RoIAlign((2, 3), 0.25, ratio, 'avg', aligned=aligned)(features, regions)
    output.mul(_ramp(output)).sum().backward()
    return {'output': _numbers(output), 'gradient': _numbers(features.grad)}


def _deform_conv(masked: bool) -> dict:
    rng = np.random.RandomState(8)
    shapes = {'maps': (1, 4, 5, 4), 'weight': (2, 2, 3, 3), 'offset': (1, 36, 5, 4), 'mask': (1, 18, 5, 4)}
    inputs = {
        name: torch.from_numpy((rng.rand(*shape) * 4 - 2).astype(np.float32)).requires_grad_()
        for name, shape in shapes.items()
    }
    maps, weight, offset, mask = inputs.values()
    if masked:
        output = mmcv.ops.modulated_deform_conv2d(maps, offset, mask, weight, None, 1, 1, 1, 2, 2)
    else:
        output = mmcv.ops.deform_conv2d(maps, offset, weight, 1, 1, 1, 2, 2)
        del inputs['mask']
    output.mul(_ramp(output)).sum().backward()
    return {'output': _numbers(output), **{name: _numbers(tensor.grad) for name, tensor in inputs.items()}}


def _border(offset_yx: tuple[float, float], masked: bool) -> dict:
    rng = np.random.RandomState(9)
    maps, weight = (
        torch.from_numpy(rng.rand(*shape).astype(np.float32)).requires_grad_()
        for shape in ((1, 1, 3, 4), (1, 1, 3, 3))
    )
    offset = torch.tensor(offset_yx, dtype=torch.float32).view(1, 2, 1, 1).repeat(1, 9, 3, 4).requires_grad_()
    inputs = {'maps': maps, 'weight': weight, 'offset': offset}
    if masked:
        inputs['mask'] = torch.ones(1, 9, 3, 4, requires_grad=True)
        output = mmcv.ops.modulated_deform_conv2d(maps, offset, inputs['mask'], weight, None, 1, 1, 1, 1, 1)
    else:
        output = mmcv.ops.deform_conv2d(maps, offset, weight, 1, 1, 1, 1, 1)
    output.mul(_ramp(output)).sum().backward()
    return {'output': _numbers(output), **{name: _numbers(tensor.grad) for name, tensor in inputs.items()}}


def _ramp(output: torch.Tensor) -> torch.Tensor:
    return torch.linspace(-1, 1, output.numel()).view_as(output)


def _digest(indices: list[int]) -> list:
    """Length and the start of the SHA-1 of the numbers as text."""
    return [len(indices), hashlib.sha1(' '.join(map(str, indices)).encode()).hexdigest()[:12]]


def _numbers(tensor: torch.Tensor) -> list[float]:
    return [float(f'{value:.7g}') for value in tensor.detach().flatten().tolist()]


if __name__ == '__main__':
    GOLDEN.write_text(json.dumps(collect(), separators=(',', ':')) + '\n', encoding='utf-8')
