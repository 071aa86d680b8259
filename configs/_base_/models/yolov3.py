_base_ = './yolov5_p5.py'

model = dict(
    # To start from weights of ImageNet:
    # backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://darknet53'))
    backbone=dict(
        _delete_=True,
        type='mmdet.Darknet',
        depth=53,
        out_indices=(3, 4, 5),
        norm_cfg=dict(type='BN', momentum=0.03, eps=1e-5),
        norm_eval=False,
    ),
    neck=dict(
        _delete_=True,
        type='mmyolo_ext.YOLOv3FPN',
        in_channels='auto',
        out_channels=(256, 512, 1024),
        norm_cfg=dict(type='BN', momentum=0.03, eps=1e-5),
    ),
    bbox_head=dict(
        type='mmyolo_ext.YOLOv3Head',
        assigner=dict(_delete_=True, type='mmyolo_ext.YOLOv3Assigner', iou_thr=0.2),
        # gains for 80 classes, 640 px and three levels, for a mean over 64 images; the head scales them to its own,
        # and AccumulateHook accumulates batches to steps of 64 images
        nominal_batch_size=64,
        loss_cls=dict(loss_weight=37.4),
        loss_bbox=dict(mode='giou', loss_weight=3.54),
        loss_obj=dict(loss_weight=64.3),
    ),
)
