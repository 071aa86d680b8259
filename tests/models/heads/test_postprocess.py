"""From scores to detections, worked out by hand, and a batch against its images one by one."""

import pytest
import torch
from mmengine.structures import InstanceData

from mmyolo_ext.models.heads import postprocess
from mmyolo_ext.models.heads.postprocess import (
    by_image,
    detect,
    pick_candidates,
    suppress,
    suppress_duplicates,
    to_original_pixels,
)

BOXES = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]])
SCORES = torch.tensor([[0.9, 0.4], [0.8, 0.05], [0.1, 0.7]])
NMS = {'type': 'nms', 'iou_threshold': 0.65}


def pick(score_thr: float, multi_label: bool, nms_pre: int) -> InstanceData:
    return pick_candidates(torch.zeros(3, dtype=torch.long), BOXES, SCORES, 1, score_thr, multi_label, nms_pre)


def test_several_labels_a_box() -> None:
    found = pick(score_thr=0.1, multi_label=True, nms_pre=-1)
    # above 0.1, not equal to it: (0, 0), (0, 1), (1, 0), (2, 1)
    assert found.labels.tolist() == [0, 1, 0, 1]
    assert found.scores.tolist() == pytest.approx([0.9, 0.4, 0.8, 0.7])
    assert found.bboxes.tolist() == BOXES[[0, 0, 1, 2]].tolist()


def test_one_label_a_box() -> None:
    found = pick(score_thr=0.1, multi_label=False, nms_pre=-1)
    assert found.labels.tolist() == [0, 0, 1]
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])


def test_best_before_nms() -> None:
    found = pick(score_thr=0.1, multi_label=True, nms_pre=2)
    assert found.scores.tolist() == pytest.approx([0.9, 0.8])


def test_best_of_each_image() -> None:
    # places as two levels give them, image after image in each
    image = torch.tensor([0, 2, 0, 0, 2])
    scores = torch.tensor([[0.3], [0.2], [0.9], [0.5], [0.6]])
    found = pick_candidates(
        image, torch.arange(20.0).view(5, 4), scores, 3, score_thr=0.1, multi_label=True, nms_pre=2
    )
    # image 0 has three, of which the best two go on; image 1 none; image 2 two, which stay as they are
    assert found.image.tolist() == [0, 0, 2, 2]
    assert found.scores.tolist() == pytest.approx([0.9, 0.5, 0.2, 0.6])
    assert found.bboxes[:, 0].tolist() == [8, 12, 4, 16]
    assert [len(one.scores) for one in by_image(found, 3)] == [2, 0, 2]


def crowd(images: int, seed: int) -> InstanceData:
    """Boxes around a few objects, of three classes; the second image has none."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for image in range(images):
        count = 0 if image == 1 else 40 + 20 * image
        start = torch.randint(0, 4, (count, 2), generator=generator) * 100 - 20.0
        start = start + 12 * torch.rand(count, 2, generator=generator)
        side = 40 + 20 * torch.rand(count, 2, generator=generator)
        scores, labels = (torch.rand(count, generator=generator), torch.randint(0, 3, (count,), generator=generator))
        bboxes = torch.cat([start, start + side], 1)
        parts.append(InstanceData(image=torch.full((count,), image), bboxes=bboxes, scores=scores, labels=labels))
    return InstanceData.cat(parts)


def overlap(box: list[float], other: list[float]) -> float:
    """IoU of two boxes."""
    (x1, y1, x2, y2), (u1, v1, u2, v2) = box, other
    common = max(min(x2, u2) - max(x1, u1), 0) * max(min(y2, v2) - max(y1, v1), 0)
    return common / ((x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - common)


def one_by_one(found: InstanceData, images: int, agnostic: bool, most: int) -> InstanceData:
    """The definition: the best box, then the best of those that do not overlap it, and so on."""
    kept = []
    for one in by_image(found, images):
        boxes, labels = one.bboxes.tolist(), one.labels.tolist()
        mine: list[int] = []
        for index in one.scores.argsort(descending=True).tolist():
            rivals = [other for other in mine if agnostic or labels[other] == labels[index]]
            if all(overlap(boxes[index], boxes[other]) <= 0.65 for other in rivals):
                mine.append(index)
        kept.append(one[torch.tensor(mine, dtype=torch.long)[: most if most > 0 else None]])
    return InstanceData.cat(kept)


@pytest.mark.parametrize('agnostic', [False, True])
@pytest.mark.parametrize('most', [-1, 10])
@pytest.mark.parametrize('together', [False, True, None])
def test_a_batch_is_suppressed_as_its_images(
    agnostic: bool, most: int, together: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # so that the first four images are suppressed in one call, the last in another
    monkeypatch.setattr(postprocess, 'TOGETHER', 220)
    for seed in range(3):
        found = crowd(5, seed)
        kept = suppress(found, 5, {**NMS, 'class_agnostic': agnostic}, most, together)
        wanted = one_by_one(found, 5, agnostic, most)
        assert len(wanted.scores) < len(found.scores)
        for name in ('image', 'bboxes', 'scores', 'labels'):
            assert torch.equal(kept[name], wanted[name])


def test_calls_hold_whole_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postprocess, 'TOGETHER', 90)
    # 40, 0, 80, 100 and 120 detections: the third does not fit with the first, the last two with none
    calls = [sorted(set(part.image.tolist())) for part in postprocess._calls(crowd(5, 0), 5)]
    assert calls == [[0], [2], [3], [4]]
    monkeypatch.setattr(postprocess, 'TOGETHER', 220)
    assert [sorted(set(part.image.tolist())) for part in postprocess._calls(crowd(5, 0), 5)] == [[0, 2, 3], [4]]


def test_nothing_in_a_batch() -> None:
    nothing = crowd(1, 0)[:0]
    for together in (False, True):
        kept = suppress(nothing, 2, NMS, 300, together)
        assert [kept[name].shape for name in ('image', 'bboxes', 'scores', 'labels')] == [(0,), (0, 4), (0,), (0,)]


def test_soft_suppression_changes_the_scores() -> None:
    found = crowd(3, 0)
    soft = {'type': 'soft_nms', 'iou_threshold': 0.3, 'min_score': 0.05}
    kept = suppress(found, 3, soft, 300, together=True)
    assert kept.image.tolist() == sorted(kept.image.tolist()) and set(kept.image.tolist()) == {0, 2}
    assert not torch.isin(kept.scores, found.scores).all()


def test_nms_is_class_wise() -> None:
    # the first two overlap by 90/100; the third lies upon the first with another label
    candidates = InstanceData(
        bboxes=torch.stack([BOXES[0], BOXES[1], BOXES[0], BOXES[2]]),
        scores=torch.tensor([0.9, 0.8, 0.4, 0.7]),
        labels=torch.tensor([0, 0, 1, 1]),
    )
    kept = suppress_duplicates(candidates, NMS, max_per_img=300)
    assert kept.scores.tolist() == pytest.approx([0.9, 0.7, 0.4])
    assert kept.labels.tolist() == [0, 1, 1]
    assert kept.bboxes.tolist() == BOXES[[0, 2, 0]].tolist()
    assert len(suppress_duplicates(candidates, NMS, max_per_img=2)) == 2


def test_classes_stay_apart_left_of_zero() -> None:
    # Were the classes parted by max + 1 = 2 px alone, the second box would be moved onto the first.
    candidates = InstanceData(
        bboxes=torch.tensor([[-9.0, -9, 1, 1], [-11.0, -11, -1, -1]]),
        scores=torch.tensor([0.9, 0.8]),
        labels=torch.tensor([0, 1]),
    )
    assert len(suppress_duplicates(candidates, NMS, max_per_img=300)) == 2


def test_nothing_found() -> None:
    found = pick(score_thr=0.95, multi_label=True, nms_pre=10)
    assert found.bboxes.shape == (0, 4)
    candidates = InstanceData(bboxes=found.bboxes, scores=found.scores, labels=found.labels)
    kept = suppress_duplicates(candidates, NMS, max_per_img=300)
    assert kept.bboxes.shape == (0, 4)
    assert kept.scores.shape == (0,)
    assert kept.labels.shape == (0,)
    assert kept.labels.dtype == torch.long


def test_padding_and_scale_are_undone() -> None:
    # an image of 200 x 100 (w x h) scaled by (0.5, 0.4) to 100 x 40, 10 px above and 6 px to the left of it; and one
    # whose padding is on the right and bottom
    around = {'pad_param': (10, 14, 6, 22), 'scale_factor': (0.5, 0.4)}
    metas = [around, {'scale_factor': (0.5, 0.4)}]
    box = torch.tensor([[26.0, 18, 56, 30]])
    # x: (26 - 6) / 0.5 = 40, (56 - 6) / 0.5 = 100; y: (18 - 10) / 0.4 = 20, (30 - 10) / 0.4 = 50
    first, second = torch.tensor([[40.0, 20, 100, 50]]), torch.tensor([[52.0, 45, 112, 75]])  # 26 / 0.5, 18 / 0.4
    both = to_original_pixels(box.repeat(3, 1), torch.tensor([0, 1, 1]), metas)
    torch.testing.assert_close(both, torch.cat([first, second, second]))
    torch.testing.assert_close(to_original_pixels(box, torch.tensor([0]), metas[1:]), second)
    assert to_original_pixels(box[:0], torch.tensor([], dtype=torch.long), metas).shape == (0, 4)


def test_clipping() -> None:
    boxes = torch.tensor([[-5.0, -5, 300, 300], [10, 20, 30, 40], [-5, -5, 300, 300]])
    cfg = {'score_thr': 0.1, 'nms_pre': -1}
    metas = [{'img_shape': (100, 200)}, {'img_shape': (30, 40, 3)}]
    first, second = detect((torch.tensor([0, 0, 1]), boxes, torch.ones(3, 1)), metas, cfg, True, False, False)
    assert first.bboxes.tolist() == [[0, 0, 200, 100], [10, 20, 30, 40]]
    assert second.bboxes.tolist() == [[0, 0, 40, 30]]
