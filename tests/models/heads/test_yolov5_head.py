"""The head: losses against loops, ignore regions, empty images, predictions in original pixels."""

import math

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from pred_maps import split_maps
from torch import Tensor

from mmyolo_ext.boxes import paired_iou, xyxy_to_cxcywh
from mmyolo_ext.models.heads import YOLOv5Head
from mmyolo_ext.models.heads.targets import class_targets

SIZE_HW = (64, 96)
NUM_CLASSES = 3
CHANNELS = (8, 16, 24)
STRIDES = (8, 16, 32)


def build_head(**kwargs) -> YOLOv5Head:
    torch.manual_seed(0)
    return YOLOv5Head(**{'num_classes': NUM_CLASSES, 'in_channels': CHANNELS, 'scale_losses': False, **kwargs})


def features(num_images: int, seed: int = 0, size_hw: tuple[int, int] = SIZE_HW) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(num_images, channels, size_hw[0] // stride, size_hw[1] // stride, generator=generator)
        for channels, stride in zip(CHANNELS, STRIDES, strict=True)
    ]


def boxes_of(*rows: tuple[float, ...]) -> InstanceData:
    """Ground truth of an image from rows (x1, y1, x2, y2, label)."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    return InstanceData(bboxes=table[:, :4], labels=table[:, 4].long())


TRUTH = [
    boxes_of((3, 5, 30, 40, 0), (3, 5, 31, 42, 2), (50, 10, 90, 60, 1)),
    boxes_of(),
    boxes_of((60, 33, 95, 63, 2), (10, 10, 22, 26, 1)),
]
METAS = [{'batch_input_shape': SIZE_HW, 'img_shape': SIZE_HW}] * 3


def losses_by_loops(head: YOLOv5Head, pred_maps: list[Tensor], truth: list[InstanceData]) -> dict[str, float]:
    """The same losses, one number at a time."""
    sums = {'loss_cls': 0.0, 'loss_bbox': 0.0, 'loss_obj': 0.0}
    for level, (cls_score, bbox_pred, objectness) in enumerate(zip(*split_maps(pred_maps), strict=True)):
        stride, anchors = STRIDES[level], head.anchors_wh[level].tolist()
        target = torch.zeros_like(objectness)
        box_terms, class_terms = [], []
        for image, instances in enumerate(truth):
            boxes = xyxy_to_cxcywh(instances.bboxes) / stride
            matches = head.assigner.assign(
                boxes * stride,
                torch.zeros(len(boxes)).long(),
                head.anchors_wh,
                STRIDES,
                [pred_map.shape[2:] for pred_map in pred_maps],
            )[level]
            for a, row, column, g in zip(
                *(f.tolist() for f in (matches.anchor, matches.cell_y, matches.cell_x, matches.gt)), strict=True
            ):
                tx, ty, tw, th = (bbox_pred[image, a * 4 + i, row, column].sigmoid().item() for i in range(4))
                x, y = 2 * tx - 0.5 + column, 2 * ty - 0.5 + row
                w, h = (2 * tw) ** 2 * anchors[a][0] / stride, (2 * th) ** 2 * anchors[a][1] / stride
                box = torch.tensor([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
                ciou = paired_iou(box, instances.bboxes[g] / stride, 'ciou').item()
                box_terms.append(1 - ciou)
                target[image, a, row, column] = max(target[image, a, row, column].item(), ciou)
                for c in range(NUM_CLASSES):
                    p = cls_score[image, a * NUM_CLASSES + c, row, column].sigmoid().item()
                    class_terms.append(-math.log(p if c == instances.labels[g] else 1 - p))
        p = objectness.sigmoid()
        bce = -(target * p.log() + (1 - target) * (1 - p).log())
        sums['loss_obj'] += (4.0, 1.0, 0.4)[level] * bce.mean().item()
        if box_terms:
            sums['loss_bbox'] += 0.05 * sum(box_terms) / len(box_terms)
            sums['loss_cls'] += 0.5 * sum(class_terms) / len(class_terms)
    return {name: value * len(truth) for name, value in sums.items()}


def test_loss_equals_the_loops() -> None:
    head = build_head()
    (maps,) = head(features(3))
    losses = head.loss_by_feat(maps, TRUTH, METAS)
    expected = losses_by_loops(head, [level.detach() for level in maps], TRUTH)
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, rel=1e-4)


def test_loss_heeds_a_subclass() -> None:
    class OwnForward(YOLOv5Head):
        def forward(self, feats):
            return ([level * 0 for level in super().forward(feats)[0]],)

    class OwnLoss(YOLOv5Head):
        def loss_by_feat(self, *args, **kwargs):
            return {'loss_own': torch.tensor(7.0)}

    samples = [DetDataSample(gt_instances=truth, metainfo=meta) for truth, meta in zip(TRUTH, METAS, strict=True)]
    losses = OwnForward(NUM_CLASSES, CHANNELS, scale_losses=False).loss(features(3), samples)
    # all logits 0: -ln(1/2) for every class, gain 0.5, three levels with positives, three images
    assert losses['loss_cls'].item() == pytest.approx(0.5 * 3 * 3 * math.log(2), rel=1e-5)
    assert OwnLoss(NUM_CLASSES, CHANNELS).loss(features(3), samples) == {'loss_own': torch.tensor(7.0)}


def test_output_layout() -> None:
    head = build_head()
    (maps,) = head(features(2))
    for level, stride in enumerate(STRIDES):
        assert maps[level].shape == (2, 3 * (5 + NUM_CLASSES), SIZE_HW[0] // stride, SIZE_HW[1] // stride)
    # anchor-major [x, y, w, h, obj, classes...]: anchor 1 starts at channel 8, its objectness is channel 12
    maps[0].data[:, 12] = 20.0
    maps[0].data[:, 8:12] = 0.0
    boxes, objectness, _ = head.decode(maps)
    place = 8 * 12 + 12 + 2  # level 0, anchor 1 (16 x 30), row 1, column 2
    assert objectness[0, place].item() == 1
    assert boxes[0, place].tolist() == [20 - 8, 12 - 15, 20 + 8, 12 + 15]


def test_batch_equals_its_images() -> None:
    """Class and box terms are means over positives; with as many of them in each image the batch is their sum."""
    head = build_head()
    feats = features(2)
    truth = [TRUTH[0], TRUTH[0]]
    together = head.loss_by_feat(*head(feats), truth, METAS[:2])
    singles = [
        head.loss_by_feat(*head([level[i : i + 1] for level in feats]), truth[i : i + 1], METAS[:1]) for i in range(2)
    ]
    for name, loss in together.items():
        assert loss.item() == pytest.approx(sum(single[name].item() for single in singles), rel=1e-5)


@pytest.mark.parametrize('num_classes', [1, NUM_CLASSES])
@pytest.mark.parametrize('loss_cls', ['mmyolo_ext.BCELoss', 'mmdet.CrossEntropyLoss'])
def test_no_boxes_give_every_parameter_a_finite_gradient(num_classes: int, loss_cls: str) -> None:
    head = build_head(num_classes=num_classes, loss_cls={'type': loss_cls})
    losses = head.loss_by_feat(*head(features(2)), [boxes_of(), boxes_of()], METAS[:2])
    assert losses['loss_cls'].item() == losses['loss_bbox'].item() == 0
    sum(losses.values()).backward()
    for parameter in head.parameters():
        assert parameter.grad.isfinite().all()
    assert head.convs_pred[0].weight.grad.abs().sum() > 0


def test_gradients_repeat_to_the_last_bit() -> None:
    head = build_head(num_classes=20)
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(400, 2, generator=generator) * 20
    crowd = InstanceData(
        bboxes=torch.cat([corner, corner + 20 + 20 * torch.rand(400, 2, generator=generator)], dim=1),
        labels=torch.randint(0, 20, (400,), generator=generator),
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        runs = []
        for _ in range(5):
            feats = [level.requires_grad_() for level in features(3)]
            losses = head.loss_by_feat(*head(feats), [crowd] * 3, METAS)
            runs.append(torch.autograd.grad(sum(losses.values()), feats))
    finally:
        torch.set_num_threads(threads)
    for run in runs[1:]:
        assert all(torch.equal(ours, first) for ours, first in zip(run, runs[0], strict=True))


def objectness_gradients(
    truth: list[InstanceData], ignored: list[InstanceData | None] | None, **kwargs
) -> list[Tensor]:
    head = build_head(**kwargs)
    maps = [level.detach().requires_grad_() for level in head(features(len(truth)))[0]]
    losses = head.loss_by_feat(maps, truth, METAS[: len(truth)], ignored)
    return split_maps(torch.autograd.grad(losses['loss_obj'], maps))[2]


def test_ignore_regions_silence_their_own_image_alone() -> None:
    region = InstanceData(bboxes=torch.tensor([[0.0, 0, 48, 64]]))  # the left half
    plain = objectness_gradients([boxes_of(), boxes_of()], None)
    with_region = objectness_gradients([boxes_of(), boxes_of()], [None, region])
    for before, after in zip(plain, with_region, strict=True):
        assert torch.equal(after[0], before[0])
    # stride 8, anchor 10 x 13: centre of column c at 8c + 4, so the anchor of column 5 spans 39..49, 9/10 inside, that
    # of column 6 spans 47..57, 1/10 inside. Rows: row 0 spans -2.5..10.5, 10.5/13 inside; row 7 likewise.
    silent = with_region[0][1, 0] == 0
    assert silent[:, :6].all()
    assert not silent[:, 6:].any()
    assert torch.equal(with_region[0][1, 0][:, 6:], plain[0][1, 0][:, 6:])
    # stride 32, anchor 373 x 326: far larger than the region
    assert torch.equal(with_region[2][1, 2], plain[2][1, 2])


def test_positives_count_inside_ignore_regions() -> None:
    truth = [boxes_of((8, 8, 24, 36, 1))]
    everything = [InstanceData(bboxes=torch.tensor([[-1e3, -1e3, 1e3, 1e3]]))]
    plain = objectness_gradients(truth, None)
    ignoring = objectness_gradients(truth, everything)
    head = build_head()
    matches = head.assigner.assign(
        xyxy_to_cxcywh(truth[0].bboxes), torch.zeros(1).long(), head.anchors_wh, STRIDES, [g.shape[2:] for g in plain]
    )
    for before, after, level in zip(plain, ignoring, matches, strict=True):
        expected = torch.zeros_like(before)
        where = (level.image, level.anchor, level.cell_y, level.cell_x)
        expected[where] = before[where]
        assert torch.equal(after, expected)


def test_ignore_threshold_comes_from_train_cfg() -> None:
    region = [InstanceData(bboxes=torch.tensor([[0.0, 0, 48, 64]]))]
    strict = objectness_gradients([boxes_of()], region, train_cfg={'ignore_iof_thr': 0.95})
    # columns 0 (-1..9) and 5 (39..49) are inside by 9/10 alone
    assert (strict[0][0, 0][2:6, 1:5] == 0).all()
    assert (strict[0][0, 0][2:6, [0, 5]] != 0).all()


def test_scale_losses_multiplies_once() -> None:
    plain = build_head()
    # class by 3/80 * 3/3, box by 1, objectness by 64 * 96 / 640^2 = 0.015
    scaled = build_head(scale_losses=True, input_size=SIZE_HW)
    scaled.load_state_dict(plain.state_dict())
    outputs = plain(features(3))
    before, after = plain.loss_by_feat(*outputs, TRUTH, METAS), scaled.loss_by_feat(*outputs, TRUTH, METAS)
    ratio = {name: (after[name] / before[name]).item() for name in before}
    assert ratio == pytest.approx({'loss_cls': 3 / 80, 'loss_bbox': 1.0, 'loss_obj': 0.015}, rel=1e-5)
    assert scaled.loss_cls.loss_weight == plain.loss_cls.loss_weight == 0.5


def test_bias_start() -> None:
    head = build_head()
    head.init_weights()
    for conv, stride in zip(head.convs_pred, STRIDES, strict=True):
        bias = conv.bias.view(3, 5 + NUM_CLASSES)
        assert bias[:, 4].tolist() == pytest.approx([math.log(8 / (640 / stride) ** 2)] * 3)
        assert bias[:, 5:].flatten().tolist() == pytest.approx([math.log(0.6 / 2.01)] * 9)


def test_smoothing_and_exclusive_classes() -> None:
    labels = torch.tensor([2, 0])
    assert class_targets(labels, 3, 0.1, use_sigmoid=True).flatten().tolist() == pytest.approx(
        [0.05, 0.05, 0.95, 0.95, 0.05, 0.05]
    )
    assert class_targets(labels, 3, 0, use_sigmoid=False).tolist() == [2, 0]
    smooth = class_targets(labels, 4, 0.2, use_sigmoid=False)  # 0.8 one-hot + 0.2 / 4
    assert smooth.flatten().tolist() == pytest.approx([0.05, 0.05, 0.85, 0.05, 0.85, 0.05, 0.05, 0.05])
    head = build_head(loss_cls={'type': 'mmdet.CrossEntropyLoss'}, label_smoothing=0.1)
    losses = head.loss_by_feat(*head(features(3)), TRUTH, METAS)
    assert losses['loss_cls'].isfinite()


@pytest.mark.parametrize(
    'loss',
    [
        {'type': 'mmdet.CrossEntropyLoss', 'use_sigmoid': True},
        {'type': 'mmdet.FocalLoss'},
        {'type': 'mmdet.QualityFocalLoss'},
        {'type': 'mmyolo_ext.BCELoss', 'pos_weight': 2.0},
    ],
)
def test_losses_of_mmdet_fit(loss: dict) -> None:
    region = [None, None, InstanceData(bboxes=torch.tensor([[0.0, 0, 48, 64]]))]
    terms = ['loss_obj'] if loss['type'] == 'mmdet.QualityFocalLoss' else ['loss_obj', 'loss_cls']
    head = build_head(**dict.fromkeys(terms, loss))
    for ignored in (None, region):
        losses = head.loss_by_feat(*head(features(3)), TRUTH, METAS, ignored)
        sum(losses.values()).backward()
        assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


def test_mmdet_binary_cross_entropy_equals_ours() -> None:
    theirs = {'type': 'mmdet.CrossEntropyLoss', 'use_sigmoid': True}
    heads = build_head(), build_head(loss_obj=theirs, loss_cls={**theirs, 'loss_weight': 0.5})
    ours, other = (head.loss_by_feat(*head(features(3)), TRUTH, METAS) for head in heads)
    for name, loss in ours.items():
        torch.testing.assert_close(other[name], loss)


def test_losses_under_autocast_are_float32() -> None:
    head = build_head()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = head.loss_by_feat(*head(features(3)), TRUTH, METAS)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize(
    ('bad', 'message'),
    [
        ({'num_classes': 0}, 'num_classes must be 1 or more, got 0'),
        ({'in_channels': [8, 8]}, r'each of the 3 levels .*, got \(8, 8\)'),
        ({'in_channels': 'auto'}, 'YOLODetector'),
        ({'iou_ratio': 1.5}, 'iou_ratio must be from 0 to 1, got 1.5'),
        ({'label_smoothing': -0.1}, 'label_smoothing'),
    ],
)
def test_bad_arguments(bad: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_head(**bad)


def test_defaults_make_a_working_head() -> None:
    head = YOLOv5Head()
    assert head.in_channels == (128, 256, 512) and head.num_classes == 80
    assert head.strides == STRIDES
    assert head.gains == {'loss_cls': 1, 'loss_bbox': 1, 'loss_obj': 1}
    assert list(head.state_dict()) == [f'convs_pred.{i}.{name}' for i in range(3) for name in ('weight', 'bias')]
