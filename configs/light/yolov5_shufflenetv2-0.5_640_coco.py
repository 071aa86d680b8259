_base_ = [
    '../_base_/models/yolov5_light.py',
    '../_base_/datasets/coco_640.py',
    '../_base_/schedules/yolov5_300e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    data_preprocessor=_base_.imagenet,
    backbone=dict(
        widen_factor=0.5,
        init_cfg=dict(
            type='Pretrained', checkpoint='https://download.pytorch.org/models/shufflenetv2_x0.5-f707e7126e.pth'
        ),
    ),
    neck=dict(widen_factor=0.5),
)
