"""Gathering predictions at positives: values and gradients against plain indexing, in every layout and precision."""

import pytest
import torch
from torch import Tensor

from mmyolo_ext.models.heads.gather import gather_positives
from mmyolo_ext.models.task_modules import Positives

IMAGES, ANCHORS, CLASSES, ROWS, COLUMNS = 2, 3, 4, 5, 6
NUMBERS = 5 + CLASSES
# image, anchor, row, column; the first place is named twice
PLACES = torch.tensor([[1, 2, 4, 5], [0, 0, 0, 0], [1, 2, 4, 5], [0, 1, 2, 3]])
VALID = torch.tensor([True, True, True, False])


def positives(padded: bool) -> Positives:
    return Positives(*PLACES.unbind(1), torch.arange(len(PLACES)), VALID if padded else None)


def contiguous(pred: Tensor) -> Tensor:
    return pred.contiguous()


def channels_last(pred: Tensor) -> Tensor:
    return pred.contiguous(memory_format=torch.channels_last)


def every_second_column(pred: Tensor) -> Tensor:
    return pred.repeat_interleave(2, dim=3)[..., ::2]


def later_images(pred: Tensor) -> Tensor:
    """Dense, but not from the start of its memory."""
    return torch.cat([torch.full_like(pred, torch.nan), pred])[IMAGES:]


LAYOUTS = [contiguous, channels_last, every_second_column, later_images]


def random_map(dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(IMAGES, ANCHORS * NUMBERS, ROWS, COLUMNS, generator=generator, dtype=torch.float64).to(dtype)


def gather(pred: Tensor, padded: bool) -> tuple[Tensor, Tensor]:
    return gather_positives(pred, ANCHORS, positives(padded))


def gather_by_indexing(pred: Tensor, padded: bool) -> tuple[Tensor, Tensor]:
    """One positive after the other, then objectness."""
    rows = []
    for (image, anchor, row, column), valid in zip(PLACES.tolist(), VALID.tolist(), strict=True):
        numbers = pred[image, anchor * NUMBERS : (anchor + 1) * NUMBERS, row, column]
        rows.append(numbers if valid or not padded else torch.zeros_like(numbers))
    return torch.stack(rows), pred[:, 4::NUMBERS]


@pytest.mark.parametrize('padded', [False, True])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_values_and_gradients_are_those_of_indexing(layout, padded: bool) -> None:
    results = []
    for read in (gather, gather_by_indexing):
        pred = layout(random_map()).requires_grad_()
        values = read(pred, padded)
        weights = [torch.arange(value.numel(), dtype=torch.float64).view_as(value).sin() for value in values]
        total = sum((value * weight).sum() for value, weight in zip(values, weights, strict=True))
        results.append((*values, *torch.autograd.grad(total, pred)))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-14, atol=0)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_gradcheck(layout) -> None:
    pred = layout(random_map()).requires_grad_()
    assert torch.autograd.gradcheck(lambda pred: gather(pred, padded=True), pred, fast_mode=True)


@pytest.mark.parametrize('layout', [contiguous, channels_last])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_gradient_has_the_layout_and_precision_of_the_map(layout, dtype: torch.dtype) -> None:
    pred = layout(random_map(dtype)).requires_grad_()
    rows, objectness = gather(pred, padded=False)
    assert rows.dtype == torch.float32 and objectness.dtype == dtype
    (gradient,) = torch.autograd.grad(rows[:, :4].sum() + objectness.float().sum(), pred)
    assert gradient.stride() == pred.stride()
    assert gradient.dtype == dtype
    # a box number of the place named twice counts twice; objectness once everywhere; the rest not at all
    assert gradient[1, 2 * NUMBERS : 2 * NUMBERS + 5, 4, 5].tolist() == [2, 2, 2, 2, 1]
    assert gradient.sum().item() == len(PLACES) * 4 + IMAGES * ANCHORS * ROWS * COLUMNS


def test_one_part_alone_has_a_gradient_too() -> None:
    pred = random_map().requires_grad_()
    rows, objectness = gather(pred, padded=False)
    (of_objectness,) = torch.autograd.grad(objectness.sum(), pred, retain_graph=True)
    (of_classes,) = torch.autograd.grad(rows[:, 5:].sum(), pred)
    assert of_objectness.sum().item() == IMAGES * ANCHORS * ROWS * COLUMNS
    assert of_classes.sum().item() == len(PLACES) * CLASSES


def test_what_stands_at_padding_does_no_harm() -> None:
    pred = random_map()
    image, anchor, row, column = PLACES[3].tolist()
    pred[image, anchor * NUMBERS + 5 : (anchor + 1) * NUMBERS, row, column] = torch.inf
    pred.requires_grad_()
    logits = gather(pred, padded=True)[0]
    (gradient,) = torch.autograd.grad(logits.square().sum(), pred)
    assert logits.isfinite().all()
    assert gradient.isfinite().all()
