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
        init_cfg=dict(
            type='Pretrained', checkpoint='https://download.pytorch.org/models/shufflenetv2_x1-5666bf0f80.pth'
        ),
    ),
)
