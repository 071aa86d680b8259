"""A detector of few channels and ready batches for it, small enough to train in seconds, and one to use untrained."""

from collections.abc import Sequence
from pathlib import Path

import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from mmyolo_ext.registry import MODELS

CLASSES = 3
SIZE = 64


def tiny_detector(head: dict | None = None, frozen_parts: Sequence[str] = ()) -> dict:
    """Config of a YOLOv5 of an eighth of the width."""
    scale = {'deepen_factor': 0.33, 'widen_factor': 0.125}
    return {
        'type': 'mmyolo_ext.YOLODetector',
        'data_preprocessor': {
            'type': 'mmyolo_ext.DataPreprocessor',
            'mean': [0, 0, 0],
            'std': [255, 255, 255],
            'bgr_to_rgb': True,
        },
        'backbone': {'type': 'mmyolo_ext.YOLOv5CSPDarknet', 'arch': 'P5', 'version': 'v6', **scale},
        'neck': {'type': 'mmyolo_ext.YOLOv5PAFPN', 'in_channels': 'auto', 'out_channels': (256, 512, 1024), **scale},
        'bbox_head': {
            'type': 'mmyolo_ext.YOLOv5Head',
            'num_classes': CLASSES,
            'in_channels': 'auto',
            'input_size': SIZE,
            **(head or {}),
        },
        'frozen_parts': frozen_parts,
    }


def save_untrained(cfg: Config, file: Path, classes: Sequence[str]) -> Path:
    """Write a checkpoint of a YOLOv5 with seeded weights, many of whose scores are above the usual thresholds."""
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    for conv in model.bbox_head.convs_pred:
        torch.nn.init.normal_(conv.bias, 0.0, 2.0)
    meta = {'cfg': cfg.pretty_text, 'dataset_meta': {'classes': tuple(classes)}}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, file)
    return file


class NoiseImages(torch.utils.data.Dataset):
    """Images of noise; the i-th has i mod 4 boxes, or none unless it is the last of every ``boxed_every``."""

    def __init__(self, length: int, boxed_every: int = 1) -> None:
        self.length = length
        self.boxed_every = boxed_every

    def set_epoch(self, epoch: int, seed: int) -> None:
        """Nothing here depends on them."""

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        generator = torch.Generator().manual_seed(index)
        boxes = index % 4 if (index + 1) % self.boxed_every == 0 else 0
        start = torch.rand(boxes, 2, generator=generator) * SIZE * 0.6
        side = 8 + torch.rand(boxes, 2, generator=generator) * SIZE * 0.3
        sample = DetDataSample(
            metainfo={'img_shape': (SIZE, SIZE), 'batch_input_shape': (SIZE, SIZE), 'img_id': index},
            gt_instances=InstanceData(
                bboxes=torch.cat([start, start + side], dim=1),
                labels=torch.randint(CLASSES, (boxes,), generator=generator),
            ),
        )
        inputs = torch.randint(0, 256, (3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
        return {'inputs': inputs, 'data_samples': sample}
