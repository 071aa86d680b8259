"""YOLOv5's head: three predictions a place, their losses, and the way back to boxes on the picture.

Letters: N images, A anchors of a level, C classes, L levels, P positives of a level.
"""

import math
from collections.abc import Sequence

from mmyolo_ext.models.heads.anchor_grid_head import AnchorGridHead
from mmyolo_ext.models.heads.grid_training import GridTraining
from mmyolo_ext.models.heads.level_balance import LevelBalance
from mmyolo_ext.models.heads.loss_checks import (
    check_box_losses,
    check_class_loss,
    check_objectness_loss,
    soft_label_fault,
)
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
from mmyolo_ext.models.losses import SumLoss
from mmyolo_ext.registry import MODELS, TASK_UTILS


@MODELS.register_module()
class YOLOv5Head(GridTraining, AnchorGridHead):
    """One 1x1 convolution a level predicts, for every anchor in every cell, a box, its objectness and its classes.

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
        loss_bbox: on (P, 4) xyxy in grid units; or a list of such losses, of which the log shows each.
        loss_obj: element-wise, on (N*A*H*W, 1).
        obj_level_weights: see :class:`LevelBalance`.
        auto_balance: see :class:`LevelBalance`.
        iou_ratio: g; the objectness target of a positive is (1 - g) + g * CIoU.
        label_smoothing: e in [0, 1), see :mod:`.class_targets`.
        scale_losses: fit the gains to the task: classes by C/80 * 3/L, boxes by 3/L, objectness by 3/L and by the area
            of the input over 640 x 640.
        input_size: side, or (height, width), of the network input in px; read by ``scale_losses`` alone.
        train_cfg: ``ignore_iof_thr``: an anchor of which this share lies in an ignore region adds no objectness loss,
            unless it is a positive.
        test_cfg: ``score_thr``, ``multi_label``, ``nms_pre``, ``nms``, ``max_per_img``.
        init_cfg: as in MMEngine.

    Raises:
        ValueError: ``in_channels`` not filled in or not one per level, a number out of its range, or a loss that
            cannot be taught here.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: Sequence[int] | str,
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
        super().__init__(
            num_classes, in_channels, prior_generator, bbox_coder, {**TEST_CFG, **(test_cfg or {})}, init_cfg
        )
        _check_share('iou_ratio', iou_ratio)
        _check_share('label_smoothing', label_smoothing)
        self.assigner = TASK_UTILS.build(assigner)
        self.loss_cls = MODELS.build(loss_cls)
        self.loss_bbox = SumLoss(loss_bbox if isinstance(loss_bbox, Sequence) else [loss_bbox])
        self.loss_obj = MODELS.build(loss_obj)
        self.use_sigmoid = getattr(self.loss_cls, 'use_sigmoid', True)
        check_class_loss(self.loss_cls, num_classes, label_smoothing)
        self.soft_label_fault = soft_label_fault(self.loss_cls, num_classes, label_smoothing)
        check_box_losses(self.loss_bbox)
        check_objectness_loss(self.loss_obj)
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
            bias = conv.bias.detach().clone().view(self.num_anchors, -1)
            bias[:, 4] = math.log(8 / (NOMINAL_SIZE / stride) ** 2)
            bias[:, 5:] = math.log(0.6 / (self.num_classes - 0.99))
            conv.bias.data.copy_(bias.flatten())


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f'{name} must be from 0 to 1, got {value}')
