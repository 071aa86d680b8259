"""A single-stage detector whose parts find out by themselves what fits together."""

from collections.abc import Sequence

from mmdet.models.detectors import SingleStageDetector

from mmyolo_ext.models.detectors.feature_path import build_backbone, build_head, build_neck, check_channels
from mmyolo_ext.models.detectors.frozen_parts import PartlyFrozen
from mmyolo_ext.models.detectors.in_channels import MisfitError, is_auto
from mmyolo_ext.models.detectors.level_strides import check_strides, configured_strides
from mmyolo_ext.models.detectors.out_indices import advice
from mmyolo_ext.registry import MODELS


@MODELS.register_module()
class YOLODetector(PartlyFrozen, SingleStageDetector):
    """Backbone, neck and dense head, of ours or of mmdet, by the names in their configs.

    A neck or head with ``in_channels='auto'`` gets the channels that the part before it gives: from that part's
    ``out_channels`` and ``out_strides``, or, where it does not declare them, from one pass of a small blank picture,
    which leaves no trace in it. Parts that take one number for all levels (mmdet's ``RetinaHead``) get one. Parts that
    do not fit together raise an error that says which outputs of the backbone would, instead of failing in the first
    forward pass, or of a detector that learns nothing.

    Args:
        backbone: config.
        bbox_head: config.
        neck: config, a list of configs of necks one after the other, or None.
        train_cfg: goes to the head; so does the next.
        test_cfg: see there.
        data_preprocessor: config.
        frozen_parts: names of what is not trained, such as ``'backbone'`` or ``'neck.*.bn'``; see
            :meth:`PartlyFrozen.freeze`.
        init_cfg: as in MMEngine.

    Raises:
        ValueError: ``'auto'`` with a backbone or neck that cannot be measured, channels or a number of levels that the
            next part does not take, strides unlike those of the head, or a name in ``frozen_parts`` that nothing has.
    """

    def __init__(
        self,
        backbone: dict,
        bbox_head: dict,
        neck: dict | Sequence[dict] | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        frozen_parts: str | Sequence[str] = (),
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        # not SingleStageDetector's own: it builds all parts at once, here each is built for the one before it
        super(SingleStageDetector, self).__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        head_asks = is_auto(bbox_head)
        self.backbone, features = build_backbone(backbone, required=head_asks or is_auto(neck))
        giver = type(self.backbone).__name__
        try:
            if neck is not None:
                self.neck, features = build_neck(neck, features, giver, required=head_asks)
                giver = type(self.neck).__name__
            head = {**bbox_head, 'train_cfg': train_cfg, 'test_cfg': test_cfg}
            self.bbox_head = build_head(head, features, giver)
            check_strides(features, self.bbox_head)
        except MisfitError as misfit:
            wanted = configured_strides(bbox_head)
            raise ValueError(f'{misfit} {advice(backbone, neck, wanted, self.backbone)}'.rstrip()) from misfit
        check_channels(self.bbox_head, bbox_head, features, giver)
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg
        self.freeze(frozen_parts)
