"""The ops under test are ours, whether or not mmcv has its own."""

import importlib
from collections.abc import Iterator

import pytest

from mmyolo_ext.ops import SuppliedOps

MODULES = (
    'carafe',
    'deform_conv',
    'deform_roi_pool',
    'focal_loss',
    'masked_conv',
    'modulated_deform_conv',
    'multi_scale_deform_attn',
    'nms',
    'roi_align',
)


@pytest.fixture(autouse=True)
def our_ops(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    ops = SuppliedOps('ours')
    for name in MODULES:
        monkeypatch.setattr(importlib.import_module(f'mmcv.ops.{name}'), 'ext_module', ops)
    yield
