_base_ = [
    '../_base_/models/yolov5_light.py',
    '../_base_/datasets/coco_640.py',
    '../_base_/schedules/yolov5_300e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    data_preprocessor=_base_.imagenet,
    backbone=dict(
        init_cfg=dict(
            type='Pretrained', checkpoint='https://download.pytorch.org/models/shufflenetv2_x1-5666bf0f80.pth'
        ),
    ),
)
