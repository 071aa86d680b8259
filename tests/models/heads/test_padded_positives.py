"""Padding among the positives, as on a GPU: the same losses and gradients, and nothing that a device is waited for."""

from typing import Any

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mmyolo_ext.models.heads import YOLOv3Head, YOLOv5Head
from mmyolo_ext.models.task_modules import YOLOv3Assigner, YOLOv5Assigner

SIZE_HW = (64, 96)
CHANNELS = (8, 16, 24)
STRIDES = (8, 16, 32)
HEADS = {'yolov5': (YOLOv5Head, 'mmyolo_ext.YOLOv5Assigner'), 'yolov3': (YOLOv3Head, 'mmyolo_ext.YOLOv3Assigner')}
BCE = {'type': 'mmyolo_ext.BCELoss'}
IOU = {'type': 'mmyolo_ext.IoULoss'}
LOSSES = {
    'default': {},
    'softmax': {'loss_cls': {'type': 'mmdet.CrossEntropyLoss'}},
    'smooth softmax': {'loss_cls': {'type': 'mmdet.CrossEntropyLoss'}, 'label_smoothing': 0.1},
    'binary of mmdet': {'loss_cls': {'type': 'mmdet.CrossEntropyLoss', 'use_sigmoid': True}},
    'focal': dict.fromkeys(('loss_cls', 'loss_obj'), {'type': 'mmyolo_ext.FocalLoss', 'loss': BCE}),
    'slide': dict.fromkeys(('loss_cls', 'loss_obj'), {'type': 'mmyolo_ext.SlideLoss', 'loss': BCE}),
    'slide by quality': {'loss_cls': {'type': 'mmyolo_ext.SlideLoss', 'loss': BCE, 'follow': 'quality'}},
    'wise': {'loss_bbox': {**IOU, 'mode': 'wiou_v3', 'focus': {'momentum': 0.5}}},
    'repulsion': {'loss_bbox': [IOU, {'type': 'mmyolo_ext.RepulsionLoss'}, {'type': 'mmyolo_ext.NWDLoss'}]},
    'giou of mmdet': {'loss_bbox': {'type': 'mmdet.GIoULoss'}},
    'half an overlap': {'iou_ratio': 0.5},
    'auto balance': {'auto_balance': True},
}


def build_head(kind: str = 'yolov5', padded: bool | None = None, **kwargs) -> YOLOv5Head:
    head, assigner = HEADS[kind]
    torch.manual_seed(0)
    return head(4, CHANNELS, assigner={'type': assigner, 'padded': padded}, **kwargs)


def features(device: str = 'cpu') -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(3, channels, SIZE_HW[0] // stride, SIZE_HW[1] // stride, generator=generator).to(device)
        for channels, stride in zip(CHANNELS, STRIDES, strict=True)
    ]


def boxes_of(*rows: tuple[float, ...]) -> InstanceData:
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    return InstanceData(bboxes=table[:, :4], labels=table[:, 4].long())


TRUTHS = {
    # the centre of the first, (16.5, 22.5), is nearer to the left and to the lower cell; two boxes share a place
    'boxes': [
        boxes_of((3, 5, 30, 40, 0), (3, 5, 31, 42, 2), (50, 10, 90, 60, 1)),
        boxes_of(),
        boxes_of((60, 33, 95, 63, 3), (10, 10, 22, 26, 1), (12, 10, 26, 30, 1)),
    ],
    # fits no anchor: 93 / 2 is far above 4 times 62 / 45
    'no match': [boxes_of((1, 30, 94, 31, 0)), boxes_of(), boxes_of((2, 20, 95, 21, 2))],
    'no box': [boxes_of(), boxes_of(), boxes_of()],
}
IGNORED = [None, InstanceData(bboxes=torch.tensor([[0.0, 0, 48, 64]])), None]


def samples(truth: list[InstanceData], ignored: list[InstanceData | None] | None = None) -> list[DetDataSample]:
    data_samples = []
    for instances, regions in zip(truth, ignored or [None] * len(truth), strict=True):
        sample = DetDataSample(metainfo={'batch_input_shape': SIZE_HW, 'img_shape': SIZE_HW}, gt_instances=instances)
        if regions is not None:
            sample.ignored_instances = regions
        data_samples.append(sample)
    return data_samples


def losses_and_gradients(head: YOLOv5Head, truth: list[InstanceData], **kwargs: Any) -> tuple[dict, list[Tensor]]:
    head.train()
    losses = head.loss(features(), samples(truth, **kwargs))
    return losses, torch.autograd.grad(sum(losses.values()), list(head.parameters()))


@pytest.mark.parametrize('assigner', [YOLOv5Assigner, YOLOv3Assigner])
def test_padding_keeps_the_matches_in_their_order(assigner: type) -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(50, 4, generator=generator) * 60 + 2
    boxes[::3, :2] = (boxes[::3, :2] / 8).round() * 8
    image = torch.randint(0, 3, (50,), generator=generator)
    arguments = (boxes, image, build_head().anchors_wh, STRIDES, [(8, 12), (4, 6), (2, 3)])
    padded, plain = (assigner(padded=padded).assign(*arguments) for padded in (True, False))
    for with_padding, matches, (rows, columns) in zip(padded, plain, arguments[-1], strict=True):
        assert len(with_padding) == 50 * 3 * (5 if assigner is YOLOv5Assigner else 1)
        assert with_padding.count.item() == matches.count == len(matches) > 0
        assert (with_padding.cell_y < rows).all() and (with_padding.cell_x < columns).all()
        for ours, expected in zip(with_padding.without_padding()[:5], matches[:5], strict=True):
            assert torch.equal(ours, expected)


@pytest.mark.parametrize('truth', TRUTHS)
@pytest.mark.parametrize('losses', LOSSES)
def test_padding_changes_no_loss(losses: str, truth: str) -> None:
    heads = [build_head(padded=padded, **LOSSES[losses]) for padded in (True, False)]
    (padded, padded_gradients), (plain, gradients) = (losses_and_gradients(head, TRUTHS[truth]) for head in heads)
    assert padded.keys() == plain.keys()
    for name, loss in plain.items():
        torch.testing.assert_close(padded[name], loss, rtol=1e-5, atol=1e-7)
    for ours, expected in zip(padded_gradients, gradients, strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)
    # the running mean of Wise-IoU, the weights of the levels
    for ours, expected in zip(*(head.state_dict().values() for head in heads), strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize('kind', HEADS)
def test_padding_with_ignore_regions(kind: str) -> None:
    results = [
        losses_and_gradients(build_head(kind, padded), TRUTHS['boxes'], ignored=IGNORED) for padded in (True, False)
    ]
    without = losses_and_gradients(build_head(kind), TRUTHS['boxes'])
    (padded, padded_gradients), (plain, gradients) = results
    for name, loss in plain.items():
        torch.testing.assert_close(padded[name], loss, rtol=1e-5, atol=1e-7)
    for ours, expected in zip(padded_gradients, gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)
    assert plain['loss_obj'] < without[0]['loss_obj']


class CopiesFromTheHost(TorchDispatchMode):
    """Which operations move numbers to another device and make the host wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        devices = {part.device.type for part in (*args, result) if isinstance(part, Tensor)}
        if len(devices) > 1 and not (kwargs or {}).get('non_blocking'):
            self.waits.append(str(function))
        return result


def loss_without_numbers(head: YOLOv5Head) -> list[str]:
    """Losses and gradients on the meta device, whose tensors have shapes alone: who needs a number fails."""
    head.to('meta').train()
    instances = [InstanceData(bboxes=torch.rand(5, 4), labels=torch.zeros(5).long()).to('meta') for _ in range(3)]
    regions = [InstanceData(bboxes=torch.rand(2, 4)).to('meta') for _ in range(3)]
    feats, data_samples = features('meta'), samples(instances, regions)
    with CopiesFromTheHost() as copies:
        losses = head.loss(feats, data_samples)
        sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
    return copies.waits


@pytest.mark.parametrize(
    ('kind', 'losses'),
    [
        ('yolov5', {}),
        ('yolov3', {**LOSSES['softmax'], 'loss_obj': LOSSES['focal']['loss_obj']}),
        ('yolov5', {**LOSSES['slide'], **LOSSES['wise'], **LOSSES['auto balance']}),
    ],
)
def test_nothing_waits_for_the_device(kind: str, losses: dict) -> None:
    assert loss_without_numbers(build_head(kind, **losses)) == []


def test_waiting_would_be_seen() -> None:
    # the number of matches needs values; nor can the pairs that overlap
    for head in (build_head(padded=False), build_head(**LOSSES['repulsion'])):
        with pytest.raises((RuntimeError, NotImplementedError), match='meta'):
            loss_without_numbers(head)
    with CopiesFromTheHost() as copies:
        torch.zeros(2).to('meta')
        torch.zeros(2).to('meta', non_blocking=True)
    assert copies.waits == ['aten._to_copy.default']
