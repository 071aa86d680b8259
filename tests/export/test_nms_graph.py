"""Suppression inside the graph by numbers made by hand, in PyTorch and as ONNX."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmyolo_ext.export import runtime
from mmyolo_ext.export.graph import best_candidates
from mmyolo_ext.export.nms_graph import NMSGraph, by_image
from mmyolo_ext.export.onnx_export import export_onnx

RULE = {
    'score_thr': 0.1,
    'nms_iou': 0.5,
    'max_per_img': 4,
    'nms_pre': 30000,
    'multi_label': True,
    'class_agnostic': False,
}
# The second box shares 10 x 7 px with the first: IoU 70 / (100 + 100 - 70) = 0.538; the third shares 10 x 6 with it:
# 60 / 140 = 0.429; the fourth is apart.
BOXES = torch.tensor([[0.0, 0, 10, 10], [0, 3, 10, 13], [0, 4, 10, 14], [50, 50, 60, 60]])
SCORES = torch.tensor([[0.9, 0.3], [0.8, 0.1], [0.2, 0.7], [0.05, 0.6]])


class Given(nn.Module):
    """A network with the same outputs for all images, except that later images have only the last prediction."""

    def __init__(self, scores: Tensor = SCORES) -> None:
        super().__init__()
        self.scores = scores

    def likely(self, images: Tensor, score_thr: float) -> tuple[Tensor, Tensor, Tensor]:
        """Which image, boxes and scores of what is shown, two levels one after the other: images come in twice."""
        first = torch.cumsum(images[:, :1, 0, 0] * 0 + 1, dim=0) == 1  # (N, 1)
        last = torch.arange(4) == 3
        shown = first | last[None]  # (N, 4)
        parts = [torch.nonzero(shown & level) for level in (torch.arange(4) < 2, torch.arange(4) >= 2)]
        image, place = torch.cat(parts).unbind(dim=1)
        return image, BOXES[place], self.scores[place]


def by_torch(graph: nn.Module, tmp_path, count: int) -> list[np.ndarray]:
    return [output.numpy() for output in graph(torch.zeros(count, 3, 32, 32))]


def by_onnx(graph: nn.Module, tmp_path, count: int) -> list[np.ndarray]:
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnx')
    export_onnx(graph, tmp_path / 'a.onnx', {}, (32, 32), dynamic=True)
    session = onnxruntime.InferenceSession(str(tmp_path / 'a.onnx'), providers=['CPUExecutionProvider'])
    return session.run(None, {'images': np.zeros((count, 3, 32, 32), np.float32)})


@pytest.mark.parametrize('run', [by_torch, by_onnx])
def test_several_classes_a_box(run, tmp_path):
    count, boxes, scores, labels = run(NMSGraph(Given(), RULE), tmp_path, 2)
    # class 0: 0.9 drops 0.8 (IoU 0.538), keeps 0.2 (0.429); class 1: 0.7, 0.6, and 0.3 (IoU 0.429 with 0.7). 0.1 and
    # 0.05 are not above the threshold. Of 0.9 0.7 0.6 0.3 0.2 the best four.
    assert count.tolist() == [[4], [1]]
    np.testing.assert_allclose(scores, [[0.9, 0.7, 0.6, 0.3], [0.6, 0, 0, 0]], atol=1e-6)
    assert labels.tolist() == [[0, 1, 1, 1], [1, -1, -1, -1]]
    np.testing.assert_array_equal(boxes[0], BOXES[[0, 2, 3, 0]])
    np.testing.assert_array_equal(boxes[1], [[50, 50, 60, 60]] + 3 * [[0, 0, 0, 0]])


@pytest.mark.parametrize('run', [by_torch, by_onnx])
def test_one_class_a_box(run, tmp_path):
    count, boxes, scores, labels = run(NMSGraph(Given(), {**RULE, 'multi_label': False}), tmp_path, 1)
    # best classes: 0.9 of 0, 0.8 of 0 (dropped), 0.7 of 1, 0.6 of 1
    assert count.tolist() == [[3]] and labels.tolist() == [[0, 1, 1, -1]]
    np.testing.assert_allclose(scores, [[0.9, 0.7, 0.6, 0]], atol=1e-6)
    np.testing.assert_array_equal(boxes[0, :3], BOXES[[0, 2, 3]])


@pytest.mark.parametrize('run', [by_torch, by_onnx])
def test_whatever_the_class(run, tmp_path):
    # the third box, 0.85 of class 1, shares 10 x 9 px with the second, 0.8 of class 0: IoU 90 / 110 = 0.818
    scores = torch.tensor([[0.3, 0.4], [0.8, 0.1], [0.2, 0.85], [0.05, 0.6]])
    rule = {**RULE, 'multi_label': False, 'class_agnostic': True}
    count, boxes, kept, labels = run(NMSGraph(Given(scores), rule), tmp_path, 2)
    # best first: 0.85 of 1, drops 0.8 of 0; 0.6 of 1; 0.4 of 1
    assert count.tolist() == [[3], [1]] and labels.tolist() == [[1, 1, 1, -1], [1, -1, -1, -1]]
    np.testing.assert_allclose(kept, [[0.85, 0.6, 0.4, 0], [0.6, 0, 0, 0]], atol=1e-6)
    np.testing.assert_array_equal(boxes[0, :3], BOXES[[2, 3, 0]])
    outputs = {'boxes': BOXES[None].numpy(), 'scores': scores[None].numpy()}
    found = runtime.finish(outputs, 0, rules(multi_label=False, class_agnostic=True), 0.0)
    assert found.labels.tolist() == [1, 1, 1]
    np.testing.assert_array_equal(found.boxes_xyxy, BOXES[[2, 3, 0]])
    # class by class the second stays: nothing else of class 0 is near
    assert 0 in runtime.finish(outputs, 0, rules(multi_label=False), 0.0).labels


def test_nothing_above_the_threshold(tmp_path):
    for run in (by_torch, by_onnx):
        count, boxes, scores, labels = run(NMSGraph(Given(SCORES * 0.1), RULE), tmp_path, 1)
        assert count.tolist() == [[0]] and labels.tolist() == [[-1] * 4]
        assert not boxes.any() and not scores.any()


def test_only_the_best_are_candidates():
    # the best three of the eight scores are 0.9, 0.8 and 0.7, whatever their class
    kept = best_candidates(SCORES[None], 0.0, 3)
    np.testing.assert_array_equal(kept[0], SCORES * torch.tensor([[1, 0], [1, 0], [0, 1], [0, 0]]))
    np.testing.assert_array_equal(best_candidates(SCORES[None], 0.0, 20), SCORES[None])
    np.testing.assert_array_equal(best_candidates(SCORES[None], 0.0, -1), SCORES[None])


def test_places_of_a_batch_are_sorted_into_images():
    image = torch.tensor([2, 0, 2, 2, 0])
    boxes, scores = by_image(image, torch.arange(20.0).view(5, 4), torch.arange(5.0)[:, None] + 1, 3)
    assert scores[..., 0].tolist() == [[2, 5, 0], [0, 0, 0], [1, 3, 4]]
    assert boxes[..., 0].tolist() == [[4, 16, 0], [0, 0, 0], [0, 8, 12]]
    boxes, scores = by_image(image[:0], torch.zeros(0, 4), torch.zeros(0, 2), 3)
    assert boxes.shape == (3, 1, 4) and scores.shape == (3, 1, 2) and not scores.any()


@pytest.mark.parametrize('run', [by_torch, by_onnx])
def test_too_many_candidates(run, tmp_path):
    # of the first image 0.9, 0.8 and 0.7 are candidates, of which 0.9 drops 0.8; the second has one above the
    # threshold, which is not too many
    count, _, scores, labels = run(NMSGraph(Given(), {**RULE, 'nms_pre': 3}), tmp_path, 2)
    assert count.tolist() == [[2], [1]] and labels.tolist() == [[0, 1, -1, -1], [1, -1, -1, -1]]
    np.testing.assert_allclose(scores[:, :2], [[0.9, 0.7], [0.6, 0]], atol=1e-6)


def test_a_graph_needs_a_limit():
    with pytest.raises(ValueError, match='max_per_img of at least 1, got -1'):
        NMSGraph(Given(), {**RULE, 'max_per_img': -1})


def rules(**changes: object) -> dict:
    return {**RULE, **changes, 'nms_in_graph': False}


@pytest.mark.parametrize(
    ('changes', 'score_thr', 'scores', 'labels'),
    [
        ({}, 0.0, [0.9, 0.7, 0.6, 0.3], [0, 1, 1, 1]),
        ({'max_per_img': -1}, 0.0, [0.9, 0.7, 0.6, 0.3, 0.2], [0, 1, 1, 1, 0]),
        ({'multi_label': False}, 0.0, [0.9, 0.7, 0.6], [0, 1, 1]),
        ({'nms_iou': 0.6}, 0.0, [0.9, 0.8, 0.7, 0.6], [0, 0, 1, 1]),
        ({'nms_pre': 3}, 0.0, [0.9, 0.7], [0, 1]),
        ({}, 0.6, [0.9, 0.7, 0.6], [0, 1, 1]),
        ({}, 0.95, [], []),
    ],
)
def test_the_same_in_numpy(changes, score_thr, scores, labels):
    found = runtime.finish(
        {'boxes': BOXES[None].numpy(), 'scores': SCORES[None].numpy()}, 0, rules(**changes), np.float32(score_thr)
    )
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)
    assert found.labels.tolist() == labels and found.boxes_xyxy.shape == (len(scores), 4)


def test_above_the_rule_and_not_below_the_callers_threshold():
    # of two thresholds the file's own must be exceeded, the caller's be reached
    scores = np.float32([[0.1, 0.25], [0.3, 0.05]])
    boxes = BOXES[:2].numpy()
    for several, score_thr, wanted in (
        (True, 0.1, [0.3, 0.25]),
        (True, 0.25, [0.3, 0.25]),
        (True, 0.3, [0.3]),
        (False, 0.0, [0.3, 0.25]),
        (False, 0.26, [0.3]),
    ):
        _, found, _ = runtime.candidates(boxes, scores, rules(multi_label=several), score_thr)
        np.testing.assert_array_equal(found, np.float32(wanted))
