_base_ = './yolov5_l6_1280_coco.py'

model = dict(
    backbone=dict(deepen_factor=1.33, widen_factor=1.25),
    neck=dict(deepen_factor=1.33, widen_factor=1.25),
)
