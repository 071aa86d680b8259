_base_ = './yolov5_shufflenetv2-1.0_320_bccd.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmyolo_ext.MobileNetV3',
        arch='small',
        norm_cfg=dict(type='BN', momentum=0.03, eps=1e-3),  # as in the neck
    ),
    neck=dict(widen_factor=0.5),
)
