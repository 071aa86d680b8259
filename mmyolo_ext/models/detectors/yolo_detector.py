"""A single-stage detector whose parts find out by themselves what fits together."""

from collections.abc import Callable
from typing import Any

from mmdet.models.detectors import SingleStageDetector
from torch import nn

from mmyolo_ext.models.detectors.feature_spec import FeatureSpec, backbone_spec, check_strides, neck_spec
from mmyolo_ext.registry import MODELS

AUTO = 'auto'


@MODELS.register_module()
class YOLODetector(SingleStageDetector):
    """Backbone, neck and dense head, of ours or of mmdet, by the names in their configs.

    A neck or head with ``in_channels='auto'`` gets the channels that the part before it gives: from that part's
    ``out_channels`` and ``out_strides``, or, where it does not declare them, from one pass of a small blank picture.
    Strides that are not those of the head's levels raise an error, instead of a detector that learns nothing.

    Args:
        backbone: config.
        bbox_head: config.
        neck: config, or None.
        train_cfg: goes to the head; so does the next.
        test_cfg: see there.
        data_preprocessor: config.
        init_cfg: as in MMEngine.

    Raises:
        ValueError: ``'auto'`` with a backbone or neck that cannot be measured, or strides unlike those of the head.
    """

    def __init__(
        self,
        backbone: dict,
        bbox_head: dict,
        neck: dict | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        # not SingleStageDetector's own: it builds all parts at once, here each is built for the one before it
        super(SingleStageDetector, self).__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.backbone = MODELS.build(backbone)
        head_asks = _is_auto(bbox_head)
        in_channels = backbone.get('in_channels', 3)
        features = _spec(backbone_spec, self.backbone, in_channels, required=head_asks or _is_auto(neck))
        if neck is not None:
            self.neck = MODELS.build(_filled_in(neck, features))
            features = features and _spec(neck_spec, self.neck, features, required=head_asks)
        self.bbox_head = MODELS.build(
            {**_filled_in(bbox_head, features), 'train_cfg': train_cfg, 'test_cfg': test_cfg}
        )
        head_strides = _strides_of(self.bbox_head)
        if features and head_strides:
            check_strides(features, head_strides, self.backbone)
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg


def _is_auto(part: dict | None) -> bool:
    return part is not None and part.get('in_channels') == AUTO


def _spec(find_out: Callable[..., FeatureSpec], *args: Any, required: bool) -> FeatureSpec | None:
    """What a part gives; None if that cannot be found out and nothing hangs on it."""
    try:
        return find_out(*args)
    except ValueError:
        if required:
            raise
        return None


def _filled_in(part: dict, features: FeatureSpec | None) -> dict:
    """The config with ``'auto'`` replaced; never changes the one it was given."""
    if not _is_auto(part):
        return part
    return {**part, 'in_channels': list(features.channels)}


def _strides_of(head: nn.Module) -> tuple[int, ...] | None:
    """Strides of the levels a head has priors for, of ours or mmdet's; None if it does not say."""
    strides = getattr(getattr(head, 'prior_generator', None), 'strides', None)
    return strides and tuple(stride_w for stride_w, _ in strides)
