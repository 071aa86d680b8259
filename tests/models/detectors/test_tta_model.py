"""Views merged by the detector's own rule, on boxes made by hand."""

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import nn

from mmyolo_ext.models.detectors import TTAModel

CAT, DOG = 0, 1
RULE = {'nms': {'type': 'nms', 'iou_threshold': 0.65}, 'max_per_img': 300}
AGNOSTIC = {'nms': {'type': 'nms', 'iou_threshold': 0.65, 'class_agnostic': True}, 'max_per_img': 300}


class Part(nn.Module):
    def __init__(self, **attributes) -> None:
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)

    def test_step(self, data):
        raise NotImplementedError


def one_stage(rule: dict | None = RULE) -> nn.Module:
    return Part(bbox_head=Part(test_cfg=rule))


def view(*rows: tuple, flip: bool = False, direction: str | None = None) -> DetDataSample:
    """A view of a picture of 100 x 60 px (w x h), from rows (x1, y1, x2, y2, score, label)."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    found = InstanceData(bboxes=table[:, :4], scores=table[:, 4], labels=table[:, 5].long())
    metainfo = {'ori_shape': (60, 100), 'flip': flip, 'flip_direction': direction}
    return DetDataSample(pred_instances=found, metainfo=metainfo)


def merge(model: TTAModel, *views: DetDataSample) -> InstanceData:
    (merged,) = model.merge_preds([list(views)])
    return merged.pred_instances


def test_views_agree_on_box_and_score():
    # 20 px wide against 20 px shifted by 2: IoU 18 x 20 / (2 x 400 - 360) = 0.818
    first = view((10, 10, 30, 30, 0.8, CAT), (60, 10, 80, 30, 0.3, CAT))
    # seen in a mirror: x 68..88 is 100 - 88 = 12 to 100 - 68 = 32
    second = view((68, 10, 88, 30, 0.9, CAT), flip=True, direction='horizontal')
    found = merge(TTAModel(one_stage()), first, second)
    # x1 (0.8 x 10 + 0.9 x 12) / 1.7 = 18.8 / 1.7 = 11.0588; the second box has one view of two: 0.3 / 2
    assert found.bboxes[0].tolist() == pytest.approx([18.8 / 1.7, 10, 18.8 / 1.7 + 20, 30])
    assert found.bboxes[1].tolist() == [60, 10, 80, 30]
    assert found.scores.tolist() == pytest.approx([0.85, 0.15])


def test_the_box_of_the_surest_view_stays_on_demand():
    first = view((10, 10, 30, 30, 0.8, CAT), (60, 10, 80, 30, 0.3, CAT))
    second = view((12, 10, 32, 30, 0.9, CAT))
    found = merge(TTAModel(one_stage(), merge='best'), first, second)
    assert found.bboxes.tolist() == [[12, 10, 32, 30], [60, 10, 80, 30]]
    assert found.scores.tolist() == pytest.approx([0.9, 0.3])


def test_an_object_under_two_labels_stays_twice_unless_the_detector_is_class_agnostic():
    def seen():
        return view((10, 10, 30, 30, 0.8, CAT)), view((10, 10, 30, 30, 0.6, DOG))

    for how in ('vote', 'best'):
        assert merge(TTAModel(one_stage(), merge=how), *seen()).labels.tolist() == [CAT, DOG]
        assert merge(TTAModel(one_stage(AGNOSTIC), merge=how), *seen()).labels.tolist() == [CAT]


def test_without_regard_to_class_the_label_is_that_of_all_views():
    # one view is sure of a cat, 0.9 / 3 = 0.3; two of three say dog, (0.6 + 0.6) / 3 = 0.4
    sure, doubt = view((10, 10, 30, 30, 0.9, CAT)), [view((10, 10, 30, 30, 0.6, DOG)) for _ in range(2)]
    found = merge(TTAModel(one_stage(AGNOSTIC)), sure, *doubt)
    assert found.labels.tolist() == [DOG]
    assert found.scores.tolist() == pytest.approx([0.4])


def test_a_single_view_is_left_as_it_is():
    # at the border of the picture two boxes of one class coincide by 0.8, more than the limit: prediction has
    # compared them whole, before it cut them off
    rows = ((0, 0, 20, 20, 0.8, CAT), (0, 0, 20, 16, 0.7, CAT))
    found = merge(TTAModel(one_stage()), view(*rows))
    assert found.scores.tolist() == pytest.approx([0.8, 0.7])
    flipped = merge(TTAModel(one_stage()), view(*rows, flip=True, direction='horizontal'))
    assert flipped.bboxes.tolist() == [[80, 0, 100, 20], [80, 0, 100, 16]]
    # a second view is a reason to compare
    assert len(merge(TTAModel(one_stage()), view(*rows), view(*rows))) == 1


def test_views_without_a_box():
    found = merge(TTAModel(one_stage()), view(), view())
    assert found.bboxes.shape == (0, 4) and found.labels.dtype == torch.long
    assert len(merge(TTAModel(one_stage()), view(), view((10, 10, 30, 30, 0.8, CAT)))) == 1


def test_where_the_rule_comes_from():
    assert TTAModel(one_stage(AGNOSTIC)).nms['class_agnostic']
    two_stage = Part(roi_head=Part(test_cfg=RULE), rpn_head=Part(test_cfg=AGNOSTIC))
    assert TTAModel(two_stage).nms == RULE['nms']
    model = TTAModel(one_stage(), tta_cfg={'max_per_img': 1})
    assert (model.nms, model.max_per_img) == (RULE['nms'], 1)
    rows = ((10, 10, 30, 30, 0.8, CAT), (60, 10, 80, 30, 0.3, CAT))
    assert len(merge(model, view(*rows), view(*rows))) == 1
    for ruleless in (Part(), one_stage(None), one_stage({'max_per_img': 100})):
        with pytest.raises(ValueError, match='Part has no test_cfg with nms to merge views by: give tta_model='):
            TTAModel(ruleless)


@pytest.mark.parametrize('nms', [None, {'type': 'soft_nms', 'iou_threshold': 0.5}, {'type': 'nms', 'iou_thr': 0.5}])
def test_views_vote_by_plain_suppression_alone(nms):
    rule = {'nms': nms, 'max_per_img': 300}
    with pytest.raises(ValueError, match=r"views vote by nms=dict\(type='nms', iou_threshold=...\), got"):
        TTAModel(one_stage(rule))
    assert TTAModel(one_stage(rule), merge='best').nms is nms
    assert TTAModel(one_stage(rule), tta_cfg=RULE).nms == RULE['nms']


def test_a_merge_that_is_none():
    with pytest.raises(ValueError, match=r"merge must be one of \('vote', 'best'\), got 'wbf'"):
        TTAModel(one_stage(), merge='wbf')


def test_masks_are_refused():
    sample = view((10, 10, 30, 30, 0.8, CAT))
    sample.pred_instances.masks = torch.zeros(1, 60, 100)
    with pytest.raises(ValueError, match='have masks'):
        merge(TTAModel(one_stage()), sample, sample)
