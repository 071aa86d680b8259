"""The YOLOv5 head: assign, decode and supervise in training; decode, threshold and suppress in prediction.

Letters: N images, A anchors of a level, C classes, L levels, G boxes of the batch, P positives of a level, M = sum of
A*H*W over the levels, K likely predictions.
"""

import math
from collections.abc import Sequence

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmengine.dist import get_world_size
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmyolo_ext.boxes import cxcywh_to_xyxy, paired_iou, xyxy_to_cxcywh
from mmyolo_ext.models.heads.gather import gather_positives, objectness_of, take_predictions
from mmyolo_ext.models.heads.postprocess import detect
from mmyolo_ext.models.heads.targets import (
    class_targets,
    collect_boxes,
    collect_soft_labels,
    objectness_targets,
    outside_ignore_regions,
)
from mmyolo_ext.models.layers import AUTO_CHANNELS
from mmyolo_ext.models.losses import SumLoss
from mmyolo_ext.models.losses.class_losses import WrappedLoss
from mmyolo_ext.models.losses.repulsion_loss import Crowd
from mmyolo_ext.models.losses.utils import Quality, call_loss, check_loss, mean_quality, takes_weight
from mmyolo_ext.models.over_ranks import batch_divisors, mean_over_ranks
from mmyolo_ext.models.task_modules import Positives, Predictions
from mmyolo_ext.registry import MODELS, TASK_UTILS

PRIOR_GENERATOR = {
    'type': 'mmdet.YOLOAnchorGenerator',
    'base_sizes': [
        [(10, 13), (16, 30), (33, 23)],
        [(30, 61), (62, 45), (59, 119)],
        [(116, 90), (156, 198), (373, 326)],
    ],
    'strides': [8, 16, 32],
}
BBOX_CODER = {'type': 'mmyolo_ext.YOLOv5BBoxCoder'}
ASSIGNER = {'type': 'mmyolo_ext.YOLOv5Assigner'}
LOSS_CLS = {'type': 'mmyolo_ext.BCELoss', 'loss_weight': 0.5}
LOSS_BBOX = {'type': 'mmyolo_ext.IoULoss', 'loss_weight': 0.05}
LOSS_OBJ = {'type': 'mmyolo_ext.BCELoss', 'loss_weight': 1.0}
TRAIN_CFG = {'ignore_iof_thr': 0.5}
TEST_CFG = {
    'multi_label': True,
    'nms_pre': 30000,
    'score_thr': 0.001,
    'nms': {'type': 'nms', 'iou_threshold': 0.65},
    'max_per_img': 300,
}
# the task that the gains were tuned for
NOMINAL_SIZE, NOMINAL_CLASSES, NOMINAL_LEVELS = 640, 80, 3
# a logit whose probability is 0 in float32
SURE_BACKGROUND = -100.0


@MODELS.register_module()
class YOLOv5Head(BaseDenseHead):
    """A 1x1 convolution per level predicts box, objectness and classes for every anchor in every cell.

    Training: assign boxes to anchors; 1 - CIoU for the boxes of positives, the class loss for their classes, the
    objectness loss everywhere against the CIoU of positives and 0 elsewhere; summed over the levels, times the batch
    size. Prediction: score = objectness * class, threshold, class-wise NMS, pixels of the original image.

    The class loss decides whether classes exclude each other: with ``use_sigmoid`` (the default for a loss without
    this attribute) a box may have several, without it (softmax) exactly one, in training, prediction and export alike.
    With a single class there is no class loss, and the score is the objectness.

    Args:
        num_classes: C.
        in_channels: Channels of each level; or ``'auto'``, which ``YOLODetector`` replaces.
        prior_generator: An mmdet ``YOLOAnchorGenerator``: sizes in px and strides of each level.
        bbox_coder: Converts raw predictions to boxes.
        assigner: Finds the positives; it has ``assign`` as :class:`YOLOv5Assigner`.
        loss_cls: Element-wise on (P, C), or softmax on (P, C) against (P,).
        loss_bbox: On (P, 4) xyxy in grid units; or a list of such losses, each logged by its name.
        loss_obj: Element-wise on (N*A*H*W, 1).
        obj_level_weights: See :class:`LevelBalance`.
        auto_balance: See :class:`LevelBalance`.
        iou_ratio: g; the objectness target of a positive is (1 - g) + g * CIoU.
        label_smoothing: e in [0, 1], see :func:`.targets.class_targets`.
        scale_losses: Multiply the gains once: classes by C/80 * 3/L, boxes by 3/L, objectness by 3/L and the area of
            the input over 640 x 640.
        input_size: Side, or (height, width), of the network input in px; only used by ``scale_losses``.
        train_cfg: ``ignore_iof_thr``: an anchor of which an ignore region covers this share has no objectness loss,
            unless it is a positive.
        test_cfg: ``score_thr``, ``multi_label``, ``nms_pre``, ``nms``, ``max_per_img``.
        init_cfg: As in MMEngine.

    Raises:
        ValueError: If ``in_channels`` is not one per level, a number is out of range, or a loss cannot be used here.
    """

    # the IoU that objectness predicts, whatever the box loss
    quality_mode = 'ciou'

    def __init__(
        self,
        num_classes: int = NOMINAL_CLASSES,
        in_channels: Sequence[int] | str = (128, 256, 512),
        prior_generator: dict = PRIOR_GENERATOR,
        bbox_coder: dict = BBOX_CODER,
        assigner: dict = ASSIGNER,
        loss_cls: dict = LOSS_CLS,
        loss_bbox: dict | Sequence[dict] = LOSS_BBOX,
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
        super().__init__(init_cfg)
        if num_classes < 1:
            raise ValueError(f'num_classes must be 1 or more, got {num_classes}')
        for name, value in (('iou_ratio', iou_ratio), ('label_smoothing', label_smoothing)):
            if not 0 <= value <= 1:
                raise ValueError(f'{name} must be from 0 to 1, got {value}')
        self.num_classes = num_classes
        self.prior_generator = TASK_UTILS.build(prior_generator)
        self.strides = tuple(stride_w for stride_w, _ in self.prior_generator.strides)
        self.num_anchors = self.prior_generator.num_base_priors[0]
        self.bbox_coder = TASK_UTILS.build(bbox_coder)
        self.assigner = TASK_UTILS.build(assigner)
        self.train_cfg = {**TRAIN_CFG, **(train_cfg or {})}
        self.test_cfg = {**TEST_CFG, **(test_cfg or {})}
        self.iou_ratio = iou_ratio
        self.label_smoothing = label_smoothing
        self._init_layers(in_channels)
        self._init_losses(loss_cls, loss_bbox, loss_obj)
        self.obj_balance = LevelBalance(obj_level_weights, self.strides, auto_balance)
        self.gains = {'loss_cls': 1.0, 'loss_bbox': 1.0, 'loss_obj': 1.0}
        if scale_losses:
            height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
            per_level = NOMINAL_LEVELS / len(self.strides)
            self.gains = {
                'loss_cls': num_classes / NOMINAL_CLASSES * per_level,
                'loss_bbox': per_level,
                'loss_obj': height * width / NOMINAL_SIZE**2 * per_level,
            }

    def _init_layers(self, in_channels: Sequence[int] | str) -> None:
        if isinstance(in_channels, str):
            raise ValueError(AUTO_CHANNELS)
        if len(in_channels) != len(self.strides):
            raise ValueError(
                f'in_channels must have one entry for each of the {len(self.strides)} levels of prior_generator '
                f'(strides {self.strides}), got {tuple(in_channels)}'
            )
        self.in_channels = tuple(in_channels)
        # (L, A, 2) px
        self.register_buffer('anchors_wh', torch.tensor(self.prior_generator.base_sizes).float(), persistent=False)
        self.convs_pred = nn.ModuleList(
            nn.Conv2d(channels, self.num_anchors * (5 + self.num_classes), 1) for channels in self.in_channels
        )

    def _init_losses(self, loss_cls: dict, loss_bbox: dict | Sequence[dict], loss_obj: dict) -> None:
        self.loss_cls = MODELS.build(loss_cls)
        self.loss_bbox = SumLoss(loss_bbox if isinstance(loss_bbox, Sequence) else [loss_bbox])
        self.loss_obj = MODELS.build(loss_obj)
        check_loss('loss_cls', self.loss_cls)
        check_loss('loss_obj', self.loss_obj)
        self.use_sigmoid = getattr(self.loss_cls, 'use_sigmoid', True)
        # mmdet's losses with channels of their own (Seesaw, EQLv2)
        if any(hasattr(self.loss_cls, name) for name in ('get_cls_channels', 'get_channel_num')):
            raise ValueError(
                f'loss_cls={type(self.loss_cls).__name__} needs channels of its own, such as background; this head '
                f'has {self.num_classes}, one per class: use BCELoss or mmdet.CrossEntropyLoss'
            )
        if not getattr(self.loss_obj, 'use_sigmoid', True):
            raise ValueError(f'loss_obj={type(self.loss_obj).__name__} is a softmax: use a loss on a sigmoid')
        innermost = self.loss_obj
        while isinstance(innermost, WrappedLoss):
            innermost = innermost.loss
        self.obj_gain = getattr(innermost, 'loss_weight', 1.0)
        # a loss without weights cannot leave out padding
        self.allow_padding = all(takes_weight(loss) for loss in (self.loss_cls, *self.loss_bbox.losses))

    def init_weights(self) -> None:
        """Start the biases at the expected rate: 8 objects in an image of 640 px, a total probability of 0.6."""
        super().init_weights()
        if self.init_cfg and self.init_cfg.get('type') == 'Pretrained':
            return
        for conv, stride in zip(self.convs_pred, self.strides, strict=True):
            # (A * (5 + C),) -> (A, 5 + C)
            bias = conv.bias.detach().clone().view(self.num_anchors, -1)
            bias[:, 4] = math.log(8 / (NOMINAL_SIZE / stride) ** 2)
            bias[:, 5:] = math.log(0.6 / (self.num_classes - 0.99))
            conv.bias.data.copy_(bias.flatten())

    def forward(self, feats: Sequence[Tensor]) -> tuple[list[Tensor]]:
        """Return one map per level, (N, A*(5+C), H, W), anchor-major, in a one-element tuple.

        The channels of an anchor are x, y, w, h, objectness, classes.
        """
        return ([conv(feat) for feat, conv in zip(feats, self.convs_pred, strict=True)],)

    # Training

    def loss_by_feat(
        self,
        pred_maps: Sequence[Tensor],
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[dict],
        batch_gt_instances_ignore: Sequence[InstanceData | None] | None = None,
    ) -> dict[str, Tensor]:
        """Return the losses of a batch: class, objectness and every box term.

        Finite, with a gradient for every parameter, with and without boxes. With several processes the mean over
        ranks is the loss of the images of all of them, see :mod:`mmyolo_ext.models.over_ranks`.

        Args:
            pred_maps: From ``forward``.
            batch_gt_instances: ``bboxes`` (xyxy px of the network input) and ``labels`` of each image; with
                ``soft_labels``, C probabilities per box, these are the targets and labels only guide the assigner.
            batch_img_metas: One per image.
            batch_gt_instances_ignore: ``bboxes`` of the ignore regions of each image, or None.

        Raises:
            ValueError: If there are soft labels that are not valid, see :func:`.targets.collect_soft_labels`.
        """
        device = self.anchors_wh.device
        gt = collect_boxes(batch_gt_instances, device)
        gt.labels = torch.cat([item.labels for item in batch_gt_instances]).to(device=device, dtype=torch.long)
        regions = collect_boxes(batch_gt_instances_ignore or [], device)
        positives = self.assign(gt, pred_maps)
        num_predictions = [pred_map.numel() // (5 + self.num_classes) for pred_map in pred_maps]
        if any('soft_labels' in item for item in batch_gt_instances):
            gt.labels = collect_soft_labels(batch_gt_instances, gt.labels, self.num_classes, self.use_sigmoid)
        gathered = [
            gather_positives(pred_map, self.num_anchors, matches)
            for pred_map, matches in zip(pred_maps, positives, strict=True)
        ]
        num_images, *divisors = batch_divisors(len(batch_img_metas), positives, num_predictions, device)
        levels = [
            self.level_losses(level, *gathered[level], matches, gt, regions, *(numbers[level] for numbers in divisors))
            for level, matches in enumerate(positives)
        ]
        losses = {}
        for name in levels[0]:
            terms = torch.stack([level[name] for level in levels])
            total = self.obj_balance(terms, self.obj_gain) if name == 'loss_obj' else terms.sum()
            losses[name] = total * self.gains.get(name, self.gains['loss_bbox']) * self.batch_factor(num_images)
        return losses

    def assign(self, gt: InstanceData, pred_maps: Sequence[Tensor]) -> list[Positives]:
        """Return the positives of each level; an assigner may name ``labels`` and ``predictions`` in its ``wants``."""
        wants, offers = getattr(self.assigner, 'wants', ()), {}
        if 'labels' in wants:
            offers['labels'] = gt.labels
        if 'predictions' in wants:
            with torch.no_grad():
                offers['predictions'] = self.decode(pred_maps)
        grid_sizes = [tuple(pred_map.shape[-2:]) for pred_map in pred_maps]
        boxes_cxcywh = xyxy_to_cxcywh(gt.bboxes)
        positives = self.assigner.assign(boxes_cxcywh, gt.image, self.anchors_wh, self.strides, grid_sizes, **offers)
        return positives if self.allow_padding else [matches.without_padding() for matches in positives]

    def level_losses(
        self,
        level: int,
        rows: Tensor,
        objectness: Tensor,
        positives: Positives,
        gt: InstanceData,
        regions: InstanceData,
        num_positives: int | Tensor,
        num_predictions: int | Tensor,
    ) -> dict[str, Tensor]:
        """Return every loss of one level, before the gains.

        Args:
            level: Its index.
            rows: (P, 5+C) raw predictions of the positives.
            objectness: (N, A, H, W) logits.
            positives: P matches.
            gt: ``bboxes`` (G, 4) px, ``image`` (G,) and ``labels`` (G,), or soft (G, C), of the batch.
            regions: ``bboxes`` and ``image`` of the ignore regions.
            num_positives: Divisor of means over positives.
            num_predictions: Divisor of means over all predictions.
        """
        stride, several_ranks = self.strides[level], get_world_size() > 1
        raw_boxes, _, class_logits = rows.tensor_split([4, 5], dim=1)
        weight = None if positives.valid is None else positives.valid.float()

        # boxes, in grid units
        cells_xy = torch.stack([positives.cell_x, positives.cell_y], dim=1)
        anchors_wh = self.anchors_wh[level][positives.anchor] / stride
        boxes = cxcywh_to_xyxy(self.bbox_coder.decode(raw_boxes, cells_xy, anchors_wh))
        targets = gt.bboxes[positives.gt] / stride
        # losses with means over ranks must be called without boxes too
        if len(boxes) or (several_ranks and 'mean_over_ranks' in self.loss_bbox.wants):
            offers = {
                'stride': stride,
                'crowd': Crowd(positives.image, positives.gt, gt.image, gt.bboxes / stride),
                'mean_over_ranks': mean_over_ranks if several_ranks else None,
            }
            box_losses = {
                name: call_loss(loss, boxes, targets, weight, num_positives, **offers)
                for name, loss in zip(self.loss_bbox.names, self.loss_bbox.losses, strict=True)
            }
        else:
            box_losses = {name: boxes.sum() for name in self.loss_bbox.names}

        # objectness, against the IoU of the positives
        overlap = paired_iou(boxes.detach(), targets, self.quality_mode)
        reads_quality = any('quality' in getattr(loss, 'wants', ()) for loss in (self.loss_cls, self.loss_obj))
        over_ranks = mean_over_ranks if several_ranks and reads_quality else None
        quality = Quality(overlap.clamp(min=0), mean_quality(overlap, positives.valid, over_ranks))
        logits = objectness.float()
        goal = objectness_targets(positives, (1 - self.iou_ratio) + self.iou_ratio * quality.values, logits.shape)
        if len(regions):
            counted = outside_ignore_regions(
                regions, positives, self.anchors_wh[level], stride, logits.shape, self.train_cfg['ignore_iof_thr']
            )
            # neither loss nor gradient
            logits, goal = logits.where(counted, SURE_BACKGROUND), goal * counted
        # (N, A, H, W) -> (N*A*H*W, 1), the form of mmdet's element-wise losses
        logits, goal = logits.reshape(-1, 1), goal.reshape(-1, 1)
        place_quality = Quality(goal.flatten(), quality.mean)
        loss_obj = call_loss(self.loss_obj, logits, goal, None, num_predictions, quality=place_quality)

        loss_cls = self._class_loss(class_logits, gt.labels[positives.gt], weight, num_positives, quality)
        return {'loss_cls': loss_cls, **box_losses, 'loss_obj': loss_obj}

    def _class_loss(
        self, logits: Tensor, labels: Tensor, weight: Tensor | None, num_positives: int | Tensor, quality: Quality
    ) -> Tensor:
        """Return the mean over positives (and over independent classes); 0 without positives or for one class."""
        if self.num_classes == 1 or len(logits) == 0:
            return logits[:0].sum()
        target = class_targets(labels, self.num_classes, self.label_smoothing, self.use_sigmoid)
        if self.use_sigmoid:
            num_positives = num_positives * self.num_classes
            weight = None if weight is None else weight[:, None].expand_as(logits)
        return call_loss(self.loss_cls, logits, target, weight, num_positives, quality=quality)

    def batch_factor(self, batch_size: int | Tensor) -> float | Tensor:
        """Return the factor of the losses of a mean image: the batch size, as for a sum over images."""
        return batch_size

    # Prediction

    @torch.no_grad()
    def predict_by_feat(
        self,
        pred_maps: Sequence[Tensor],
        batch_img_metas: Sequence[dict],
        cfg: dict | None = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> list[InstanceData]:
        """Return the detections of each image, see :func:`.postprocess.detect`; ``cfg`` overrides ``test_cfg``."""
        cfg = {**self.test_cfg, **(cfg or {})}
        likely = self.decode_likely(pred_maps, cfg['score_thr'])
        return detect(likely, batch_img_metas, cfg, self.takes_several_labels(cfg), rescale, with_nms)

    def decode(self, pred_maps: Sequence[Tensor]) -> Predictions:
        """Return all M predictions of each image in float32, in the order level, anchor, row, column."""
        levels = []
        for pred_map, anchors_wh, stride in zip(pred_maps, self.anchors_wh, self.strides, strict=True):
            # (N, A*(5+C), H, W) -> (N, A, H, W, 5+C)
            count, _, height, width = pred_map.shape
            raw = pred_map.float().view(count, self.num_anchors, -1, height, width).permute(0, 1, 3, 4, 2)
            # slices: a split becomes a sequence in ONNX, which OpenVINO cannot convert
            raw_boxes, objectness, raw_classes = raw[..., :4], raw[..., 4:5], raw[..., 5:]
            rows, columns = (torch.arange(size, device=raw.device, dtype=raw.dtype) for size in raw.shape[2:4])
            cell_y, cell_x = torch.meshgrid(rows, columns, indexing='ij')
            cells_xy = torch.stack([cell_x, cell_y], dim=-1)
            boxes_xyxy = self._boxes_xyxy(raw_boxes, cells_xy, anchors_wh[:, None, None], stride)
            fields = boxes_xyxy, objectness.squeeze(-1).sigmoid(), self.class_scores(raw_classes)
            levels.append([field.flatten(1, 3) for field in fields])
        return Predictions(*(torch.cat(fields, dim=1) for fields in zip(*levels, strict=True)))

    def decode_likely(self, pred_maps: Sequence[Tensor], score_thr: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return those of :meth:`decode` whose objectness is above ``score_thr``; no other is decoded.

        No score exceeds its objectness, so no detection is lost. For prediction and export alike.

        Returns:
            Image (K,) long, boxes (K, 4) xyxy px of the network input, scores (K, C): objectness times class.
        """
        levels = []
        for pred_map, anchors_wh, stride in zip(pred_maps, self.anchors_wh, self.strides, strict=True):
            objectness = objectness_of(pred_map, self.num_anchors).float().sigmoid()
            height, width = objectness.shape[2:]
            objectness = objectness.flatten()
            index = torch.nonzero(objectness > score_thr).squeeze(1)
            rows = take_predictions(pred_map, self.num_anchors, index).float()
            # the index runs over image, anchor, row, column
            map_index, cell = index // (height * width), index % (height * width)
            cells_xy = torch.stack([cell % width, cell // width], dim=1).float()
            boxes_xyxy = self._boxes_xyxy(rows[:, :4], cells_xy, anchors_wh[map_index % self.num_anchors], stride)
            scores = objectness[index][:, None] * self.class_scores(rows[:, 5:])
            levels.append((map_index // self.num_anchors, boxes_xyxy, scores))
        return tuple(torch.cat(fields) for fields in zip(*levels, strict=True))

    def _boxes_xyxy(self, raw_boxes: Tensor, cells_xy: Tensor, anchors_wh: Tensor, stride: int) -> Tensor:
        """Return boxes (..., 4) in px, for anchors in px."""
        return cxcywh_to_xyxy(self.bbox_coder.decode(raw_boxes, cells_xy, anchors_wh / stride) * stride)

    def class_scores(self, logits: Tensor) -> Tensor:
        """Return scores (..., C) in [0, 1] by sigmoid or softmax; 1 for a single class, which has no loss."""
        if self.num_classes == 1:
            return torch.ones_like(logits)
        return logits.sigmoid() if self.use_sigmoid else logits.softmax(dim=-1)

    def takes_several_labels(self, cfg: dict) -> bool:
        """Return whether a box may have detections of several classes: ``cfg['multi_label']``, if they may coincide.

        Exclusive classes overrule it, so that the class loss alone decides in prediction, validation and export;
        class-agnostic suppression too, since it would keep only the best detection of a box.
        """
        agnostic = cfg['nms'].get('class_agnostic', False)
        return bool(cfg['multi_label'] and self.use_sigmoid and self.num_classes > 1 and not agnostic)


class LevelBalance(nn.Module):
    """Weighted sum of the objectness losses of the levels, with fixed or adapted weights.

    With ``auto_balance`` each call in training moves weight_l to 0.9999 weight_l + 0.0001 / loss_l, then divides all
    by that of stride 16; loss_l is that of the batches of all ranks, before any gain. The weights are then part of the
    state dict, so that a resumed run continues with them.

    Args:
        weights: One per level, or ``'auto'``: 4, 1, 0.4 for up to three levels (counted from the deepest), 4, 1, 0.25,
            0.06, 0.02 for more.
        strides: Of the levels.
        auto_balance: Adapt the weights.

    Raises:
        ValueError: If there is not one weight per level, for ``'auto'`` with more than five levels, or for
            ``auto_balance`` without a level of stride 16.
    """

    THREE_LEVELS = (4.0, 1.0, 0.4)
    MANY_LEVELS = (4.0, 1.0, 0.25, 0.06, 0.02)
    REFERENCE_STRIDE = 16
    RATE = 1e-4
    LEAST_LOSS = 1e-9

    def __init__(self, weights: Sequence[float] | str, strides: Sequence[int], auto_balance: bool = False) -> None:
        super().__init__()
        levels = len(strides)
        if weights == 'auto':
            weights = self.THREE_LEVELS[-levels:] if levels <= 3 else self.MANY_LEVELS[:levels]
        if isinstance(weights, str) or len(weights) != levels:
            raise ValueError(
                f"obj_level_weights must be 'auto' (up to five levels) or one number for each of the {levels} levels "
                f'(strides {tuple(strides)}), got {weights!r}'
            )
        if auto_balance and self.REFERENCE_STRIDE not in strides:
            raise ValueError(
                f'auto_balance needs a level of stride {self.REFERENCE_STRIDE}, got strides {tuple(strides)}: give '
                'obj_level_weights instead'
            )
        self.auto_balance = auto_balance
        self.reference = list(strides).index(self.REFERENCE_STRIDE) if auto_balance else None
        self.register_buffer('weights', torch.tensor(weights, dtype=torch.float32), persistent=auto_balance)

    def forward(self, level_losses: Tensor, gain: float = 1.0) -> Tensor:
        """Return the weighted sum of the losses of the levels (L,), which were multiplied by ``gain``."""
        # a copy, since the backward pass needs the weights of this call
        total = (self.weights.clone() * level_losses).sum()
        if self.auto_balance and self.training and gain:
            losses = mean_over_ranks(level_losses.detach()) / gain
            adapted = (1 - self.RATE) * self.weights + self.RATE / losses.clamp(min=self.LEAST_LOSS)
            self.weights.copy_(adapted / adapted[self.reference])
        return total
