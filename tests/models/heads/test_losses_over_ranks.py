"""The losses of several processes are those of one process with all their images, for every kind of loss."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
import torch
from mmengine.dist import all_reduce, get_rank, get_world_size
from mmengine.structures import InstanceData
from rank_processes import run_ranks
from torch import Tensor

from mmyolo_ext.models.heads import YOLOv3Head, YOLOv5Head

SIZE_HW = (64, 96)
CHANNELS = (8, 16, 24)
STRIDES = (8, 16, 32)
CLASSES = 4
CALLS = 3
BCE = {'type': 'mmyolo_ext.BCELoss'}
IOU = {'type': 'mmyolo_ext.IoULoss'}
PADDED = {'type': 'mmyolo_ext.YOLOv5Assigner', 'padded': True}
REPULSION = {'type': 'mmyolo_ext.RepulsionLoss'}
SLIDE = {'type': 'mmyolo_ext.SlideLoss', 'loss': BCE}


class Case(NamedTuple):
    """A head, and the images of ranks 0 and 1 (or 0, 1 and 2)."""

    head: dict
    kind: type = YOLOv5Head
    images: Sequence[Sequence[int]] = ((0, 1), (2, 3))
    extras: Sequence[str] = ()


CASES = {
    'default': Case({}),
    'uneven ranks': Case({}, images=((0, 1, 2), (3,))),
    'a rank without boxes': Case({}, images=((0, 2, 3), (1, 1))),
    'no boxes': Case({}, images=((1,), (1, 1))),
    'a level without positives': Case({}, images=((4,), (5, 4))),
    'three ranks': Case({}, images=((0,), (2, 3), (5,))),
    'three uneven ranks, one without boxes': Case({}, images=((0, 2, 3), (1,), (4, 5))),
    'padded positives': Case({'assigner': PADDED}, images=((0,), (2, 1))),
    'soft labels': Case({}, extras=('soft',)),
    'ignore regions': Case({}, images=((0, 2, 3), (1,)), extras=('ignored',)),
    'SimOTA': Case({'assigner': {'type': 'mmyolo_ext.YOLOv5SimOTAAssigner'}}, images=((0, 1, 2), (3,))),
    'softmax': Case({'loss_cls': {'type': 'mmdet.CrossEntropyLoss'}}),
    'smooth softmax': Case({'loss_cls': {'type': 'mmdet.CrossEntropyLoss'}, 'label_smoothing': 0.1}),
    'smooth labels': Case({'label_smoothing': 0.1}),
    'binary of mmdet': Case({'loss_cls': {'type': 'mmdet.CrossEntropyLoss', 'use_sigmoid': True}}),
    'one class': Case({'num_classes': 1}),
    'focal': Case(dict.fromkeys(('loss_cls', 'loss_obj'), {'type': 'mmyolo_ext.FocalLoss', 'loss': BCE})),
    'quality focal': Case({'loss_obj': {'type': 'mmyolo_ext.QualityFocalLoss', 'loss': BCE}}),
    'slide': Case({'loss_cls': SLIDE, 'loss_obj': SLIDE}, images=((0, 2, 3), (1,))),
    'slide by quality': Case({'loss_cls': {**SLIDE, 'follow': 'quality'}}),
    'padded slide': Case({'loss_obj': SLIDE, 'assigner': PADDED}),
    'slide, three ranks': Case({'loss_obj': SLIDE}, images=((0,), (1,), (2, 3))),
    'Wise-IoU v1': Case({'loss_bbox': {**IOU, 'mode': 'wiou_v1'}}),
    'Wise-IoU v3': Case({'loss_bbox': {**IOU, 'mode': 'wiou_v3', 'focus': {'momentum': 0.5}}}),
    'Wise-IoU v3, a rank without boxes': Case(
        {'loss_bbox': {**IOU, 'mode': 'wiou_v3', 'focus': {'momentum': 0.5}}}, images=((0, 2), (1,))
    ),
    'padded Wise-IoU v3': Case(
        {
            'loss_bbox': {**IOU, 'mode': 'wiou_v3', 'focus': {'momentum': 0.5}},
            'assigner': PADDED,
        },
        images=((0, 2), (3,)),
    ),
    'repulsion and NWD': Case(
        {'loss_bbox': [IOU, REPULSION, {'type': 'mmyolo_ext.NWDLoss'}]},
        images=((0, 2), (3,)),
    ),
    'repulsion, a rank without boxes': Case({'loss_bbox': [IOU, REPULSION]}, images=((0, 2, 3), (1,))),
    'repulsion, three ranks': Case(
        {'loss_bbox': [{'type': 'mmdet.GIoULoss'}, REPULSION]}, images=((0,), (1,), (2, 3))
    ),
    'GIoU of mmdet': Case({'loss_bbox': {'type': 'mmdet.GIoULoss'}}),
    'auto balance': Case({'auto_balance': True, 'loss_obj': {**BCE, 'loss_weight': 3.0}}, images=((0, 2, 3), (1,))),
    'YOLOv3': Case({}, YOLOv3Head, images=((0, 2, 3), (1,))),
    'YOLOv3, nominal batch': Case({'nominal_batch_size': 16}, YOLOv3Head, images=((0, 2, 3), (1,))),
}


pytestmark = pytest.mark.slow


def boxes_of(*rows: tuple[float, ...]) -> InstanceData:
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    return InstanceData(bboxes=table[:, :4], labels=table[:, 4].long())


IMAGES = [
    boxes_of((3, 5, 30, 40, 0), (3, 5, 31, 42, 2), (50, 10, 90, 60, 1)),
    boxes_of(),
    boxes_of((60, 33, 95, 63, 3), (10, 10, 22, 26, 1), (12, 10, 26, 30, 1)),
    boxes_of((8, 8, 20, 20, 2), (30, 30, 44, 52, 0), (34, 32, 50, 50, 3), (70, 5, 80, 15, 1)),
    # too small for the anchors of strides 16 and 32, of which the least high is 45 px
    boxes_of((20, 20, 31, 30, 1)),
    boxes_of((70, 41, 80, 52, 0)),
]
IGNORED = InstanceData(bboxes=torch.tensor([[0.0, 0, 48, 64]]))


def build_head(case: Case) -> YOLOv5Head:
    torch.manual_seed(0)
    return case.kind(**{'num_classes': CLASSES, 'in_channels': CHANNELS, **case.head}).train()


def features(images: Sequence[int], call: int) -> list[Tensor]:
    """Of each level, (N, C, H, W); those of an image are the same on whichever rank it is."""
    generators = [torch.Generator().manual_seed(100 * call + image) for image in images]
    return [
        torch.stack([torch.randn(channels, *grid_hw(stride), generator=generator) for generator in generators])
        for channels, stride in zip(CHANNELS, STRIDES, strict=True)
    ]


def grid_hw(stride: int) -> tuple[int, int]:
    return SIZE_HW[0] // stride, SIZE_HW[1] // stride


def truth_of(case: Case, images: Sequence[int]) -> tuple[list[InstanceData], list[InstanceData | None]]:
    truth = [IMAGES[image].clone() for image in images]
    for instances in truth:
        if case.head.get('num_classes') == 1:
            instances.labels = torch.zeros_like(instances.labels)
        if 'soft' in case.extras:
            shares = torch.nn.functional.one_hot(instances.labels, CLASSES) * 0.7 + 0.3 / CLASSES
            instances.soft_labels = shares.float()
    return truth, [IGNORED if 'ignored' in case.extras and image % 2 == 0 else None for image in images]


def losses_and_gradients(case: Case, images: Sequence[int]) -> dict[str, Any]:
    """Of the images of this rank, in several calls, in which what the head remembers changes."""
    head = build_head(case)
    truth, ignored = truth_of(case, images)
    metas = [{'batch_input_shape': SIZE_HW, 'img_shape': SIZE_HW}] * len(images)
    losses: list[Tensor] = []
    for call in range(CALLS):
        terms = head.loss_by_feat(*head(features(images, call)), truth, metas, ignored)
        sum(terms.values()).backward()
        losses.append(torch.stack([*terms.values()]).detach())
    gradient = torch.cat([parameter.grad.flatten() for parameter in head.parameters()])
    state = [value.clone() for name, value in head.named_buffers() if name.endswith(('running_mean', 'weights'))]
    return {'losses': torch.stack(losses), 'gradient': gradient, 'state': torch.cat([v.flatten() for v in state])}


def all_cases() -> dict[str, dict[str, Any]]:
    """What each case of this number of ranks gives here, losses and gradients as means over ranks."""
    found = {}
    for name, case in CASES.items():
        if len(case.images) == get_world_size():
            found[name] = losses_and_gradients(case, case.images[get_rank()])
            all_reduce(found[name]['losses'], 'mean')
            all_reduce(found[name]['gradient'], 'mean')
    return found


@pytest.fixture(scope='module')
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Of each case, what every rank found."""
    results: dict[str, list[dict[str, Any]]] = {}
    for world_size in (2, 3):
        ranks = run_ranks(all_cases, world_size, tmp_path_factory.mktemp('ranks'))
        for name in ranks[0]:
            results[name] = [rank[name] for rank in ranks]
    assert results.keys() == CASES.keys()
    return results


def test_the_case_of_a_level_without_positives_is_one() -> None:
    case = CASES['a level without positives']
    images = [IMAGES[image] for image in (4, 5)]
    head = build_head(case)
    boxes = torch.cat([instances.bboxes for instances in images])
    cxcywh = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1)
    positives = head.assigner.assign(
        cxcywh, torch.arange(2), head.anchors_wh, STRIDES, [grid_hw(stride) for stride in STRIDES]
    )
    assert [len(level) > 0 for level in positives] == [True, False, False]


def difference(found: Tensor, expected: Tensor) -> float:
    """Relative, of all numbers together."""
    return ((found - expected).double().norm() / expected.double().norm().clamp(min=1e-12)).item()


@pytest.mark.parametrize('name', CASES)
def test_several_ranks_are_one(name: str, found: dict) -> None:
    case = CASES[name]
    expected = losses_and_gradients(case, [image for images in case.images for image in images])
    assert expected['gradient'].norm() > 0
    for rank in found[name]:
        for what in ('losses', 'gradient'):
            assert difference(rank[what], expected[what]) < 1e-6, what
        # each term of each call, too
        torch.testing.assert_close(rank['losses'], expected['losses'], rtol=1e-6, atol=1e-8)
        # running mean of Wise-IoU, weights of the levels
        torch.testing.assert_close(rank['state'], expected['state'], rtol=1e-6, atol=0)
        assert torch.equal(rank['state'], found[name][0]['state'])
