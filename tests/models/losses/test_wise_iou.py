"""Wise-IoU, and the options of IoULoss: values by hand, constants for the gradient, the running mean."""

import math

import pytest
import torch

import mmyolo_ext  # noqa: F401  (registers the scope)
from mmyolo_ext.boxes import paired_iou
from mmyolo_ext.models.losses import IoULoss
from mmyolo_ext.models.losses.box_losses import LOSS_MODES, MOMENTUM, WiseIoUV3, distance_attention

BOX = torch.tensor([[0.0, 0.0, 4.0, 2.0]])
TARGET = torch.tensor([[2.0, 1.0, 4.0, 5.0]])
# IoU 2 / 14; centres 5 apart squared; enclosing box 4 x 5
IOU_LOSS = 6 / 7
V1 = math.exp(5 / 41) * IOU_LOSS


def random_pairs() -> tuple[torch.Tensor, torch.Tensor]:
    corners, sizes = torch.rand(2, 20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    boxes = torch.stack([corners, corners + torch.cat([sizes[:, 2:], sizes[:, :2]], 1) + 0.1])
    return tuple(torch.cat([boxes[0, :, part], boxes[1, :, part]], 1) for part in (slice(0, 2), slice(2, 4)))


def test_v1_by_hand() -> None:
    assert IoULoss('wiou_v1')(BOX, TARGET).item() == pytest.approx(V1)


def test_v3_by_hand() -> None:
    loss = IoULoss('wiou_v3', focus={'alpha': 1.9, 'delta': 3.0, 'momentum': 0.25}, loss_weight=2.0)
    # the running mean starts at 1: b = 6/7, r = b / (3 * 1.9^(b - 3))
    outlier = IOU_LOSS / 1
    assert loss(BOX, TARGET).item() == pytest.approx(2 * V1 * outlier / (3 * 1.9 ** (outlier - 3)))
    mean = 0.75 * 1 + 0.25 * IOU_LOSS
    assert loss.wise.running_mean.item() == pytest.approx(mean)
    outlier = IOU_LOSS / mean
    assert loss(BOX, TARGET).item() == pytest.approx(2 * V1 * outlier / (3 * 1.9 ** (outlier - 3)))


def test_v3_does_not_focus_monotonically() -> None:
    wise = WiseIoUV3().eval()
    losses = torch.linspace(0.01, 10, 1000)
    gain = wise.focus(losses)
    # d/db (b alpha^-b) = 0 at b = 1 / ln(1.9) = 1.558
    assert losses[gain.argmax()].item() == pytest.approx(1 / math.log(1.9), abs=0.01)
    assert wise.focus(torch.tensor(3.0)).item() == pytest.approx(1)


def test_running_mean_moves_in_training_alone_and_not_on_nothing() -> None:
    loss = IoULoss('wiou_v3')
    loss(torch.zeros(0, 4), torch.zeros(0, 4), avg_factor=1)
    assert loss.wise.running_mean.item() == 1
    loss.eval()(BOX, TARGET)
    assert loss.wise.running_mean.item() == 1
    loss.train()(BOX, TARGET)
    assert loss.wise.running_mean.item() == pytest.approx(1 - MOMENTUM * (1 - IOU_LOSS))
    assert list(loss.state_dict()) == ['wise.running_mean']
    # 5% of the start is left after 7,000 updates
    assert pytest.approx(0.05) == (1 - MOMENTUM) ** 7000


def test_exact_boxes_stay_finite() -> None:
    loss = IoULoss('wiou_v3', focus={'momentum': 1.0})
    boxes = BOX.clone().requires_grad_()
    for _ in range(3):
        value = loss(boxes, BOX)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert boxes.grad.isfinite().all()


@pytest.mark.parametrize('mode', ['wiou_v1', 'wiou_v3'])
@pytest.mark.parametrize('power', [1.0, 3.0])
def test_gradient_holds_the_diagonal_and_the_focus_constant(mode: str, power: float) -> None:
    boxes, targets = random_pairs()
    loss = IoULoss(mode, power=power).eval().double()
    hull = torch.maximum(boxes[:, 2:], targets[:, 2:]) - torch.minimum(boxes[:, :2], targets[:, :2])
    diagonal2 = hull.square().sum(1)
    outlier = 1 - paired_iou(boxes, targets, power=power)
    focus = outlier / (3 * 1.9 ** (outlier - 3)) if mode == 'wiou_v3' else torch.ones_like(outlier)

    def held(boxes: torch.Tensor) -> torch.Tensor:
        """The paper's formula, with what it holds constant computed beforehand."""
        centers = [(b[:, :2] + b[:, 2:]) / 2 for b in (boxes, targets)]
        attention = torch.exp((centers[0] - centers[1]).square().sum(1) / diagonal2)
        return focus * attention * (1 - paired_iou(boxes, targets, power=power))

    boxes.requires_grad_()
    assert torch.autograd.gradcheck(held, boxes)
    (expected,) = torch.autograd.grad(held(boxes).sum(), boxes)
    (actual,) = torch.autograd.grad(loss(boxes, targets, reduction_override='sum'), boxes)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_attention_is_between_1_and_e() -> None:
    boxes, targets = random_pairs()
    far = torch.tensor([[0.0, 0.0, 0.0, 0.0]]), torch.tensor([[5.0, 7.0, 5.0, 7.0]])
    for pair in ((boxes, targets), far, (BOX, BOX)):
        attention = distance_attention(*pair, eps=1e-7)
        assert ((attention >= 1) & (attention <= math.e + 1e-6)).all()


@pytest.mark.parametrize('mode', LOSS_MODES)
@pytest.mark.parametrize('power', [0.5, 1.0, 3.0])
def test_every_mode_is_finite_on_boxes_without_area(mode: str, power: float) -> None:
    rows = [[1.0, 1, 1, 1], [0, 1, 4, 1], [3, 3, 1, 1], [0, 0, 0, 0], [-1e6, -1e6, 1e6, 1e6]]
    boxes = torch.tensor(rows).repeat_interleave(5, 0).requires_grad_()
    targets = torch.tensor(rows).repeat(5, 1)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        half = torch.bfloat16 if dtype == torch.float32 else dtype
        with torch.autocast('cpu', dtype=half, enabled=dtype != torch.float32):
            loss = IoULoss(mode, power=power)(boxes, targets, avg_factor=1)
        (gradient,) = torch.autograd.grad(loss, boxes)
        assert loss.dtype == torch.float32
        assert loss.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize('mode', LOSS_MODES)
def test_every_mode_takes_no_boxes(mode: str) -> None:
    nothing = torch.zeros(0, 4, requires_grad=True)
    loss = IoULoss(mode, power=2.0)(nothing, torch.zeros(0, 4), avg_factor=1)
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize('mode', LOSS_MODES)
def test_every_mode_falls_as_a_box_nears_its_target(mode: str) -> None:
    share = torch.linspace(0, 0.99, 30)[:, None]
    boxes = torch.tensor([[8.0, 9.0, 9.0, 12.0]]) * (1 - share) + TARGET * share
    losses = IoULoss(mode).eval()(boxes, TARGET.expand(30, 4), reduction_override='none')
    # apart they have an IoU of 0, and v3's gain rises as the outlier degree falls: so strictly where they overlap
    assert (losses.diff() < 1e-6).all() or mode == 'wiou_v3'
    assert (losses[20:].diff() < 0).all()


def test_power_by_hand() -> None:
    assert IoULoss('iou', power=3.0)(BOX, TARGET).item() == pytest.approx(1 - (1 / 7) ** 3)
    assert IoULoss('wiou_v1', power=3.0)(BOX, TARGET).item() == pytest.approx(math.exp(5 / 41) * (1 - (1 / 7) ** 3))


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'mode': 'wiou'}, r"mode must be one of .*'siou', 'wiou_v1', 'wiou_v3'\), got 'wiou'"),
        ({'power': -1.0}, 'power must be above 0, got -1.0'),
        ({'focus': {'alpha': 2.0}}, "focus is an option of mode='wiou_v3'"),
        ({'mode': 'wiou_v3', 'focus': {'alpha': 1.0}}, 'alpha above 1'),
        ({'mode': 'wiou_v3', 'focus': {'momentum': 0.0}}, 'momentum=0.0'),
    ],
)
def test_bad_arguments(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IoULoss(**kwargs)
