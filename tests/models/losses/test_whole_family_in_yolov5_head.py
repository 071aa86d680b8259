"""Every loss that mmdet and we register, in every place of YOLOv5Head: refused when built, or taught."""

from typing import Any

import mmdet.models.losses
import pytest
from mmdet.registry import MODELS as MMDET_MODELS
from yolov5_head_step import NO_TRUTH, build_head, step

from mmyolo_ext.models import losses

BCE = {'type': 'mmyolo_ext.BCELoss'}
THEIRS = sorted(f'mmdet.{name}' for name in dir(mmdet.models.losses) if name in MMDET_MODELS.module_dict)
OURS = [f'mmyolo_ext.{name}' for name in losses.__all__]
NEEDED: dict[str, dict[str, Any]] = {
    'mmdet.CrossEntropyCustomLoss': {'num_classes': 3},
    'mmdet.FocalCustomLoss': {'num_classes': 3},
    'mmdet.SeesawLoss': {'num_classes': 3},
    'mmdet.EQLV2Loss': {'num_classes': 3},
    'mmyolo_ext.FocalLoss': {'loss': BCE},
    'mmyolo_ext.QualityFocalLoss': {'loss': BCE},
    'mmyolo_ext.SlideLoss': {'loss': BCE},
    'mmyolo_ext.SumLoss': {'losses': [{'type': 'mmyolo_ext.IoULoss'}]},
}
PLACES = ('loss_cls', 'loss_obj', 'loss_bbox')
WRAPPERS = ('SlideLoss', 'FocalLoss', 'QualityFocalLoss')
# what must be taught there, by the issue or by its nature; the rest may be either
TAUGHT = {
    'loss_cls': {'CrossEntropyLoss', 'FocalLoss', 'QualityFocalLoss', 'VarifocalLoss', 'GHMC'},
    'loss_obj': {'FocalLoss', 'QualityFocalLoss', 'VarifocalLoss', 'GHMC'},
    'loss_bbox': {'IoULoss', 'GIoULoss', 'DIoULoss', 'CIoULoss', 'EIoULoss', 'SIoULoss', 'BoundedIoULoss', 'GHMR'},
}
TAUGHT_OF_OURS = {
    'loss_cls': {'BCELoss', 'FocalLoss', 'QualityFocalLoss', 'SlideLoss'},
    'loss_obj': {'BCELoss', 'FocalLoss', 'QualityFocalLoss', 'SlideLoss'},
    'loss_bbox': {'IoULoss', 'NWDLoss', 'RepulsionLoss', 'SumLoss'},
}


def is_taught(place: str, loss: dict) -> bool:
    """Whether the head takes it; if so it must give finite numbers and gradients, with boxes and without."""
    try:
        head = build_head(**{place: loss})
    except ValueError as error:
        # of a wrapper, or of the head
        assert 'FocalLoss' in str(error) or place in str(error), error
        return False
    step(head)
    step(head, NO_TRUTH)
    return True


@pytest.mark.parametrize('place', PLACES)
@pytest.mark.parametrize('name', THEIRS + OURS)
def test_refused_or_taught(name: str, place: str) -> None:
    package, kind = name.split('.')
    taught = is_taught(place, {'type': name, **NEEDED.get(name, {})})
    if kind in (TAUGHT if package == 'mmdet' else TAUGHT_OF_OURS)[place]:
        assert taught
    if name in ('mmdet.SeesawLoss', 'mmdet.EQLV2Loss', 'mmdet.GaussianFocalLoss'):
        assert not taught


@pytest.mark.parametrize('place', ['loss_cls', 'loss_obj'])
@pytest.mark.parametrize('name', THEIRS + OURS)
def test_wrapped_it_is_refused_or_taught(name: str, place: str) -> None:
    for wrapper in WRAPPERS:
        inner = {'type': name, **NEEDED.get(name, {})}
        is_taught(place, {'type': f'mmyolo_ext.{wrapper}', 'loss': inner})


def test_the_family_is_whole() -> None:
    assert len(THEIRS) >= 25
    assert set().union(*TAUGHT.values()) <= {name.split('.')[1] for name in THEIRS}
    assert set().union(*TAUGHT_OF_OURS.values()) == {name.split('.')[1] for name in OURS}
