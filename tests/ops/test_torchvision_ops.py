"""torchvision's ops are taken where they work, and where they do not, nothing breaks."""

import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch
from mmcv.ops import deform_conv2d, roi_align

from mmyolo_ext.ops.sampling import torchvision_ops

CPU = torch.device('cpu')


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    torchvision_ops.cache_clear()
    yield
    torchvision_ops.cache_clear()


def fake_torchvision(monkeypatch: pytest.MonkeyPatch, **ops: Callable) -> ModuleType:
    torchvision = ModuleType('torchvision')
    torchvision.ops = ModuleType('torchvision.ops')
    vars(torchvision.ops).update(ops)
    monkeypatch.setitem(sys.modules, 'torchvision', torchvision)
    return torchvision


def fail(*args: object) -> None:
    raise RuntimeError('operator torchvision::nms does not exist')


def test_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'torchvision', None)
    assert torchvision_ops(CPU) is None


def test_built_for_another_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_torchvision(monkeypatch, nms=fail, roi_align=fail)
    assert torchvision_ops(CPU) is None
    assert roi_align(torch.ones(1, 1, 4, 4), torch.tensor([[0, 0.0, 0, 2, 2]]), 1).item() == 1


def test_taken_where_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def own_roi_align(maps, rois, size, scale, ratio, aligned):
        calls.append((size, scale, ratio, aligned))
        return torch.full((len(rois), maps.size(1), *size), 7.0)

    def own_deform_conv2d(maps, offset, weight, bias, stride, padding, dilation, mask):
        calls.append((stride, padding, dilation, bias, mask))
        return maps.new_full((1, 1, 4, 4), 5.0)

    fake_torchvision(monkeypatch, nms=lambda *_: None, roi_align=own_roi_align, deform_conv2d=own_deform_conv2d)
    output = roi_align(torch.ones(1, 1, 4, 4), torch.tensor([[0, 0.0, 0, 2, 2]]), (1, 2), 0.5, 3, 'avg', False)
    assert output.flatten().tolist() == [7, 7]
    assert (deform_conv2d(torch.ones(1, 1, 4, 4), torch.zeros(1, 18, 4, 4), torch.ones(1, 1, 3, 3), 1, 1) == 5).all()
    assert calls == [((1, 2), 0.5, 3, False), ((1, 1), (1, 1), (1, 1), None, None)]


def test_equals_real_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    if torchvision_ops(CPU) is None:
        pytest.skip('no torchvision with ops for this torch')
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(1, 2, 8, 9, generator=generator)
    rois = torch.tensor([[0, 1.0, 2, 6, 7], [0, 0, 0, 8, 8]])
    theirs = roi_align(maps, rois, 3)
    monkeypatch.setitem(sys.modules, 'torchvision', None)
    torchvision_ops.cache_clear()
    assert torch.allclose(theirs, roi_align(maps, rois, 3), atol=1e-6)
