_base_ = [
    '../_base_/models/yolov5_light.py',
    '../_base_/datasets/coco_640.py',
    '../_base_/schedules/yolov5_300e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    # of the torchvision weights; 0 is about the grey of the letterbox
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], pad_value=0),
    backbone=dict(
        _delete_=True,
        type='mmyolo_ext.MobileNetV3',
        arch='large',
        norm_cfg=dict(type='BN', momentum=0.03, eps=1e-3),  # as in the neck
        init_cfg=dict(
            type='Pretrained', checkpoint='https://download.pytorch.org/models/mobilenet_v3_large-8738ca79.pth'
        ),
    ),
    neck=dict(widen_factor=1.0),
)
