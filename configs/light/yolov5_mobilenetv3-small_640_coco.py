_base_ = './yolov5_mobilenetv3-large_640_coco.py'

model = dict(
    backbone=dict(
        arch='small', init_cfg=dict(checkpoint='https://download.pytorch.org/models/mobilenet_v3_small-047dcff4.pth')
    ),
    neck=dict(widen_factor=0.5),
)
