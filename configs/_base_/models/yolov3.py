_norm = dict(type='BN', momentum=0.03, eps=1e-5)

model = dict(
    type='mmyolo_ext.YOLODetector',
    data_preprocessor=dict(
        type='mmyolo_ext.DataPreprocessor',
        mean=[0, 0, 0],
        std=[255, 255, 255],
        bgr_to_rgb=True,
        # only pictures that come in several sizes are padded here; in the grey of the other padding
        pad_size_divisor=32,
        pad_value=114 / 255,
    ),
    # From scratch. To start from the weights published for ImageNet:
    # backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://darknet53'))
    backbone=dict(type='mmdet.Darknet', depth=53, out_indices=(3, 4, 5), norm_cfg=_norm, norm_eval=False),
    neck=dict(type='mmyolo_ext.YOLOv3FPN', in_channels='auto', out_channels=(256, 512, 1024), norm_cfg=_norm),
    bbox_head=dict(
        type='mmyolo_ext.YOLOv3Head',
        num_classes=80,
        in_channels='auto',
        input_size=640,
        prior_generator=dict(
            type='mmdet.YOLOAnchorGenerator',
            base_sizes=[
                [(10, 13), (16, 30), (33, 23)],
                [(30, 61), (62, 45), (59, 119)],
                [(116, 90), (156, 198), (373, 326)],
            ],
            strides=[8, 16, 32],
        ),
        assigner=dict(type='mmyolo_ext.YOLOv3Assigner', iou_thr=0.2),
        # gains of 80 classes, 640 px and three levels, for the mean of 64 pictures; the head fits them to the task,
        # and the recipe adds up batches to 64 pictures a step (AccumulateHook)
        nominal_batch_size=64,
        loss_cls=dict(type='mmyolo_ext.BCELoss', loss_weight=37.4),
        loss_bbox=dict(type='mmyolo_ext.IoULoss', mode='giou', loss_weight=3.54),
        loss_obj=dict(type='mmyolo_ext.BCELoss', loss_weight=64.3),
    ),
    train_cfg=dict(ignore_iof_thr=0.5),
    test_cfg=dict(
        multi_label=True, nms_pre=30000, score_thr=0.001, nms=dict(type='nms', iou_threshold=0.65), max_per_img=300
    ),
)

del _norm
