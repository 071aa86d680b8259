"""A single-stage detector that connects any backbone, neck and head."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from mmdet.models.detectors import SingleStageDetector
from mmengine.model import Sequential
from torch import nn

from mmyolo_ext.models.detectors.in_channels import (
    MisfitError,
    build_for,
    build_neck,
    features_of,
    head_strides,
    is_auto,
    out_indices_advice,
)
from mmyolo_ext.registry import MODELS


@MODELS.register_module()
class YOLODetector(SingleStageDetector):
    """Backbone, neck and dense head, of this package or of mmdet, connected by their channels and strides.

    A neck or head with ``in_channels='auto'`` gets the channels of the part before it: its ``out_channels`` and
    ``out_strides``, or, if it does not declare them, those measured by one dry run on zeros. Heads that take one
    number for all levels (mmdet's ``RetinaHead``) get one. If strides do not fit, an error names both sides and the
    ``out_indices`` of the backbone that would fit.

    Args:
        backbone: Config.
        bbox_head: Config.
        neck: Config, a list of configs of necks to apply one after the other, or None.
        train_cfg: Passed to the head.
        test_cfg: Passed to the head.
        data_preprocessor: Config.
        frozen_parts: Names of modules and parameters that are not trained, such as ``'backbone'``,
            ``'backbone.layers.[0-3]'`` or ``'neck.*.bn'``. Frozen parameters require no gradient, and frozen modules
            stay in eval mode.
        init_cfg: As in MMEngine.

    Raises:
        ValueError: If ``'auto'`` follows a part that cannot be measured, the next part does not accept channels or
            number of levels, strides differ from those of the head, or a name in ``frozen_parts`` matches nothing.
    """

    frozen_parts: tuple[str, ...] = ()

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
        # SingleStageDetector's own constructor builds all parts at once; here each is built for the one before it
        super(SingleStageDetector, self).__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        necks = [] if neck is None else [neck] if isinstance(neck, dict) else list(neck)
        self.backbone = MODELS.build(backbone)
        in_channels = next((backbone[name] for name in ('in_channels', 'in_chans') if name in backbone), 3)
        try:
            features = features_of(self.backbone, in_channels)
        except ValueError:
            if any(map(is_auto, (*necks, bbox_head))):
                raise
            features = None  # all channels are written: the first forward pass will show whether they are right
        source = type(self.backbone).__name__
        try:
            parts = []
            for config in necks:
                part, features = build_neck(config, features, source)
                source = type(part).__name__
                parts.append(part)
            if parts:
                self.neck = parts[0] if isinstance(neck, dict) else Sequential(*parts)
            head = {**bbox_head, 'train_cfg': train_cfg, 'test_cfg': test_cfg}
            self.bbox_head = build_for(head, features, source)
            wanted = head_strides(self.bbox_head)
            if features and wanted and features.strides != wanted:
                raise MisfitError(
                    f'The features that reach the head have the strides {features.strides}, the anchors of '
                    f'{type(self.bbox_head).__name__} have {wanted}.'
                )
        except MisfitError as misfit:
            advice = out_indices_advice(backbone, self.backbone, necks, head_strides(bbox_head), in_channels)
            raise ValueError(f'{misfit} {advice}'.rstrip()) from misfit
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg
        self._freeze(frozen_parts)

    def train(self, mode: bool = True) -> 'YOLODetector':
        """Set the mode, except for ``frozen_parts``, which stay in eval mode."""
        super().train(mode)
        for pattern in self.frozen_parts:
            for module in self._matching_modules(pattern):
                module.eval()
        return self

    def _freeze(self, names: str | Sequence[str]) -> None:
        """Freeze modules and parameters; before DistributedDataParallel and optimizers, which look once."""
        self.frozen_parts = (names,) if isinstance(names, str) else tuple(names)
        for pattern in self.frozen_parts:
            modules = self._matching_modules(pattern)
            parameters = [p for name, p in self.named_parameters() if fnmatchcase(name, pattern)]
            if not modules and not parameters:
                names = [name for name, _ in self.named_children()]
                raise ValueError(f'frozen_parts: no module or parameter matches {pattern!r}; modules are {names}')
            for parameter in (*parameters, *(p for module in modules for p in module.parameters())):
                parameter.requires_grad_(False)
        self.train(self.training)

    def _matching_modules(self, pattern: str) -> list[nn.Module]:
        return [module for name, module in self.named_modules() if name and fnmatchcase(name, pattern)]
