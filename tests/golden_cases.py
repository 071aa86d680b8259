"""The cases of ``data/losses.json``: their inputs, rebuilt from the recipe, and what the original losses gave."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmyolo_ext.boxes import cxcywh_to_xyxy

LOSSES_FILE = Path(__file__).parent / 'data' / 'losses.json'
_CONTENT = json.loads(LOSSES_FILE.read_text(encoding='utf-8'))
ANCHORS_PX: list[list[list[float]]] = _CONTENT['anchors_px']
CASES: dict[str, dict[str, Any]] = {case['name']: case for case in _CONTENT['cases']}
DEFAULT_STRIDES = (8, 16, 32)
RELATIVE = 1e-4
# channels of a level's gradient, by the suffix of their norms' name
PARTS = {'': slice(None), '_box': slice(0, 4), '_obj': slice(4, 5), '_cls': slice(5, None)}


class GoldenInputs(NamedTuple):
    """Inputs of one case. Letters: N images, A anchors, C classes, G boxes."""

    predictions: list[Tensor]  # of each level (N, A, H, W, 5 + C), raw
    image: Tensor  # (G,) long
    labels: Tensor  # (G,) long
    boxes_cxcywh: Tensor  # (G, 4) px
    size_hw: tuple[int, int]


def golden_inputs(case: dict[str, Any]) -> GoldenInputs:
    """Draw the inputs in the order that the recipe names."""
    rng = np.random.RandomState(case['seed'])
    height, width = case['hw']
    predictions = [
        rng.standard_normal((case['batch'], 3, height // stride, width // stride, 5 + case['nc'])).astype(np.float32)
        for stride in case.get('strides', DEFAULT_STRIDES)
    ]
    table = _boxes(case, rng)
    to_px = np.array([width, height, width, height], dtype=np.float32)
    return GoldenInputs(
        predictions=[torch.from_numpy(level) for level in predictions],
        image=torch.from_numpy(table[:, 0]).long(),
        labels=torch.from_numpy(table[:, 1]).long(),
        boxes_cxcywh=torch.from_numpy(table[:, 2:] * to_px),
        size_hw=(height, width),
    )


def run_loss(head: nn.Module, inputs: GoldenInputs) -> dict[str, Tensor]:
    """The losses of one of our heads."""
    # (N, A, H, W, 5+C) -> (N, A*(5+C), H, W)
    pred_maps = [level.permute(0, 1, 4, 2, 3).flatten(1, 2) for level in inputs.predictions]
    boxes_xyxy = cxcywh_to_xyxy(inputs.boxes_cxcywh)
    instances = [
        InstanceData(bboxes=boxes_xyxy[inputs.image == index], labels=inputs.labels[inputs.image == index])
        for index in range(len(pred_maps[0]))
    ]
    return head.loss_by_feat(pred_maps, instances, [{'batch_input_shape': inputs.size_hw}] * len(instances))


def assert_golden(losses: dict[str, Tensor], inputs: GoldenInputs, expected: dict[str, Any], factor: float) -> None:
    """Compare losses that are ``factor`` times those of the file, their total and its gradients by level and part."""
    total = sum(losses[f'loss_{term}'] for term in ('cls', 'bbox', 'obj'))
    gradients = torch.autograd.grad(total, inputs.predictions)
    approx = lambda value: pytest.approx(value, rel=RELATIVE, abs=1e-9)  # noqa: E731
    assert total.item() == approx(expected['total'])
    for name, term in {'loss_bbox': 'box', 'loss_obj': 'obj', 'loss_cls': 'cls'}.items():
        assert losses[name].item() / factor == approx(expected[term]), name
    for suffix, channels in PARTS.items():
        norms = [gradient[..., channels].norm().item() for gradient in gradients]
        assert norms == approx(expected[f'grad_l2{suffix}']), suffix


def assert_positives(head: nn.Module, inputs: GoldenInputs, expected_levels: list) -> None:
    """Compare what the head's assigner finds: place, label and target box of each positive, in any order."""
    height, width = inputs.size_hw
    grid_sizes = [(height // stride, width // stride) for stride in head.strides]
    levels = head.assigner.assign(inputs.boxes_cxcywh, inputs.image, head.anchors_wh, head.strides, grid_sizes)
    for positives, stride, expected in zip(levels, head.strides, expected_levels, strict=True):
        target = inputs.boxes_cxcywh[positives.gt] / stride
        target[:, :2] -= torch.stack([positives.cell_x, positives.cell_y], dim=1)
        where = torch.stack(
            [positives.image, positives.anchor, positives.cell_y, positives.cell_x, inputs.labels[positives.gt]], dim=1
        )
        rows = sorted(torch.cat([where, target], dim=1).tolist())
        assert [row[:5] for row in rows] == [row[:5] for row in expected]
        for row, expected_row in zip(rows, expected, strict=True):
            assert row[5:] == pytest.approx(expected_row[5:], abs=1e-4)


def _boxes(case: dict[str, Any], rng: np.random.RandomState) -> np.ndarray:
    """Rows (image, class, cx, cy, w, h), the last four as shares of the image."""
    if 'raw' in case:
        return np.array(case['raw'], dtype=np.float32).reshape(-1, 6)
    count = case['nt']
    table = np.zeros((count, 6))
    if count:
        images = [index for index in range(case['batch']) if index not in case.get('empty', [])]
        table[:, 0] = rng.choice(images, count)
        table[:, 1] = rng.randint(0, case['nc'], count)
        table[:, 4:6] = rng.uniform(0.01, 0.6, (count, 2))
        table[:, 2:4] = rng.uniform(0, 1, (count, 2)).clip(0.001, 0.999)
    return table[np.argsort(table[:, 0], kind='stable')].astype(np.float32)
