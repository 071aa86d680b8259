model = dict(
    type='mmyolo_ext.YOLODetector',
    data_preprocessor=dict(
        type='mmyolo_ext.DataPreprocessor',
        mean=[0, 0, 0],
        std=[255, 255, 255],
        bgr_to_rgb=True,
        # only pictures that come in several sizes are padded here; in the grey of the other padding
        pad_size_divisor=64,
        pad_value=114 / 255,
    ),
    backbone=dict(type='mmyolo_ext.YOLOv5CSPDarknet', arch='P6', version='v6', deepen_factor=1.0, widen_factor=1.0),
    neck=dict(
        type='mmyolo_ext.YOLOv5PAFPN',
        in_channels='auto',
        out_channels=(256, 512, 768, 1024),  # at full width
        deepen_factor=1.0,
        widen_factor=1.0,
    ),
    bbox_head=dict(
        type='mmyolo_ext.YOLOv5Head',
        num_classes=80,
        in_channels='auto',
        input_size=1280,
        prior_generator=dict(
            type='mmdet.YOLOAnchorGenerator',
            base_sizes=[
                [(19, 27), (44, 40), (38, 94)],
                [(96, 68), (86, 152), (180, 137)],
                [(140, 301), (303, 264), (238, 542)],
                [(436, 615), (739, 380), (925, 792)],
            ],
            strides=[8, 16, 32, 64],
        ),
        assigner=dict(type='mmyolo_ext.YOLOv5Assigner', prior_match_thr=4.0, neighbor_offset=0.5),
        # gains of 80 classes, 640 px and three levels; the head fits them to the task
        loss_cls=dict(type='mmyolo_ext.BCELoss', loss_weight=0.5),
        loss_bbox=dict(type='mmyolo_ext.IoULoss', mode='ciou', loss_weight=0.05),
        loss_obj=dict(type='mmyolo_ext.BCELoss', loss_weight=1.0),
    ),
    train_cfg=dict(ignore_iof_thr=0.5),
    test_cfg=dict(
        multi_label=True, nms_pre=30000, score_thr=0.001, nms=dict(type='nms', iou_threshold=0.65), max_per_img=300
    ),
)
