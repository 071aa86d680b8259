"""What YOLO heads that predict boxes from priors on a grid have in common: all but the training.

Letters: N images, A priors of a level, C classes, L levels, M = the sum of A*H*W over the levels.
"""

from collections.abc import Sequence

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmyolo_ext.boxes import cxcywh_to_xyxy
from mmyolo_ext.models.heads.head_maps import WholeMap
from mmyolo_ext.models.heads.postprocess import Predictions, detect
from mmyolo_ext.registry import TASK_UTILS


class AnchorGridHead(BaseDenseHead):
    """One 1x1 convolution a level predicts, for every prior in every cell, a box, its objectness and its classes.

    Prediction: score = objectness * class, threshold, class-wise NMS, original pixels.

    Args:
        num_classes: C.
        in_channels: channels of each level.
        prior_generator: an mmdet ``YOLOAnchorGenerator``: sizes in px and strides of each level.
        bbox_coder: turns raw predictions into boxes.
        test_cfg: ``score_thr``, ``multi_label``, ``nms_pre``, ``nms``, ``max_per_img``.
        init_cfg: as in MMEngine.

    Raises:
        ValueError: no class, or ``in_channels`` not one per level.
    """

    # whether a box may have several classes; a class loss without it makes them exclusive
    use_sigmoid = True

    def __init__(
        self,
        num_classes: int,
        in_channels: Sequence[int],
        prior_generator: dict,
        bbox_coder: dict,
        test_cfg: dict,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if num_classes < 1:
            raise ValueError(f'num_classes must be 1 or more, got {num_classes}')
        self.prior_generator = TASK_UTILS.build(prior_generator)
        self.strides = tuple(stride_w for stride_w, _ in self.prior_generator.strides)
        _check_levels(in_channels, self.strides)
        self.num_classes = num_classes
        self.num_priors = self.prior_generator.num_base_priors[0]
        self.in_channels = tuple(in_channels)
        self.bbox_coder = TASK_UTILS.build(bbox_coder)
        self.test_cfg = test_cfg
        # (L, A, 2) px
        self.register_buffer('priors_wh', torch.tensor(self.prior_generator.base_sizes).float(), persistent=False)
        self.convs_pred = nn.ModuleList(
            nn.Conv2d(channels, self.num_priors * (5 + num_classes), 1) for channels in self.in_channels
        )

    def forward(self, feats: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Maps of the levels -> raw class scores (N, A*C, H, W), boxes (N, A*4, H, W), objectness (N, A, H, W)."""
        levels = [level.split() for level in self.whole_maps(feats)]
        return tuple(list(maps) for maps in zip(*levels, strict=True))

    def whole_maps(self, feats: Sequence[Tensor]) -> list[WholeMap]:
        """The same in one piece for each level."""
        return [WholeMap(conv(feat), self.num_priors) for feat, conv in zip(feats, self.convs_pred, strict=True)]

    def class_scores(self, raw_classes: Tensor) -> Tensor:
        """Raw (..., C) -> scores in [0, 1], by sigmoid or softmax; 1 for a single class, which nothing teaches."""
        if self.num_classes == 1:
            return torch.ones_like(raw_classes)
        return raw_classes.sigmoid() if self.use_sigmoid else raw_classes.softmax(dim=-1)

    def takes_several_labels(self, cfg: dict) -> bool:
        """Whether a box may give a detection for several classes: ``cfg['multi_label']``, if they may coincide.

        Exclusive classes overrule it, so that the class loss alone decides, in prediction, validation and export; so
        does class-agnostic suppression, which would leave of a box's detections the best alone.
        """
        agnostic = cfg['nms'].get('class_agnostic', False)
        return bool(cfg['multi_label'] and self.use_sigmoid and self.num_classes > 1 and not agnostic)

    def decode(
        self, cls_scores: Sequence[Tensor], bbox_preds: Sequence[Tensor], objectnesses: Sequence[Tensor]
    ) -> Predictions:
        """All predictions of a batch in float32, from what ``forward`` gives; for prediction and export alike."""
        boxes, classes = [], []
        for cls_score, bbox_pred, stride, priors_wh in zip(
            cls_scores, bbox_preds, self.strides, self.priors_wh.unbind(), strict=True
        ):
            # (N, A*D, H, W) -> (N, A, H, W, D)
            raw_boxes, raw_classes = (
                raw.float().unflatten(1, (self.num_priors, -1)).permute(0, 1, 3, 4, 2)
                for raw in (bbox_pred, cls_score)
            )
            decoded = self.bbox_coder.decode(raw_boxes, cell_grid(raw_boxes), priors_wh[:, None, None] / stride)
            boxes.append(cxcywh_to_xyxy(decoded * stride).flatten(1, 3))
            classes.append(self.class_scores(raw_classes).flatten(1, 3))
        objectness = [level.float().sigmoid().flatten(1) for level in objectnesses]
        return Predictions(torch.cat(boxes, 1), torch.cat(objectness, 1), torch.cat(classes, 1))

    @torch.no_grad()
    def predict_by_feat(
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        objectnesses: Sequence[Tensor],
        batch_img_metas: Sequence[dict],
        cfg: dict | None = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> list[InstanceData]:
        """Detections of each picture, see :func:`.postprocess.detect`; ``cfg`` overrides entries of ``test_cfg``."""
        cfg = {**self.test_cfg, **(cfg or {})}
        multi_label = self.takes_several_labels(cfg)
        predictions = self.decode(cls_scores, bbox_preds, objectnesses)
        return [
            detect(predictions, index, img_meta, cfg, multi_label, rescale, with_nms)
            for index, img_meta in enumerate(batch_img_metas)
        ]


def cell_grid(per_cell: Tensor) -> Tensor:
    """Column and row of every cell of a (..., H, W, D) tensor: (H, W, 2), in its dtype and on its device."""
    height, width = per_cell.shape[-3:-1]
    rows = torch.arange(height, device=per_cell.device, dtype=per_cell.dtype)
    columns = torch.arange(width, device=per_cell.device, dtype=per_cell.dtype)
    cell_y, cell_x = torch.meshgrid(rows, columns, indexing='ij')
    return torch.stack([cell_x, cell_y], dim=-1)


def _check_levels(in_channels: Sequence[int] | str, strides: Sequence[int]) -> None:
    if isinstance(in_channels, str):
        raise ValueError(
            f'in_channels={in_channels!r} is filled in by mmyolo_ext.YOLODetector only; elsewhere give the channels '
            'of every level'
        )
    if len(in_channels) != len(strides):
        raise ValueError(
            f'in_channels must have one entry for each of the {len(strides)} levels of prior_generator (strides '
            f'{tuple(strides)}), got {tuple(in_channels)}'
        )
