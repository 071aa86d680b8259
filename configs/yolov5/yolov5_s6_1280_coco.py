_base_ = './yolov5_n6_1280_coco.py'

model = dict(
    backbone=dict(deepen_factor=0.33, widen_factor=0.5),
    neck=dict(deepen_factor=0.33, widen_factor=0.5),
)
