"""Exclusive classes, switched by the class loss alone: what the scores add up to, and how many labels a box has."""

import pytest
import torch
from mmengine.structures import InstanceData
from pred_maps import merge_maps
from torch import Tensor

from mmyolo_ext.models.heads import YOLOv3Head, YOLOv5Head

SIZE_HW = (64, 96)
PLACES = 3 * (8 * 12 + 4 * 6 + 2 * 3)  # anchors times cells of the strides 8, 16, 32
META = {'img_shape': SIZE_HW, 'batch_input_shape': SIZE_HW, 'ori_shape': SIZE_HW, 'scale_factor': (1.0, 1.0)}
SOFTMAX = {'type': 'mmdet.CrossEntropyLoss', 'use_sigmoid': False}
SLIDE = {'type': 'mmyolo_ext.SlideLoss', 'loss': SOFTMAX}
BCE = {'type': 'mmyolo_ext.BCELoss'}


@pytest.fixture(params=[YOLOv5Head, YOLOv3Head])
def kind(request) -> type[YOLOv5Head]:
    return request.param


def build_head(kind: type[YOLOv5Head], loss_cls: dict, num_classes: int = 4, **test_cfg) -> YOLOv5Head:
    return kind(num_classes=num_classes, in_channels=[8, 8, 8], loss_cls=loss_cls, test_cfg=test_cfg).eval()


def outputs(num_classes: int = 4) -> list[Tensor]:
    """Of two images; every place is fairly sure of an object."""
    generator = torch.Generator().manual_seed(0)
    grids = [(SIZE_HW[0] // stride, SIZE_HW[1] // stride) for stride in (8, 16, 32)]
    cls_scores, bbox_preds = (
        [torch.randn(2, 3 * size, *grid, generator=generator) * 2 for grid in grids] for size in (num_classes, 4)
    )
    objectnesses = [torch.randn(2, 3, *grid, generator=generator) + 1 for grid in grids]
    return merge_maps(cls_scores, bbox_preds, objectnesses)


def predict(head: YOLOv5Head, num_classes: int = 4, **options) -> InstanceData:
    return head.predict_by_feat(outputs(num_classes), batch_img_metas=[META, META], **options)[1]


def rows(found: InstanceData) -> list[tuple]:
    return list(zip(map(tuple, found.bboxes.tolist()), found.scores.tolist(), found.labels.tolist(), strict=True))


@pytest.mark.parametrize('loss_cls', [SOFTMAX, SLIDE])
def test_class_scores_sum_to_one_before_objectness(kind, loss_cls):
    predictions = build_head(kind, loss_cls).decode(outputs())
    assert predictions.class_scores.shape == (2, PLACES, 4)
    torch.testing.assert_close(predictions.class_scores.sum(-1), torch.ones(2, PLACES))
    # the first place of the first image, by the definition: level 0, anchor 0, row 0, column 0, channels 5 to 8
    exponentials = outputs()[0][0, 5:9, 0, 0].double().exp()
    expected = (exponentials / exponentials.sum()).float()
    torch.testing.assert_close(predictions.class_scores[0, 0], expected)
    # classes that may coincide owe each other nothing
    free = build_head(kind, BCE).decode(outputs()).class_scores
    assert free.sum(-1).std() > 0.5
    torch.testing.assert_close(free[0, 0], (exponentials / (1 + exponentials)).float())


@pytest.mark.parametrize('loss_cls', [SOFTMAX, SLIDE])
@pytest.mark.parametrize('multi_label', [True, False])
def test_an_exclusive_box_has_one_label_whatever_multi_label_says(kind, loss_cls, multi_label):
    head = build_head(kind, loss_cls, multi_label=multi_label)
    every_place = predict(head, with_nms=False)
    decoded = head.decode(outputs())
    # below 1/4 no largest share of four can be; the objectness decides alone what is above the threshold of 0.001
    assert len(every_place) == (decoded.objectness[1] > 0.004).sum() == PLACES
    assert torch.equal(every_place.labels, decoded.class_scores[1].argmax(-1))
    best = decoded.class_scores[1].amax(-1) * decoded.objectness[1]
    torch.testing.assert_close(every_place.scores, best)
    # suppression adds nothing
    assert set(rows(predict(head))) <= set(rows(every_place))


def test_a_box_of_classes_that_may_coincide_has_several(kind):
    decoded = build_head(kind, BCE).decode(outputs())
    above = decoded.class_scores[1] * decoded.objectness[1, :, None] > 0.001
    several = predict(build_head(kind, BCE), with_nms=False)
    assert len(several) == above.sum() > 2 * PLACES
    assert len(predict(build_head(kind, BCE, multi_label=False), with_nms=False)) == PLACES
    # what one call overrides counts as well
    assert len(predict(build_head(kind, BCE), with_nms=False, cfg={'multi_label': False})) == PLACES


@pytest.mark.parametrize('loss_cls', [SOFTMAX, BCE])
def test_class_agnostic_suppression_leaves_one_box_for_an_object(kind, loss_cls):
    nms = {'type': 'nms', 'iou_threshold': 0.65, 'class_agnostic': True}
    head = build_head(kind, loss_cls, nms=nms, max_per_img=-1)
    assert len(predict(head, with_nms=False)) == PLACES
    agnostic, by_class = predict(head), predict(build_head(kind, loss_cls, max_per_img=-1))
    assert len(agnostic) < len(by_class)
    assert agnostic.scores[0] == by_class.scores[0]


def test_a_single_class_is_neither(kind):
    first, second = (predict(build_head(kind, loss, num_classes=1), num_classes=1) for loss in (SOFTMAX, BCE))
    assert torch.equal(first.scores, second.scores) and torch.equal(first.bboxes, second.bboxes)


def test_the_loss_says_so_whatever_wraps_it():
    assert not build_head(YOLOv5Head, SLIDE).use_sigmoid
    assert build_head(YOLOv5Head, {'type': 'mmyolo_ext.SlideLoss', 'loss': BCE}).use_sigmoid
    # mmdet's own default
    assert not build_head(YOLOv5Head, {'type': 'mmdet.CrossEntropyLoss'}).use_sigmoid
