"""Test-time augmentation: views merged with the NMS settings of the detector; box voting by hand and by a loop."""

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import nn

from mmyolo_ext.models.detectors import TTAModel
from mmyolo_ext.models.detectors.tta_model import vote

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
    """A view of an image of 100 x 60 px (w x h), from rows (x1, y1, x2, y2, score, label)."""
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


def test_merge_best_keeps_the_box_with_the_highest_score():
    first = view((10, 10, 30, 30, 0.8, CAT), (60, 10, 80, 30, 0.3, CAT))
    second = view((12, 10, 32, 30, 0.9, CAT))
    found = merge(TTAModel(one_stage(), merge='best'), first, second)
    assert found.bboxes.tolist() == [[12, 10, 32, 30], [60, 10, 80, 30]]
    assert found.scores.tolist() == pytest.approx([0.9, 0.3])


def test_class_agnostic_detectors_keep_one_label():
    def seen():
        return view((10, 10, 30, 30, 0.8, CAT)), view((10, 10, 30, 30, 0.6, DOG))

    for how in ('vote', 'best'):
        assert merge(TTAModel(one_stage(), merge=how), *seen()).labels.tolist() == [CAT, DOG]
        assert merge(TTAModel(one_stage(AGNOSTIC), merge=how), *seen()).labels.tolist() == [CAT]


def test_class_agnostic_label_is_that_of_the_mean_scores():
    # one view is sure of a cat, 0.9 / 3 = 0.3; two of three say dog, (0.6 + 0.6) / 3 = 0.4
    sure, doubt = view((10, 10, 30, 30, 0.9, CAT)), [view((10, 10, 30, 30, 0.6, DOG)) for _ in range(2)]
    found = merge(TTAModel(one_stage(AGNOSTIC)), sure, *doubt)
    assert found.labels.tolist() == [DOG]
    assert found.scores.tolist() == pytest.approx([0.4])


def test_single_view_is_unchanged():
    # at the border of the image two boxes of one class coincide by 0.8, more than the limit: prediction has
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


def test_nms_settings_come_from_the_detector():
    assert TTAModel(one_stage(AGNOSTIC)).nms['class_agnostic']
    two_stage = Part(roi_head=Part(test_cfg=RULE), rpn_head=Part(test_cfg=AGNOSTIC))
    assert TTAModel(two_stage).nms == RULE['nms']
    model = TTAModel(one_stage(), tta_cfg={'max_per_img': 1})
    assert (model.nms, model.max_per_img) == (RULE['nms'], 1)
    rows = ((10, 10, 30, 30, 0.8, CAT), (60, 10, 80, 30, 0.3, CAT))
    assert len(merge(model, view(*rows), view(*rows))) == 1
    for ruleless in (Part(), one_stage(None), one_stage({'max_per_img': 100})):
        with pytest.raises(ValueError, match='Part has no nms in its test_cfg: give tta_model='):
            TTAModel(ruleless)


@pytest.mark.parametrize('nms', [None, {'type': 'soft_nms', 'iou_threshold': 0.5}, {'type': 'nms', 'iou_thr': 0.5}])
def test_box_voting_needs_plain_nms(nms):
    rule = {'nms': nms, 'max_per_img': 300}
    with pytest.raises(ValueError, match=r"box voting needs nms=dict\(type='nms', iou_threshold=...\), got"):
        TTAModel(one_stage(rule))
    assert TTAModel(one_stage(rule), merge='best').nms is nms
    assert TTAModel(one_stage(rule), tta_cfg=RULE).nms == RULE['nms']


def test_unknown_merge():
    with pytest.raises(ValueError, match=r"merge must be one of \('vote', 'best'\), got 'wbf'"):
        TTAModel(one_stage(), merge='wbf')


def test_masks_raise():
    sample = view((10, 10, 30, 30, 0.8, CAT))
    sample.pred_instances.masks = torch.zeros(1, 60, 100)
    with pytest.raises(ValueError, match='have masks'):
        merge(TTAModel(one_stage()), sample, sample)


def seen(*rows: tuple) -> InstanceData:
    """A view, from rows (x1, y1, x2, y2, score, label)."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return InstanceData(bboxes=table[:, :4], scores=table[:, 4], labels=table[:, 5].long())


def rows_of(found: InstanceData) -> list[tuple]:
    return [
        (*box, score, label)
        for box, score, label in zip(*(found[name].tolist() for name in ('bboxes', 'scores', 'labels')), strict=True)
    ]


def test_two_views_of_two_classes_and_a_single_box():
    first = seen((0, 0, 10, 10, 0.6, CAT), (0, 0, 10, 10, 0.2, DOG), (50, 0, 60, 10, 0.5, CAT))
    second = seen((0, 0, 10, 12, 0.2, CAT), (0, 0, 12, 10, 0.4, DOG))
    # IoU of 10 x 10 and 10 x 12: 100 / 120 = 0.83. Cats: y2 = (0.6 x 10 + 0.2 x 12) / 0.8 = 8.4 / 0.8 = 10.5, score
    # (0.6 + 0.2) / 2. Dogs: x2 = (0.2 x 10 + 0.4 x 12) / 0.6 = 6.8 / 0.6, score (0.2 + 0.4) / 2. Alone: 0.5 / 2.
    expected = [(0, 0, 10, 10.5, 0.4, CAT), (0, 0, 6.8 / 0.6, 10, 0.3, DOG), (50, 0, 60, 10, 0.25, CAT)]
    for got, wanted in zip(rows_of(vote([first, second], 0.65)), expected, strict=True):
        assert got == pytest.approx(wanted)


def test_vote_sorts_by_mean_score():
    # 0.8 in one of two views is 0.4; 0.5 and 0.6 are 0.55
    first = seen((50, 0, 60, 10, 0.8, CAT), (0, 0, 10, 10, 0.5, CAT))
    second = seen((0, 0, 10, 10, 0.6, CAT))
    assert [row[0] for row in rows_of(vote([first, second], 0.65))] == [0, 50]


def test_a_box_joins_one_group_the_one_it_overlaps_most():
    # two objects 4 px apart, each 20 wide: IoU 16 / 24 = 0.67; a third box 1 px from the left one, IoU 19 / 21 = 0.90,
    # and 3 px from the right one, 17 / 23 = 0.74: above the limit of 0.7 on both sides
    first = seen((0, 0, 20, 20, 0.6, CAT), (4, 0, 24, 20, 0.96, CAT))
    second = seen((1, 0, 21, 20, 0.3, CAT))
    right, left = rows_of(vote([first, second], 0.7))
    assert right == pytest.approx((4, 0, 24, 20, 0.48, CAT))
    # x1 (0.6 x 0 + 0.3 x 1) / 0.9 = 1 / 3, score (0.6 + 0.3) / 2
    assert left == pytest.approx((1 / 3, 0, 20 + 1 / 3, 20, 0.45, CAT))


def test_score_counts_each_view_once_and_box_each_member():
    # at the border a view may keep two boxes of one object: the better gives its score
    first = seen((0, 0, 20, 20, 0.8, CAT), (0, 0, 20, 16, 0.4, CAT))
    second = seen((0, 0, 20, 20, 0.6, CAT))
    (found,) = rows_of(vote([first, second], 0.65))
    # y2 (0.8 x 20 + 0.4 x 16 + 0.6 x 20) / 1.8 = 34.4 / 1.8; score (0.8 + 0.6) / 2
    assert found == pytest.approx((0, 0, 20, 34.4 / 1.8, 0.7, CAT))


def test_single_boxes_and_boxes_without_area_are_unchanged():
    flat, odd = (0.0, 0.1, 0.0, 20.3, 0.3, CAT), (0.1, 0.2, 20.7, 30.9, 0.7, CAT)
    found = vote([seen(flat, odd), seen()], 0.65)
    assert torch.equal(found.bboxes, seen(odd, flat).bboxes)
    assert torch.equal(found.scores, seen(odd, flat).scores / 2)
    (silent,) = rows_of(vote([seen((0, 0, 1, 1, 0.0, CAT))], 0.65))
    assert silent == (0, 0, 1, 1, 0, CAT)


def test_vote_without_a_box():
    found = vote([seen(), seen()], 0.65)
    assert found.bboxes.shape == (0, 4) and found.scores.shape == (0,) and found.labels.dtype == torch.long


@pytest.mark.parametrize('seed', range(3))
def test_vote_equals_a_loop_over_boxes(seed):
    generator = torch.Generator().manual_seed(seed)
    views = [random_view(generator) for _ in range(4)]
    found = vote(views, 0.5)
    expected = by_loop([rows_of(view) for view in views], 0.5)
    assert 20 < len(expected) < sum(map(len, views)) / 2
    for got, wanted in zip(rows_of(found), expected, strict=True):
        assert got == pytest.approx(wanted, rel=1e-4, abs=1e-3)


def random_view(generator: torch.Generator) -> InstanceData:
    """Return noisy boxes of 40 overlapping objects in a row, each detected with probability 2/3."""
    number = torch.arange(40.0)
    boxes = torch.stack([number * 9, number % 3, number * 9 + 20, number % 3 + 30], dim=1)
    boxes = boxes + torch.randn(40, 4, generator=generator)
    keep = torch.rand(40, generator=generator) < 0.66
    return InstanceData(
        bboxes=boxes[keep], scores=torch.rand(40, generator=generator)[keep], labels=(number % 2).long()[keep]
    )


def by_loop(views: list[list[tuple]], limit: float) -> list[tuple]:
    """The definition, box by box."""
    boxes = sorted(((*row, view) for view, rows in enumerate(views) for row in rows), key=lambda row: -row[4])
    best, voters = [], {}
    for row in boxes:
        if all(row[5] != other[5] or iou(row, other) <= limit for other in best):
            best.append(row)
            voters[row] = [row]
    for row in boxes:
        if row not in voters:
            voters[max((other for other in best if other[5] == row[5]), key=lambda other: iou(row, other))].append(row)
    merged = []
    for chosen in best:
        votes = voters[chosen]
        weight = sum(row[4] for row in votes)
        box = [sum(row[4] * row[side] for row in votes) / weight for side in range(4)]
        score = sum(max((row[4] for row in votes if row[6] == view), default=0) for view in range(len(views)))
        merged.append((*box, score / len(views), chosen[5]))
    return sorted(merged, key=lambda row: -row[4])


def iou(one: tuple, other: tuple) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    inside = max(width, 0) * max(height, 0)
    return inside / (sum((row[2] - row[0]) * (row[3] - row[1]) for row in (one, other)) - inside)
