"""The files of a page of docs/extend, as a user writes them, and one training step."""

import re
from pathlib import Path

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn

REPO = Path(__file__).parents[2]


def write_files(page: str, folder: Path) -> Path:
    """Write the code blocks that start with the name of their file, and the config; return the config."""
    text = (REPO / 'docs/extend' / page).read_text()
    for block in re.findall(r'^```python\n(.*?)^```', text, re.DOTALL | re.MULTILINE):
        name = re.match(r'# (\w+\.py)\n', block)
        (folder / (name[1] if name else 'mine.py')).write_text(block.replace("'configs/", f"'{REPO}/configs/"))
    return folder / 'mine.py'


def step(model: nn.Module) -> dict[str, Tensor]:
    """Return the losses of two images, one of them without boxes, after a backward pass."""
    samples = []
    for boxes in ([[8.0, 8, 40, 44], [50, 10, 90, 60]], []):
        sample = DetDataSample(metainfo={'img_shape': (64, 96), 'batch_input_shape': (64, 96)})
        labels = torch.arange(len(boxes))
        sample.gt_instances = InstanceData(bboxes=torch.tensor(boxes).reshape(-1, 4), labels=labels)
        samples.append(sample)
    torch.manual_seed(0)
    losses = model.loss(torch.rand(2, 3, 64, 96), samples)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    return losses
