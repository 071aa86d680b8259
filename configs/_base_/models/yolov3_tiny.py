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
    backbone=dict(type='mmyolo_ext.TinyDarknet', out_indices=(4, 5)),
    neck=dict(type='mmyolo_ext.YOLOv3TinyFPN', in_channels='auto', out_channels=(256, 512)),
    bbox_head=dict(
        type='mmyolo_ext.YOLOv3Head',
        num_classes=80,
        in_channels='auto',
        input_size=640,
        prior_generator=dict(
            type='mmdet.YOLOAnchorGenerator',
            base_sizes=[[(10, 14), (23, 27), (37, 58)], [(81, 82), (135, 169), (344, 319)]],
            strides=[16, 32],
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
