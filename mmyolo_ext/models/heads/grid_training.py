"""How a head on anchors of a grid is taught: assign, then three kinds of losses a level, then their sum.

Letters: N images, A anchors of a level, C classes, P positives of a level.
"""

import math
from collections.abc import Sequence

import torch
from mmdet.models.utils import unpack_gt_instances
from mmdet.structures import SampleList
from mmengine.dist import get_world_size
from mmengine.structures import InstanceData
from torch import Tensor

from mmyolo_ext.boxes import paired_iou, xyxy_to_cxcywh
from mmyolo_ext.models.heads.anchor_grid_head import AnchorGridHead
from mmyolo_ext.models.heads.batch_boxes import BatchBoxes, collect_boxes, collect_labels
from mmyolo_ext.models.heads.class_targets import class_targets
from mmyolo_ext.models.heads.head_maps import SplitMaps, WholeMap
from mmyolo_ext.models.heads.level import Level
from mmyolo_ext.models.heads.objectness import counted_by_level, objectness_targets
from mmyolo_ext.models.heads.soft_labels import collect_soft_labels, has_soft_labels
from mmyolo_ext.models.losses.class_target import Quality, mean_quality
from mmyolo_ext.models.losses.host_call import call_loss, wanted
from mmyolo_ext.models.losses.repulsion_loss import Crowd
from mmyolo_ext.models.over_ranks import BatchCounts, mean_over_ranks
from mmyolo_ext.models.task_modules import Positives

# a logit whose probability is 0 in float32
SURE_BACKGROUND = -100.0


class GridTraining:
    """The training half of a head; the other, :class:`.AnchorGridHead`, predicts.

    Each step is a method of its own, for a head that does one of them otherwise. The head sets ``assigner``,
    ``loss_cls``, ``loss_bbox`` (a ``SumLoss``), ``loss_obj``, ``obj_balance``, ``gains``, ``iou_ratio``,
    ``label_smoothing``, ``soft_label_fault`` (why soft labels cannot be taught, or None) and ``train_cfg``.
    """

    # the overlap that objectness learns, whatever the box loss
    quality_mode = 'ciou'

    def loss_by_feat(
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        objectnesses: Sequence[Tensor],
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[dict],
        batch_gt_instances_ignore: Sequence[InstanceData | None] | None = None,
    ) -> dict[str, Tensor]:
        """The losses of a batch: class, objectness and every box term.

        Finite, with a gradient for every parameter, with and without boxes. With several processes the mean over
        ranks is the loss of the images of all of them, see :mod:`mmyolo_ext.models.over_ranks`.

        Args:
            cls_scores: as ``forward`` gives them; likewise the next two.
            bbox_preds: see there.
            objectnesses: see there.
            batch_gt_instances: ``bboxes`` (xyxy px of the network input) and ``labels`` of each picture; with
                ``soft_labels``, a row of C shares a box, those are taught and the labels only guide the assigner.
            batch_img_metas: one per picture; their number is the batch size.
            batch_gt_instances_ignore: ``bboxes`` of each picture's ignore regions, None where it has none.
        """
        maps = [SplitMaps(*level) for level in zip(cls_scores, bbox_preds, objectnesses, strict=True)]
        return self.loss_by_maps(maps, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore)

    def loss(self, x: Sequence[Tensor], batch_data_samples: SampleList) -> dict[str, Tensor]:
        """As mmdet's: the losses of a batch from the maps of the neck.

        The head's own maps stay in one piece, unless a subclass has a ``forward`` or a ``loss_by_feat`` of its own.
        """
        kind = type(self)
        if kind.forward is not AnchorGridHead.forward or kind.loss_by_feat is not GridTraining.loss_by_feat:
            return super().loss(x, batch_data_samples)
        gt_instances, ignored, img_metas = unpack_gt_instances(batch_data_samples)
        return self.loss_by_maps(self.whole_maps(x), gt_instances, img_metas, ignored)

    def loss_by_maps(
        self,
        maps: Sequence[WholeMap | SplitMaps],
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[dict],
        batch_gt_instances_ignore: Sequence[InstanceData | None] | None = None,
    ) -> dict[str, Tensor]:
        """:meth:`loss_by_feat` on the maps of each level."""
        shapes = [level.shape for level in maps]
        gt = collect_boxes(batch_gt_instances, like=self.anchors_wh)
        labels = collect_labels(batch_gt_instances, like=gt.image)
        positives = self.assign(gt, labels, maps)
        counts = BatchCounts(len(batch_img_metas), positives, [math.prod(shape) for shape in shapes], gt.image.device)
        taught_labels = self.taught_labels(batch_gt_instances, labels)
        ignored = collect_boxes(batch_gt_instances_ignore or [], like=self.anchors_wh)
        counted = counted_by_level(
            ignored, positives, self.anchors_wh, self.strides, shapes, self.train_cfg['ignore_iof_thr']
        )
        readings = [level.read(matches) for level, matches in zip(maps, positives, strict=True)]
        num_images, num_positives, num_places = counts.wait()
        levels = [
            Level(*reading, matches, level_counted, gt, taught_labels, anchors_wh, stride, *divisors)
            for reading, matches, level_counted, anchors_wh, stride, *divisors in zip(
                *(readings, positives, counted, self.anchors_wh.unbind(), self.strides),
                *(num_positives, num_places),
                strict=True,
            )
        ]
        return self.sum_levels([self.level_losses(level) for level in levels], num_images)

    def assign(self, gt: BatchBoxes, labels: Tensor, maps: Sequence[WholeMap | SplitMaps]) -> list[Positives]:
        """The positives of each level; an assigner whose ``wants`` name them gets the labels and the predictions."""
        offers = {'labels': labels}
        if 'predictions' in getattr(self.assigner, 'wants', ()):
            with torch.no_grad():
                offers['predictions'] = self.decode(*zip(*(level.split() for level in maps), strict=True))
        grid_sizes = [level.shape[-2:] for level in maps]
        return self.assigner.assign(
            xyxy_to_cxcywh(gt.boxes_xyxy),
            gt.image,
            self.anchors_wh,
            self.strides,
            grid_sizes,
            **wanted(self.assigner, **offers),
        )

    def taught_labels(self, batch_gt_instances: Sequence[InstanceData], labels: Tensor) -> Tensor:
        """What the class loss is taught of each box: its label (G,), or rows (G, C) where there are soft labels.

        Raises:
            ValueError: soft labels that are none, see :func:`.soft_labels.collect_soft_labels`, or that this head's
                class loss does not take.
        """
        if not has_soft_labels(batch_gt_instances):
            return labels
        if self.soft_label_fault:
            raise ValueError(self.soft_label_fault)
        return collect_soft_labels(batch_gt_instances, labels, self.num_classes, self.use_sigmoid)

    def level_losses(self, level: Level) -> dict[str, Tensor]:
        """Every term of one level, before the gains."""
        boxes, targets = level.boxes_xyxy(self.bbox_coder), level.targets_xyxy()
        overlap = paired_iou(boxes.detach(), targets, self.quality_mode)
        quality = Quality(overlap.clamp(min=0), self.mean_quality(overlap, level))
        return {
            'loss_cls': self.class_loss(level, quality),
            **self.box_losses(boxes, targets, level),
            'loss_obj': self.objectness_loss(level, quality),
        }

    def mean_quality(self, overlap: Tensor, level: Level) -> Tensor:
        """Mean overlap of the level's positives, on all ranks if a loss reads it: (P,) -> scalar."""
        is_read = any('quality' in getattr(loss, 'wants', ()) for loss in (self.loss_cls, self.loss_obj))
        return mean_quality(overlap, level.positives.valid, mean_over_ranks if _several_ranks() and is_read else None)

    def class_loss(self, level: Level, quality: Quality) -> Tensor:
        """Mean over the positives (and over the classes, if they may coincide); 0 without any, or for one class."""
        logits, avg_factor, weight = level.class_logits, level.num_positives, level.weight()
        if self.num_classes == 1 or len(logits) == 0:
            return logits[:0].sum()
        target = class_targets(level.positive_labels(), self.num_classes, self.label_smoothing, self.use_sigmoid)
        if self.use_sigmoid:
            avg_factor = avg_factor * self.num_classes
            weight = None if weight is None else weight[:, None].expand_as(logits)
        return call_loss(self.loss_cls, logits, target, {'quality': quality}, weight, avg_factor=avg_factor)

    def box_losses(self, boxes: Tensor, targets: Tensor, level: Level) -> dict[str, Tensor]:
        """Every box term: mean over the positives, 0 without any."""
        # a term that takes means over ranks takes part in them without boxes too
        shared = _several_ranks() and 'mean_over_ranks' in self.loss_bbox.wants
        if len(boxes) == 0 and not shared:
            return {name: boxes.sum() for name in self.loss_bbox.names}
        positives, gt = level.positives, level.gt
        offers = {
            'stride': level.stride,
            'crowd': Crowd(positives.image, positives.gt, gt.image, gt.boxes_xyxy / level.stride),
            'mean_over_ranks': mean_over_ranks if shared else None,
        }
        return self.loss_bbox.terms(boxes, targets, level.weight(), avg_factor=level.num_positives, **offers)

    def objectness_loss(self, level: Level, quality: Quality) -> Tensor:
        """Mean over all places, of which those in ignore regions add nothing."""
        logits = level.objectness.float()
        target = objectness_targets(level.positives, self.objectness_of(quality.values), logits.shape)
        if level.counted is not None:
            # told rightly and beyond doubt: no loss and no gradient
            logits, target = logits.where(level.counted, SURE_BACKGROUND), target * level.counted
        # (N, A, H, W) -> (N*A*H*W, 1), the form mmdet's element-wise losses take
        logits, target = logits.reshape(-1, 1), target.reshape(-1, 1)
        quality = Quality(target.flatten(), quality.mean)
        return call_loss(self.loss_obj, logits, target, {'quality': quality}, avg_factor=level.num_places)

    def objectness_of(self, overlap: Tensor) -> Tensor:
        """What objectness is taught at positives that overlap their boxes by so much: (P,) -> (P,)."""
        return (1 - self.iou_ratio) + self.iou_ratio * overlap

    def sum_levels(self, levels: Sequence[dict[str, Tensor]], batch_size: int | Tensor) -> dict[str, Tensor]:
        """Terms of the levels -> terms of the batch, which has so many images on all ranks, with their gains."""
        losses = {}
        for name in levels[0]:
            terms = torch.stack([level[name] for level in levels])
            own_gain = getattr(self.loss_obj, 'loss_weight', 1.0)
            total = self.obj_balance(terms, own_gain) if name == 'loss_obj' else terms.sum()
            gain = {'loss_cls': self.gains.cls, 'loss_obj': self.gains.obj}.get(name, self.gains.bbox)
            losses[name] = total * gain * self.batch_factor(batch_size)
        return losses

    def batch_factor(self, batch_size: int | Tensor) -> float | Tensor:
        """What the losses of a mean image are multiplied by: the batch size, as for a sum over images."""
        return batch_size


def _several_ranks() -> bool:
    return get_world_size() > 1
