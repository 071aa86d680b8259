num_classes = 80

model = dict(
    type='mmyolo_ext.YOLODetector',
    data_preprocessor=dict(
        type='mmyolo_ext.DataPreprocessor',
        mean=[0, 0, 0],
        std=[255, 255, 255],
        bgr_to_rgb=True,
        # pads batches of images of different sizes with the grey of the letterbox
        pad_size_divisor=32,
        pad_value=114 / 255,
    ),
    backbone=dict(type='mmyolo_ext.YOLOv5CSPDarknet', arch='P5', version='v6', deepen_factor=1.0, widen_factor=1.0),
    neck=dict(
        type='mmyolo_ext.YOLOv5PAFPN',
        in_channels='auto',
        out_channels=(256, 512, 1024),  # multiplied by widen_factor
        deepen_factor=1.0,
        widen_factor=1.0,
    ),
    bbox_head=dict(
        type='mmyolo_ext.YOLOv5Head',
        num_classes=num_classes,
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
        assigner=dict(type='mmyolo_ext.YOLOv5Assigner', prior_match_thr=4.0, neighbor_offset=0.5),
        # gains for 80 classes, 640 px and three levels; the head scales them to its own
        loss_cls=dict(type='mmyolo_ext.BCELoss', loss_weight=0.5),
        loss_bbox=dict(type='mmyolo_ext.IoULoss', mode='ciou', loss_weight=0.05),
        loss_obj=dict(type='mmyolo_ext.BCELoss', loss_weight=1.0),
    ),
    train_cfg=dict(ignore_iof_thr=0.5),
    test_cfg=dict(
        multi_label=True, nms_pre=30000, score_thr=0.001, nms=dict(type='nms', iou_threshold=0.65), max_per_img=300
    ),
)
