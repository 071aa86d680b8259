"""The cases of ``data/losses.json``: their inputs, rebuilt from the recipe, and what the original losses gave."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

LOSSES_FILE = Path(__file__).parent / 'data' / 'losses.json'
_CONTENT = json.loads(LOSSES_FILE.read_text(encoding='utf-8'))
ANCHORS_PX: list[list[list[float]]] = _CONTENT['anchors_px']
CASES: dict[str, dict[str, Any]] = {case['name']: case for case in _CONTENT['cases']}
DEFAULT_STRIDES = (8, 16, 32)


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


def _boxes(case: dict[str, Any], rng: np.random.RandomState) -> np.ndarray:
    """Rows (image, class, cx, cy, w, h), the last four as shares of the picture."""
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
