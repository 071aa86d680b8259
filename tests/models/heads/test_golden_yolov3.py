"""YOLOv3Head against the losses, gradients and positives of the original implementation."""

import pytest
from golden_cases import ANCHORS_PX, CASES, assert_golden, assert_positives, golden_inputs, run_loss

from mmyolo_ext.models.heads import YOLOv3Head

YOLOV3_CASES = [name for name in CASES if name.startswith('yolov3')]


def build_head(case: dict) -> YOLOv3Head:
    """The cases' gains are the head's own, so that its defaults are what is tested."""
    assert {'giou': 3.54, 'obj': 64.3, 'cls': 37.4, 'iou_t': 0.2}.items() <= case['hyp'].items()
    return YOLOv3Head(
        num_classes=case['nc'],
        in_channels=[8, 8, 8],
        # the levels of these cases run deep to shallow
        prior_generator={
            'type': 'mmdet.YOLOAnchorGenerator',
            'base_sizes': ANCHORS_PX[::-1],
            'strides': case['strides'],
        },
        iou_ratio=case['gr'],
        scale_losses=False,
    )


@pytest.mark.parametrize('name', YOLOV3_CASES)
def test_losses_and_gradients(name: str) -> None:
    case = CASES[name]
    head, inputs = build_head(case), golden_inputs(case)
    for level in inputs.predictions:
        level.requires_grad_()
    assert_golden(run_loss(head, inputs), inputs, case['expected'], factor=1)


@pytest.mark.parametrize('name', YOLOV3_CASES)
def test_positives(name: str) -> None:
    case = CASES[name]
    assert_positives(build_head(case), golden_inputs(case), case['expected']['positives'])


def test_no_case_is_lost() -> None:
    assert len(YOLOV3_CASES) == 2
