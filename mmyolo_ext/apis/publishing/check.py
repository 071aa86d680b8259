"""Does a published file give what its source gives?"""

from typing import NamedTuple

import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from torch import Tensor, nn

from mmyolo_ext.apis.exporting import first_image
from mmyolo_ext.apis.shortcuts import leaf_datasets
from mmyolo_ext.export import runtime
from mmyolo_ext.export.graph import RawGraph
from mmyolo_ext.export.parity import HALF, largest

# of the largest output: weights rounded to 11 bits, through some sixty layers
SHARE = 0.05


class Difference(NamedTuple):
    """The largest differences on one picture.

    Attributes:
        outputs: of the head's raw outputs.
        largest_output: the largest of them in magnitude.
        boxes_px: of the decoded boxes at all places, px of the input; None for heads of others.
        scores: likewise of their scores.
    """

    outputs: float
    largest_output: float
    boxes_px: float | None = None
    scores: float | None = None

    def within(self, half: bool) -> bool:
        """Whether it is what rounding to half precision explains; without, nothing may differ."""
        if not half:
            return self.outputs == 0
        boxes_hold = self.boxes_px is None or self.boxes_px <= HALF.boxes_px and self.scores <= HALF.scores
        return self.outputs <= SHARE * self.largest_output and boxes_hold

    def __str__(self) -> str:
        boxes = '' if self.boxes_px is None else f'; boxes {self.boxes_px:.2g} px, scores {self.scores:.2g}'
        return f'head outputs {self.outputs:.2g} of up to {self.largest_output:.3g}{boxes}'


@torch.no_grad()
def compare(source: nn.Module, published: nn.Module, batch: Tensor) -> Difference:
    """Two detectors on one batch (N, 3, H, W), both in eval mode."""
    wanted, got = (head_outputs(model, batch) for model in (source, published))
    outputs = max(largest(a.numpy(), b.numpy()) for a, b in zip(wanted, got, strict=True))
    largest_output = max(float(output.abs().max()) for output in wanted)
    try:
        graphs = [RawGraph(model) for model in (source, published)]
    except ValueError:  # a head of mmdet
        return Difference(outputs, largest_output)
    (boxes, scores), (got_boxes, got_scores) = (graph(batch) for graph in graphs)
    return Difference(
        outputs, largest_output, largest(boxes.numpy(), got_boxes.numpy()), largest(scores.numpy(), got_scores.numpy())
    )


def head_outputs(model: nn.Module, batch: Tensor) -> list[Tensor]:
    """Every tensor that the dense head gives; of a detector with none, the maps of its neck."""
    outputs = model.extract_feat(batch)
    head = getattr(model, 'rpn_head', None) or getattr(model, 'bbox_head', None)
    # the heads of transformers do not take maps
    if head is not None and not hasattr(model, 'encoder'):
        outputs = head(outputs)
    return list(_tensors(outputs))


def one_batch(cfg: Config, model: nn.Module) -> tuple[Tensor, str]:
    """The first picture of the config's test data as the network takes it, and its name; noise if it is not there."""
    steps = next(leaf_datasets(cfg.test_dataloader.dataset)).pipeline
    steps = [step for step in steps if 'LoadAnnotations' not in str(step['type'])]
    try:
        path = first_image(cfg)
        image, name = runtime.read_image(path), path.rpartition('/')[2]
    except ValueError:
        image, name = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8), 'noise'
    sample = Compose([{'type': 'mmdet.LoadImageFromNDArray'}, *steps[1:]])({'img': image, 'img_id': 0})
    batch = {'inputs': [sample['inputs']], 'data_samples': [sample['data_samples']]}
    return model.data_preprocessor(batch)['inputs'], name


def _tensors(outputs: object) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    parts = outputs.values() if isinstance(outputs, dict) else outputs
    return [tensor for part in parts if part is not None for tensor in _tensors(part)]
