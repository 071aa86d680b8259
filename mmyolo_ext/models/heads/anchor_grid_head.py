"""What YOLO heads that predict boxes from anchors on a grid have in common: all but the training.

Letters: N images, A anchors of a level, C classes, L levels, M = the sum of A*H*W over the levels, K likely places.
"""

from collections.abc import Sequence

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.structures import SampleList
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmyolo_ext.boxes import cxcywh_to_xyxy
from mmyolo_ext.models.heads.head_maps import SplitMaps, WholeMap
from mmyolo_ext.models.heads.postprocess import LikelyPlaces, Predictions, detect
from mmyolo_ext.registry import TASK_UTILS


class AnchorGridHead(BaseDenseHead):
    """One 1x1 convolution a level predicts, for every anchor in every cell, a box, its objectness and its classes.

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
        self.num_anchors = self.prior_generator.num_base_priors[0]
        self.in_channels = tuple(in_channels)
        self.bbox_coder = TASK_UTILS.build(bbox_coder)
        self.test_cfg = test_cfg
        # (L, A, 2) px
        self.register_buffer('anchors_wh', torch.tensor(self.prior_generator.base_sizes).float(), persistent=False)
        self.convs_pred = nn.ModuleList(
            nn.Conv2d(channels, self.num_anchors * (5 + num_classes), 1) for channels in self.in_channels
        )

    def forward(self, feats: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Maps of the levels -> raw class scores (N, A*C, H, W), boxes (N, A*4, H, W), objectness (N, A, H, W)."""
        levels = [level.split() for level in self.whole_maps(feats)]
        return tuple(list(maps) for maps in zip(*levels, strict=True))

    def whole_maps(self, feats: Sequence[Tensor]) -> list[WholeMap]:
        """The same in one piece for each level."""
        return [WholeMap(conv(feat), self.num_anchors) for feat, conv in zip(feats, self.convs_pred, strict=True)]

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
        """All predictions of a batch in float32, from what ``forward`` gives."""
        boxes, classes = [], []
        for cls_score, bbox_pred, stride, anchors_wh in zip(
            cls_scores, bbox_preds, self.strides, self.anchors_wh.unbind(), strict=True
        ):
            # (N, A*D, H, W) -> (N, A, H, W, D)
            raw_boxes, raw_classes = (
                raw.float().unflatten(1, (self.num_anchors, -1)).permute(0, 1, 3, 4, 2)
                for raw in (bbox_pred, cls_score)
            )
            level_boxes = self._boxes_xyxy(raw_boxes, cell_grid(raw_boxes), anchors_wh[:, None, None], stride)
            boxes.append(level_boxes.flatten(1, 3))
            classes.append(self.class_scores(raw_classes).flatten(1, 3))
        objectness = [level.float().sigmoid().flatten(1) for level in objectnesses]
        return Predictions(torch.cat(boxes, 1), torch.cat(objectness, 1), torch.cat(classes, 1))

    def decode_likely(self, maps: Sequence[WholeMap | SplitMaps], score_thr: float) -> LikelyPlaces:
        """Of all that :meth:`decode` gives, the places whose objectness is above ``score_thr``; no other is decoded.

        No score exceeds its objectness, so no detection is lost. For prediction and export alike.
        """
        levels = [
            self._likely(level, score_thr, stride, anchors_wh)
            for level, stride, anchors_wh in zip(maps, self.strides, self.anchors_wh.unbind(), strict=True)
        ]
        return LikelyPlaces(*(torch.cat(parts) for parts in zip(*levels, strict=True)))

    def _likely(
        self, level: WholeMap | SplitMaps, score_thr: float, stride: int, anchors_wh: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        objectness = level.objectness.float().sigmoid()
        height, width = objectness.shape[2:]
        objectness = objectness.flatten()
        place = torch.nonzero(objectness > score_thr).squeeze(1)
        raw_boxes, raw_classes = (raw.float() for raw in level.at(place))
        # places run image, anchor, row, column
        map_index, cell = place // (height * width), place % (height * width)
        cells_xy = torch.stack([cell % width, cell // width], dim=1).float()
        boxes_xyxy = self._boxes_xyxy(raw_boxes, cells_xy, anchors_wh[map_index % self.num_anchors], stride)
        scores = objectness[place][:, None] * self.class_scores(raw_classes)
        return map_index // self.num_anchors, boxes_xyxy, scores

    def _boxes_xyxy(self, raw_boxes: Tensor, cells_xy: Tensor, anchors_wh: Tensor, stride: int) -> Tensor:
        """(..., 4) px, of anchors in px."""
        return cxcywh_to_xyxy(self.bbox_coder.decode(raw_boxes, cells_xy, anchors_wh / stride) * stride)

    def maps_of(self, feats: Sequence[Tensor]) -> list[WholeMap | SplitMaps]:
        """The maps of each level, in one piece unless a subclass has a ``forward`` of its own."""
        if type(self).forward is AnchorGridHead.forward:
            return self.whole_maps(feats)
        return [SplitMaps(*level) for level in zip(*self(feats), strict=True)]

    @torch.no_grad()
    def predict(
        self, x: Sequence[Tensor], batch_data_samples: SampleList, rescale: bool = False
    ) -> list[InstanceData]:
        """As mmdet's: detections from the maps of the neck.

        The head's own maps stay in one piece, unless a subclass has a ``forward`` or a ``predict_by_feat`` of its own.
        """
        if type(self).predict_by_feat is not AnchorGridHead.predict_by_feat:
            return super().predict(x, batch_data_samples, rescale)
        return self._detect(self.maps_of(x), [sample.metainfo for sample in batch_data_samples], rescale=rescale)

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
        maps = [SplitMaps(*level) for level in zip(cls_scores, bbox_preds, objectnesses, strict=True)]
        return self._detect(maps, batch_img_metas, cfg, rescale, with_nms)

    def _detect(
        self,
        maps: Sequence[WholeMap | SplitMaps],
        batch_img_metas: Sequence[dict],
        cfg: dict | None = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> list[InstanceData]:
        cfg = {**self.test_cfg, **(cfg or {})}
        likely = self.decode_likely(maps, cfg['score_thr'])
        return detect(likely, batch_img_metas, cfg, self.takes_several_labels(cfg), rescale, with_nms)


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
