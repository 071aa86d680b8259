"""A small YOLOv5Head, three images of boxes, and one step of training on them."""

from typing import Any

import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmyolo_ext.models.heads import YOLOv5Head

SIZE_HW = (64, 96)
CHANNELS = (8, 16, 24)
STRIDES = (8, 16, 32)


def build_head(**kwargs: Any) -> YOLOv5Head:
    torch.manual_seed(0)
    return YOLOv5Head(**{'num_classes': 3, 'in_channels': CHANNELS, 'scale_losses': False, **kwargs})


def boxes_of(*rows: tuple[float, ...]) -> InstanceData:
    """Ground truth of an image from rows (x1, y1, x2, y2, label)."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    return InstanceData(bboxes=table[:, :4], labels=table[:, 4].long())


TRUTH = [
    boxes_of((3, 5, 30, 40, 0), (10, 5, 38, 42, 2), (50, 10, 90, 60, 1)),
    boxes_of(),
    boxes_of((60, 33, 95, 63, 2), (10, 10, 22, 26, 1)),
]
NO_TRUTH = [boxes_of()] * 3
LEFT_HALF = [None, None, InstanceData(bboxes=torch.tensor([[0.0, 0, 48, 64]]))]


def step(head: nn.Module, truth: list[InstanceData] = TRUTH, ignored: list | None = None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    feats = [
        torch.randn(len(truth), channels, SIZE_HW[0] // stride, SIZE_HW[1] // stride, generator=generator)
        for channels, stride in zip(CHANNELS, STRIDES, strict=True)
    ]
    metas = [{'batch_input_shape': SIZE_HW, 'img_shape': SIZE_HW}] * len(truth)
    head.zero_grad()
    losses = head.loss_by_feat(*head(feats), truth, metas, ignored)
    sum(losses.values()).backward()
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values()), losses
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())
    return losses


def step_everywhere(head: nn.Module) -> dict[str, Tensor]:
    """With boxes, without, with ignore regions, and under autocast; the first one's losses."""
    losses = step(head)
    step(head, NO_TRUTH)
    step(head, TRUTH, LEFT_HALF)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast('cpu', dtype=dtype):
            step(head)
    return losses


def recorded(head: nn.Module, loss: nn.Module, truth: list[InstanceData] = TRUTH) -> list[dict[str, Any]]:
    """What ``loss`` is called with besides its two tensors, in a step of ``head``."""
    calls = []
    hook = loss.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append({'pred': args[0], 'target': args[1], **kwargs}), with_kwargs=True
    )
    step(head, truth)
    hook.remove()
    return calls
