"""YOLOv5's head: three predictions a place, their losses, and the way back to boxes on the picture.

Letters: N images, A priors of a level, C classes, L levels, P positives of a level, M = the sum of A*H*W over levels.
"""

import math
from collections.abc import Sequence

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from mmyolo_ext.boxes import cxcywh_to_xyxy, paired_iou, xyxy_to_cxcywh
from mmyolo_ext.models.heads.anchor_grid_head import AnchorGridHead
from mmyolo_ext.models.heads.batch_boxes import (
    at_positives,
    collect_boxes,
    collect_labels,
)
from mmyolo_ext.models.heads.class_targets import binary_targets, exclusive_targets
from mmyolo_ext.models.heads.level_balance import LevelBalance
from mmyolo_ext.models.heads.objectness import counted_places, objectness_targets
from mmyolo_ext.models.heads.task_gains import NOMINAL_SIZE, Gains, task_gains
from mmyolo_ext.models.heads.yolov5_defaults import (
    ASSIGNER,
    BBOX_CODER,
    LOSS_BBOX,
    LOSS_CLS,
    LOSS_OBJ,
    PRIOR_GENERATOR,
    TEST_CFG,
    TRAIN_CFG,
)
from mmyolo_ext.models.task_modules import Positives
from mmyolo_ext.registry import MODELS, TASK_UTILS


@MODELS.register_module()
class YOLOv5Head(AnchorGridHead):
    """One 1x1 convolution a level predicts, for every prior in every cell, a box, its objectness and its classes.

    Training: positives = assign(boxes); 1 - CIoU on their boxes, the class loss on their classes, the objectness loss
    everywhere against the CIoU of the positives and 0 elsewhere; summed over the levels, times the batch size.
    Prediction: score = objectness * class, threshold, class-wise NMS, original pixels.

    The class loss decides what classes are: with ``use_sigmoid`` (the default for a loss that does not say) a box may
    have several, without it (softmax) exactly one, in training, prediction and export alike. A detector of one class
    teaches no class; its score is the objectness.

    Args:
        num_classes: C.
        in_channels: channels of each level; or ``'auto'``, which ``YOLODetector`` fills in.
        prior_generator: an mmdet ``YOLOAnchorGenerator``: sizes in px and strides of each level.
        bbox_coder: turns predictions into boxes.
        assigner: finds the positives.
        loss_cls: element-wise, on (P, C), or softmax on (P, C) against (P,).
        loss_bbox: on (P, 4) xyxy in grid units.
        loss_obj: element-wise, on (N*A*H*W, 1).
        obj_level_weights: see :class:`LevelBalance`.
        auto_balance: see :class:`LevelBalance`.
        iou_ratio: g; the objectness target of a positive is (1 - g) + g * CIoU.
        label_smoothing: e in [0, 1), see :mod:`.class_targets`.
        scale_losses: fit the gains to the task: classes by C/80 * 3/L, boxes by 3/L, objectness by 3/L and by the area
            of the input over 640 x 640.
        input_size: side, or (height, width), of the network input in px; read by ``scale_losses`` alone.
        train_cfg: ``ignore_iof_thr``: a prior of which this share lies in an ignore region adds no objectness loss,
            unless it is a positive.
        test_cfg: ``score_thr``, ``multi_label``, ``nms_pre``, ``nms``, ``max_per_img``.
        init_cfg: as in MMEngine.

    Raises:
        ValueError: ``in_channels`` not filled in or not one per level, or a number out of its range.
    """

    # the overlap that objectness learns, whatever the box loss
    quality_mode = 'ciou'

    def __init__(
        self,
        num_classes: int,
        in_channels: Sequence[int] | str,
        prior_generator: dict = PRIOR_GENERATOR,
        bbox_coder: dict = BBOX_CODER,
        assigner: dict = ASSIGNER,
        loss_cls: dict = LOSS_CLS,
        loss_bbox: dict = LOSS_BBOX,
        loss_obj: dict = LOSS_OBJ,
        obj_level_weights: Sequence[float] | str = 'auto',
        auto_balance: bool = False,
        iou_ratio: float = 1.0,
        label_smoothing: float = 0.0,
        scale_losses: bool = True,
        input_size: int | tuple[int, int] = NOMINAL_SIZE,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(
            num_classes, in_channels, prior_generator, bbox_coder, {**TEST_CFG, **(test_cfg or {})}, init_cfg
        )
        _check_share('iou_ratio', iou_ratio)
        _check_share('label_smoothing', label_smoothing)
        self.assigner = TASK_UTILS.build(assigner)
        self.loss_cls = MODELS.build(loss_cls)
        self.loss_bbox = MODELS.build(loss_bbox)
        self.loss_obj = MODELS.build(loss_obj)
        self.use_sigmoid = getattr(self.loss_cls, 'use_sigmoid', True)
        self.obj_balance = LevelBalance(obj_level_weights, self.strides, auto_balance)
        self.iou_ratio = iou_ratio
        self.label_smoothing = label_smoothing
        self.gains = task_gains(num_classes, len(self.strides), input_size) if scale_losses else Gains()
        self.train_cfg = {**TRAIN_CFG, **(train_cfg or {})}

    def init_weights(self) -> None:
        """Start every place at the expected rate of objects: 8 of them on a picture of 640 px, 0.6 of all classes."""
        super().init_weights()
        if self.init_cfg and self.init_cfg.get('type') == 'Pretrained':
            return
        for conv, stride in zip(self.convs_pred, self.strides, strict=True):
            # (A * (5 + C),) -> (A, 5 + C)
            bias = conv.bias.detach().clone().view(self.num_priors, -1)
            bias[:, 4] = math.log(8 / (NOMINAL_SIZE / stride) ** 2)
            bias[:, 5:] = math.log(0.6 / (self.num_classes - 0.99))
            conv.bias.data.copy_(bias.flatten())

    def loss_by_feat(
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        objectnesses: Sequence[Tensor],
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[dict],
        batch_gt_instances_ignore: Sequence[InstanceData | None] | None = None,
    ) -> dict[str, Tensor]:
        """The three losses of a batch; finite, with a gradient for every parameter, with and without boxes.

        Args:
            cls_scores: as ``forward`` gives them; likewise the next two.
            bbox_preds: see there.
            objectnesses: see there.
            batch_gt_instances: ``bboxes`` (xyxy px of the network input) and ``labels`` of each picture.
            batch_img_metas: one per picture; their number is the batch size.
            batch_gt_instances_ignore: ``bboxes`` of each picture's ignore regions, None where it has none.
        """
        gt = collect_boxes(batch_gt_instances, like=objectnesses[0])
        labels = collect_labels(batch_gt_instances, like=gt.image)
        gt_cxcywh = xyxy_to_cxcywh(gt.boxes_xyxy)
        grid_sizes = [tuple(level.shape[-2:]) for level in objectnesses]
        positives = self.assigner.assign(gt_cxcywh, gt.image, self.priors_wh, self.strides, grid_sizes)
        weights = self._objectness_weights(objectnesses, positives, batch_gt_instances_ignore)

        levels = [
            self._level_losses(*level, gt_cxcywh / stride, labels, priors_wh / stride)
            for *level, stride, priors_wh in zip(
                cls_scores,
                bbox_preds,
                objectnesses,
                weights,
                positives,
                self.strides,
                self.priors_wh.unbind(),
                strict=True,
            )
        ]
        loss_cls, loss_bbox, loss_obj = (torch.stack(terms) for terms in zip(*levels, strict=True))
        batch_size = len(batch_img_metas)
        return {
            'loss_cls': loss_cls.sum() * self.gains.cls * batch_size,
            'loss_bbox': loss_bbox.sum() * self.gains.bbox * batch_size,
            'loss_obj': self.obj_balance(loss_obj) * self.gains.obj * batch_size,
        }

    def _level_losses(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor,
        objectness: Tensor,
        objectness_weight: Tensor | None,
        positives: Positives,
        gt_cxcywh: Tensor,
        labels: Tensor,
        priors_wh: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Class, box and objectness loss of one level; lengths are in its grid units."""
        cells_xy = torch.stack([positives.cell_x, positives.cell_y], dim=1)
        raw_boxes = at_positives(bbox_pred, positives, self.num_priors)
        boxes = cxcywh_to_xyxy(self.bbox_coder.decode(raw_boxes, cells_xy, priors_wh[positives.prior]))
        targets = cxcywh_to_xyxy(gt_cxcywh[positives.gt])
        quality = paired_iou(boxes.detach(), targets, self.quality_mode).clamp(min=0)
        target = objectness_targets(positives, (1 - self.iou_ratio) + self.iou_ratio * quality, objectness.shape)

        raw_classes = at_positives(cls_score, positives, self.num_priors)
        return (
            self._class_loss(raw_classes, labels[positives.gt]),
            self.loss_bbox(boxes, targets, avg_factor=len(boxes)) if len(boxes) else boxes.sum(),
            # (N, A, H, W) -> (N*A*H*W, 1), the form mmdet's element-wise losses take
            self.loss_obj(
                objectness.float().reshape(-1, 1),
                target.reshape(-1, 1),
                weight=objectness_weight,
                avg_factor=objectness.numel(),
            ),
        )

    def _class_loss(self, raw_classes: Tensor, labels: Tensor) -> Tensor:
        """Mean over the positives (and over the classes, if they may coincide); 0 without any, or for one class."""
        if self.num_classes == 1 or len(labels) == 0:
            return raw_classes[:0].sum()
        if self.use_sigmoid:
            targets = binary_targets(labels, self.num_classes, self.label_smoothing)
            return self.loss_cls(raw_classes, targets, avg_factor=targets.numel())
        targets = exclusive_targets(labels, self.num_classes, self.label_smoothing)
        return self.loss_cls(raw_classes, targets, avg_factor=len(labels))

    def _objectness_weights(
        self,
        objectnesses: Sequence[Tensor],
        positives: Sequence[Positives],
        batch_ignored: Sequence[InstanceData | None] | None,
    ) -> list[Tensor | None]:
        """For each level (N*A*H*W, 1), 0 where an ignore region silences the loss; None where there is no region."""
        ignored = collect_boxes(batch_ignored or [], like=objectnesses[0])
        if len(ignored.image) == 0:
            return [None] * len(objectnesses)
        grid_sizes = [level.shape[-2:] for level in objectnesses]
        priors = self.prior_generator.grid_priors(grid_sizes, device=ignored.image.device)
        return [
            counted_places(ignored, matches, level_priors, level.shape, self.train_cfg['ignore_iof_thr']).view(-1, 1)
            for level, matches, level_priors in zip(objectnesses, positives, priors, strict=True)
        ]


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f'{name} must be from 0 to 1, got {value}')
