# YOLOv5's neck and head on a light backbone. All levels of the neck have the same channels: where they double from
# level to level, as in yolov5_p5.py, two thirds of its parameters stand at stride 32, where 1/21 of the cells are, and
# stride 8 is left with 64 channels for the small objects. On ShuffleNetV2 1.0 at 640 px a neck of 96, 96, 96 costs
# 0.74 GMACs with 0.44 M parameters, one of 64, 128, 256 costs 0.72 with 0.75 M. The neck's widen_factor (0.5, 0.75 or
# 1.0: 64, 96, 128 channels) is such that neck and head together cost about what the backbone does; see docs/guides/backbones.md.

# for weights of torchvision, which saw pictures normalized so; the grey of the paddings is then about 0
imagenet = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], pad_value=0)

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
    backbone=dict(
        type='mmyolo_ext.ShuffleNetV2',
        widen_factor=1.0,
        stem='conv_maxpool',
        out_indices=(1, 2, 3),
        # the neck's; on BCCD it ends where PyTorch's 0.1 does (mAP50 0.805 and 0.801)
        norm_cfg=dict(type='BN', momentum=0.03),
    ),
    neck=dict(
        type='mmyolo_ext.YOLOv5PAFPN',
        in_channels='auto',
        out_channels=(128, 128, 128),  # at full width
        deepen_factor=0.33,
        widen_factor=0.75,
    ),
    bbox_head=dict(
        type='mmyolo_ext.YOLOv5Head',
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
