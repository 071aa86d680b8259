"""Compare the results of our versions of mmcv's ops with those of the compiled ops.

Run it where mmcv has its compiled ops, from anywhere; ``nms.py`` beside it takes the times::

    python benchmarks/compiled_ops.py [--cases 1000]

Prints one JSON line per op and exits with 1 if a result differs by more than its bound. mmcv's own Python functions
are called twice, with the compiled module and with ours in its place, so that arguments and buffers are the real ones.
"""

import argparse
import contextlib
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'tests' / 'ops')]

import mmcv.ops  # noqa: E402
from op_cases import KINDS, nms_case, rois  # noqa: E402

from mmyolo_ext.ops import SuppliedOps, ops_status  # noqa: E402

OURS = SuppliedOps('ours')
EXACT, ROUNDING = 0.0, 2e-5


@contextlib.contextmanager
def ours(module_name: str) -> Iterator[None]:
    """Our ops in one module of mmcv.ops."""
    module = importlib.import_module(f'mmcv.ops.{module_name}')
    compiled, module.ext_module = module.ext_module, OURS
    try:
        yield
    finally:
        module.ext_module = compiled


def require_compiled_ops(parser: argparse.ArgumentParser) -> None:
    if ops_status() != 'compiled':
        parser.error('mmcv has no compiled ops here: install an onedl-mmcv wheel that has them, then run this again')


def both(module_name: str, call: Callable[[], tuple]) -> tuple[tuple, tuple]:
    compiled = call()
    with ours(module_name):
        return compiled, call()


def difference(compiled: torch.Tensor, supplied: torch.Tensor) -> float:
    """Largest difference, relative to the largest value where that is above 1; inf where shapes or NaNs differ."""
    if compiled.shape != supplied.shape:
        return float('inf')
    if not compiled.numel():
        return 0.0
    if not torch.equal(compiled.isnan(), supplied.isnan()):
        return float('inf')
    compiled, supplied = (tensor.detach().double().nan_to_num() for tensor in (compiled, supplied))
    return float((compiled - supplied).abs().max() / compiled.abs().max().clamp(min=1))


def report(op: str, bound: float, differences: list[float], **more: object) -> bool:
    worst = max(differences)
    passed = worst <= bound
    print(json.dumps({'op': op, 'cases': len(differences), 'worst': worst, 'bound': bound, 'passed': passed, **more}))
    return passed


def run_nms(case: dict) -> tuple[torch.Tensor, torch.Tensor]:
    arguments = {key: case[key] for key in ('iou_threshold', 'offset', 'score_threshold', 'max_num')}
    boxes, scores = torch.from_numpy(case['boxes']), torch.from_numpy(case['scores'])
    if case['classes'] is None:
        return mmcv.ops.nms(boxes, scores, **arguments)
    classes = torch.from_numpy(case['classes'])
    return mmcv.ops.batched_nms(boxes, scores, classes, {'type': 'nms', **arguments})


def compare_nms(cases: int) -> bool:
    """Indices must be equal in every place."""
    wrong, kept = [], 0
    for seed in range(cases):
        case = nms_case(seed)
        (_, compiled), (_, supplied) = both('nms', lambda case=case: run_nms(case))
        wrong.append(0.0 if torch.equal(compiled, supplied) else 1.0)
        kept += len(compiled)
    return report('nms', EXACT, wrong, kinds=KINDS, kept=kept, different=int(sum(wrong)))


def compare_soft_nms(cases: int) -> bool:
    passed = True
    for method in ('naive', 'linear', 'gaussian'):
        worst, wrong = [], 0
        for seed in range(cases):
            case = nms_case(seed)
            if KINDS[seed % len(KINDS)] in ('many', 'nonfinite'):
                continue
            boxes, scores = torch.from_numpy(case['boxes']), torch.from_numpy(case['scores'])
            options = {'method': method, 'iou_threshold': case['iou_threshold'], 'offset': case['offset']}
            (dets, index), (our_dets, our_index) = both(
                'nms', lambda b=boxes, s=scores, o=options: mmcv.ops.soft_nms(b, s, min_score=0.01, **o)
            )
            same = torch.equal(index, our_index)
            wrong += not same
            worst.append(difference(dets, our_dets) if same else float('inf'))
        passed &= report(f'soft_nms {method}', 1e-6, worst, different=wrong)
    return passed


def compare_nms_match(cases: int) -> bool:
    wrong = []
    for seed in range(cases):
        case = nms_case(seed)
        dets = torch.from_numpy(np.hstack([case['boxes'], case['scores'][:, None]]))
        compiled, supplied = both('nms', lambda d=dets, c=case: mmcv.ops.nms_match(d, c['iou_threshold']))
        wrong.append(float([group.tolist() for group in compiled] != [group.tolist() for group in supplied]))
    return report('nms_match', EXACT, wrong)


def compare_roi_align(cases: int) -> bool:
    forward, backward = [], []
    for seed in range(cases):
        rng = np.random.RandomState(seed)
        features = torch.from_numpy(rng.randn(2, 3, 17, 23).astype(np.float32)).requires_grad_()
        regions = torch.from_numpy(rois(rng, 20, 2, 17 * 8, 23 * 8))
        call = mmcv.ops.RoIAlign((7, 5), 1 / 8, seed % 3, 'avg', aligned=bool(seed % 2))
        runs = both('roi_align', lambda c=call, f=features, r=regions: _with_gradients(c(f, r), (f,)))
        forward.append(difference(runs[0][0], runs[1][0]))
        backward.append(difference(runs[0][1], runs[1][1]))
    passed = report('roi_align forward', ROUNDING, forward)
    return report('roi_align backward', ROUNDING, backward) and passed


def compare_deform_conv(cases: int) -> bool:
    worst: dict[str, list[float]] = {'deform_conv': [], 'modulated_deform_conv': []}
    for seed in range(cases):
        rng = np.random.RandomState(seed)
        groups, offset_groups, stride = 1 + seed % 2, (1, 2, 4)[seed % 3], 1 + seed % 2
        shapes = [(2, 8, 9, 11), (6, 8 // groups, 3, 3)]
        out = ((9 + 2 - 3) // stride + 1, (11 + 2 - 3) // stride + 1)
        shapes += [(2, offset_groups * 18, *out), (2, offset_groups * 9, *out)]
        tensors = [torch.from_numpy(rng.randn(*shape).astype(np.float32)).requires_grad_() for shape in shapes]
        maps, weight, offset, mask = tensors
        v1 = (maps, offset, weight, stride, 1, 1, groups, offset_groups)
        v2 = (maps, offset, mask, weight, None, stride, 1, 1, groups, offset_groups)
        for name, call, inputs in (
            ('deform_conv', lambda a=v1: mmcv.ops.deform_conv2d(*a), (maps, offset, weight)),
            ('modulated_deform_conv', lambda a=v2: mmcv.ops.modulated_deform_conv2d(*a), tensors),
        ):
            runs = both(name, lambda c=call, i=inputs: _with_gradients(c(), i))
            worst[name] += [difference(a, b) for a, b in zip(*runs, strict=True)]
    passed = [report(f'{name} forward, backward', ROUNDING, values) for name, values in worst.items()]
    return all(passed)


def compare_focal_loss(cases: int) -> bool:
    """mmcv has no compiled CPU form: against the definition in float64, its gradient by autograd."""
    forward, backward = [], []
    for seed in range(cases):
        rng = np.random.RandomState(seed)
        logits = torch.from_numpy(rng.randn(40, 7).astype(np.float32) * 5).requires_grad_()
        target = torch.from_numpy(rng.randint(8, size=40))
        gamma, alpha = (2.0, 0.25) if seed % 2 else (1.5, 0.6)
        with ours('focal_loss'):
            run = _with_gradients(mmcv.ops.sigmoid_focal_loss(logits, target, gamma, alpha, None, 'none'), (logits,))
        exact = logits.detach().double().requires_grad_()
        one_hot = torch.nn.functional.one_hot(target, 8)[:, :7].double()
        p_t = (exact * (2 * one_hot - 1)).sigmoid()
        loss = -(alpha * one_hot + (1 - alpha) * (1 - one_hot)) * (1 - p_t) ** gamma * p_t.log()
        reference = _with_gradients(loss, (exact,))
        forward.append(difference(reference[0], run[0]))
        backward.append(difference(reference[1], run[1]))
    passed = report('sigmoid_focal_loss forward, against the definition', ROUNDING, forward)
    return report('sigmoid_focal_loss backward, against the definition', ROUNDING, backward) and passed


def _with_gradients(output: torch.Tensor, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    upstream = torch.arange(output.numel(), dtype=output.dtype).view_as(output).sin()
    return output, *torch.autograd.grad(output, inputs, upstream)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--cases', type=int, default=1000, help='random cases of NMS; the other ops take a fifth')
    options = parser.parse_args()
    require_compiled_ops(parser)
    few = max(1, options.cases // 5)
    passed = [compare_nms(options.cases), compare_soft_nms(few), compare_nms_match(few)]
    passed += [compare_roi_align(few), compare_deform_conv(few), compare_focal_loss(few)]
    return 0 if all(passed) else 1


if __name__ == '__main__':
    sys.exit(main())
