"""Our ops against results of mmcv's compiled ones, kept in tests/data/compiled_ops.json (see golden_ops.py)."""

import functools
import json

import golden_ops
import pytest


@pytest.fixture(scope='module')
def golden() -> dict:
    return json.loads(golden_ops.GOLDEN.read_text(encoding='utf-8'))


collect_once = functools.cache(golden_ops.collect)


@pytest.fixture
def ours() -> dict:
    return collect_once()


def test_indices_are_equal(golden: dict, ours: dict) -> None:
    for op in ('nms', 'nms_in_full', 'nms_match'):
        assert ours[op] == golden[op], op


def test_soft_nms_is_equal(golden: dict, ours: dict) -> None:
    for method in golden_ops.SOFT_NMS:
        for ours_of_case, golden_of_case in zip(ours['soft_nms'][method], golden['soft_nms'][method], strict=True):
            assert ours_of_case['indices'] == golden_of_case['indices']
            assert ours_of_case['scores'] == pytest.approx(golden_of_case['scores'], rel=1e-6, nan_ok=True)


def test_roi_align_is_equal(golden: dict, ours: dict) -> None:
    for setting, ours_of_case, golden_of_case in zip(
        golden_ops.ROI_ALIGN, ours['roi_align'], golden['roi_align'], strict=True
    ):
        for part, values in golden_of_case.items():
            assert ours_of_case[part] == pytest.approx(values, rel=1e-5, abs=1e-6), (setting, part)


@pytest.mark.parametrize('op', ['deform_conv', 'modulated_deform_conv'])
def test_deform_conv_is_equal(op: str, golden: dict, ours: dict) -> None:
    for part, values in golden[op].items():
        assert ours[op][part] == pytest.approx(values, rel=1e-5, abs=2e-6), part


def test_deform_conv_at_the_border_is_equal(golden: dict, ours: dict) -> None:
    settings = [(offset_yx, masked) for offset_yx in golden_ops.BORDER for masked in (False, True)]
    for setting, ours_of_case, golden_of_case in zip(
        settings, ours['deform_conv_border'], golden['deform_conv_border'], strict=True
    ):
        for part, values in golden_of_case.items():
            assert ours_of_case[part] == pytest.approx(values, rel=1e-5, abs=2e-6), (setting, part)
