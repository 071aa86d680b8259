"""The head's predictions from hand-made logits: boxes in original pixels, labels, empty results."""

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from pred_maps import merge_maps
from torch import Tensor

from mmyolo_ext.models.heads import YOLOv5Head

SIZE_HW = (64, 96)
STRIDES = (8, 16, 32)
SURE, UNLIKELY = 12.0, -12.0  # logits
META = {'img_shape': SIZE_HW, 'batch_input_shape': SIZE_HW, 'ori_shape': SIZE_HW, 'scale_factor': (1.0, 1.0)}


def build_head(num_classes: int = 3, **kwargs) -> YOLOv5Head:
    return YOLOv5Head(num_classes=num_classes, in_channels=[8, 8, 8], **kwargs).eval()


def silent_outputs(num_images: int = 1, num_classes: int = 3) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    grids = [(SIZE_HW[0] // stride, SIZE_HW[1] // stride) for stride in STRIDES]
    return (
        [torch.full((num_images, 3 * num_classes, *grid), UNLIKELY) for grid in grids],
        [torch.zeros(num_images, 12, *grid) for grid in grids],
        [torch.full((num_images, 3, *grid), UNLIKELY) for grid in grids],
    )


def speak(
    outputs: tuple,
    level: int,
    image: int,
    anchor: int,
    row: int,
    column: int,
    class_logits: list[float],
    obj: float = SURE,
) -> None:
    """Let one place predict an object."""
    cls_scores, _, objectnesses = outputs
    count = len(class_logits)
    objectnesses[level][image, anchor, row, column] = obj
    cls_scores[level][image, anchor * count : (anchor + 1) * count, row, column] = torch.tensor(class_logits)


def predict(head: YOLOv5Head, outputs: tuple, *metas: dict, rescale: bool = True) -> list[InstanceData]:
    return head.predict_by_feat(merge_maps(*outputs), batch_img_metas=list(metas or [META]), rescale=rescale)


def test_boxes_by_hand() -> None:
    outputs = silent_outputs(num_images=2)
    # box logits 0: the middle of the cell, the anchor's own size
    speak(outputs, 0, 0, 1, 3, 5, [UNLIKELY, SURE, UNLIKELY])  # (5.5 * 8, 3.5 * 8), 16 x 30
    speak(outputs, 1, 1, 0, 2, 4, [SURE, UNLIKELY, UNLIKELY])  # (4.5 * 16, 2.5 * 16), 30 x 61, below the border
    first, second = predict(build_head(), outputs, META, META)
    assert first.bboxes.tolist() == [[36, 13, 52, 43]]
    assert first.labels.tolist() == [1]
    assert second.bboxes.tolist() == [[57, 9.5, 87, 64]]  # 70.5 cut at 64
    assert second.labels.tolist() == [0]
    assert second.scores.item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ('meta', 'expected'),
    [
        # padding right and bottom: 72 x 48 px at half the size
        ({'scale_factor': (0.5, 0.5), 'ori_shape': (96, 144)}, [72, 26, 104, 86]),
        ({'scale_factor': (0.5, 0.5), 'ori_shape': (96, 144), 'pad_param': (0, 16, 0, 24)}, [72, 26, 104, 86]),
        # padding around: 12 px on the left, 8 above
        ({'scale_factor': (0.5, 0.5), 'ori_shape': (96, 144), 'pad_param': (8, 8, 12, 12)}, [48, 10, 80, 70]),
        # another scale for each side, as mmdet's Resize leaves it
        ({'scale_factor': (0.5, 0.25), 'ori_shape': (96, 144)}, [72, 52, 104, 96]),
    ],
)
def test_original_pixels(meta: dict, expected: list[float]) -> None:
    outputs = silent_outputs()
    speak(outputs, 0, 0, 1, 3, 5, [SURE, UNLIKELY, UNLIKELY])  # 36, 13, 52, 43 in the input
    (result,) = predict(build_head(), outputs, {**META, **meta})
    assert result.bboxes[0].tolist() == pytest.approx(expected)
    (unscaled,) = predict(build_head(), outputs, {**META, **meta}, rescale=False)
    assert unscaled.bboxes[0].tolist() == [36, 13, 52, 43]


def test_several_labels_or_one() -> None:
    outputs = silent_outputs()
    speak(outputs, 0, 0, 1, 3, 5, [1.0, 2.0, UNLIKELY])
    (several,) = predict(build_head(), outputs)
    assert several.labels.tolist() == [1, 0]
    assert several.scores.tolist() == pytest.approx(torch.tensor([2.0, 1.0]).sigmoid().tolist(), abs=1e-4)
    (best,) = predict(build_head(test_cfg={'multi_label': False}), outputs)
    assert best.labels.tolist() == [1]
    exclusive = build_head(loss_cls={'type': 'mmdet.CrossEntropyLoss'})
    (softmax,) = predict(exclusive, outputs)
    assert softmax.labels.tolist() == [1]
    # softmax over (1, 2, -12)
    assert softmax.scores.item() == pytest.approx(torch.tensor([1.0, 2.0, UNLIKELY]).softmax(0)[1].item(), abs=1e-4)
    assert exclusive.class_scores(torch.randn(5, 3)).sum(-1).tolist() == pytest.approx([1.0] * 5)


def test_one_class_is_scored_by_objectness() -> None:
    outputs = silent_outputs(num_classes=1)
    speak(outputs, 0, 0, 1, 3, 5, [-3.0], obj=0.5)
    (result,) = predict(build_head(num_classes=1), outputs)
    assert result.scores.tolist() == pytest.approx([torch.tensor(0.5).sigmoid().item()])


def test_score_is_the_product() -> None:
    outputs = silent_outputs()
    speak(outputs, 0, 0, 1, 3, 5, [1.0, UNLIKELY, UNLIKELY], obj=-2.0)
    (result,) = predict(build_head(), outputs)
    product = torch.tensor(1.0).sigmoid() * torch.tensor(-2.0).sigmoid()
    assert result.scores[0].item() == pytest.approx(product.item(), rel=1e-5)
    (above,) = predict(build_head(test_cfg={'score_thr': 0.1}), outputs)  # objectness 0.119, score 0.087
    assert len(above) == 0


def test_nothing_found_has_the_right_types() -> None:
    for rescale in (True, False):
        (result,) = predict(build_head(), silent_outputs(), rescale=rescale)
        assert result.bboxes.shape == (0, 4)
        assert result.scores.shape == result.labels.shape == (0,)
        assert (result.bboxes.dtype, result.labels.dtype) == (torch.float32, torch.long)


def test_best_three_hundred_after_class_wise_nms() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = tuple([torch.randn(level.shape, generator=generator) for level in part] for part in silent_outputs())
    (result,) = predict(build_head(test_cfg={'max_per_img': 20}), outputs)
    assert len(result) == 20
    assert result.scores.tolist() == sorted(result.scores.tolist(), reverse=True)
    (raw,) = build_head().predict_by_feat(merge_maps(*outputs), batch_img_metas=[META], with_nms=False)
    assert len(raw) > 300
    (overridden,) = build_head().predict_by_feat(merge_maps(*outputs), batch_img_metas=[META], cfg={'max_per_img': 7})
    assert len(overridden) == 7


def test_batch_equals_its_images() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = tuple(
        [torch.randn(level.shape, generator=generator) for level in part] for part in silent_outputs(num_images=3)
    )
    together = predict(build_head(), outputs, META, META, META)
    for index, result in enumerate(together):
        (alone,) = predict(build_head(), tuple([level[index : index + 1] for level in part] for part in outputs))
        for name in ('bboxes', 'scores', 'labels'):
            torch.testing.assert_close(result[name], alone[name])


@pytest.mark.parametrize('num_classes', [1, 3])
@pytest.mark.parametrize('exclusive', [False, True])
def test_likely_places_are_decoded_as_all_are(num_classes: int, exclusive: bool) -> None:
    loss_cls = {'loss_cls': {'type': 'mmdet.CrossEntropyLoss'}} if exclusive else {}
    torch.manual_seed(0)
    head = build_head(num_classes, **loss_cls)
    generator = torch.Generator().manual_seed(0)
    feats = [torch.randn(2, 8, SIZE_HW[0] // stride, SIZE_HW[1] // stride, generator=generator) for stride in STRIDES]
    (maps,) = head([feats[0].contiguous(memory_format=torch.channels_last), *feats[1:]])
    boxes, objectness, classes = head.decode(maps)
    threshold = objectness.median().item()
    image, likely_boxes, scores = head.decode_likely(maps, threshold)
    assert 0 < len(image) < objectness.numel()
    for index in range(2):
        above, mine = objectness[index] > threshold, image == index
        torch.testing.assert_close(likely_boxes[mine], boxes[index, above])
        torch.testing.assert_close(scores[mine], objectness[index, above, None] * classes[index, above])
    assert [field.shape for field in head.decode_likely(maps, 1.0)] == [(0,), (0, 4), (0, num_classes)]


def test_a_forward_or_a_prediction_of_its_own_is_used() -> None:
    class Silent(YOLOv5Head):
        def forward(self, feats):
            (maps,) = super().forward(feats)
            shift = torch.tensor([0, 0, 0, 0, -30, 0, 0, 0]).repeat(3)[:, None, None]  # of the objectness
            return ([level + shift for level in maps],)

    class Counting(YOLOv5Head):
        def predict_by_feat(self, *args, **kwargs):
            return ['mine', *super().predict_by_feat(*args, **kwargs)]

    generator = torch.Generator().manual_seed(0)
    feats = [torch.randn(1, 8, SIZE_HW[0] // stride, SIZE_HW[1] // stride, generator=generator) for stride in STRIDES]
    sample = DetDataSample(metainfo=META)
    counts = []
    for kind in (YOLOv5Head, Silent, Counting):
        torch.manual_seed(0)
        counts.append(kind(num_classes=3, in_channels=[8, 8, 8]).eval().predict(feats, [sample]))
    assert len(counts[0][0]) > 0 and len(counts[1][0]) == 0
    assert counts[2][0] == 'mine'
    torch.testing.assert_close(counts[2][1].scores, counts[0][0].scores)


def test_half_precision_outputs_are_decoded_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(level.shape, generator=generator).bfloat16() for level in merge_maps(*silent_outputs())]
    head = build_head()
    decoded, expected = head.decode(maps), head.decode([level.float() for level in maps])
    for ours, theirs in zip(decoded, expected, strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, theirs)
