"""Every loss that mmdet and we register, in every place of YOLOv5Head."""

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
# what must work
WORKS = {
    'loss_cls': {'CrossEntropyLoss', 'FocalLoss', 'QualityFocalLoss', 'VarifocalLoss', 'GHMC'},
    'loss_obj': {'FocalLoss', 'QualityFocalLoss', 'VarifocalLoss', 'GHMC'},
    'loss_bbox': {'IoULoss', 'GIoULoss', 'DIoULoss', 'CIoULoss', 'EIoULoss', 'SIoULoss', 'BoundedIoULoss', 'GHMR'},
}
WORKS_OF_OURS = {
    'loss_cls': {'BCELoss', 'FocalLoss', 'QualityFocalLoss', 'SlideLoss'},
    'loss_obj': {'BCELoss', 'FocalLoss', 'QualityFocalLoss', 'SlideLoss'},
    'loss_bbox': {'IoULoss', 'NWDLoss', 'RepulsionLoss', 'SumLoss'},
}


@pytest.mark.parametrize('place', PLACES)
@pytest.mark.parametrize('name', THEIRS + OURS)
def test_works_or_is_refused(name: str, place: str) -> None:
    """A loss that must work gives finite losses and gradients; any other is built or refused with its name."""
    package, kind = name.split('.')
    loss = {'type': name, **NEEDED.get(name, {})}
    if kind in (WORKS if package == 'mmdet' else WORKS_OF_OURS)[place]:
        head = build_head(**{place: loss})
        step(head)
        step(head, NO_TRUTH)
        return
    try:
        build_head(**{place: loss})
    except ValueError as error:
        assert 'FocalLoss' in str(error) or place in str(error), error


@pytest.mark.parametrize('place', ['loss_cls', 'loss_obj'])
@pytest.mark.parametrize('wrapper', ['SlideLoss', 'FocalLoss', 'QualityFocalLoss'])
@pytest.mark.parametrize('name', ['mmdet.FocalLoss', 'mmdet.VarifocalLoss', 'mmdet.GHMC', 'mmyolo_ext.BCELoss'])
def test_wrapped(name: str, wrapper: str, place: str) -> None:
    head = build_head(**{place: {'type': f'mmyolo_ext.{wrapper}', 'loss': {'type': name}}})
    step(head)
    step(head, NO_TRUTH)


def test_the_family_is_whole() -> None:
    assert len(THEIRS) >= 25
    assert set().union(*WORKS.values()) <= {name.split('.')[1] for name in THEIRS}
    assert set().union(*WORKS_OF_OURS.values()) == {name.split('.')[1] for name in OURS}
