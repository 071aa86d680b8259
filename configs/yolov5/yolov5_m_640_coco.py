_base_ = './yolov5_l_640_coco.py'

model = dict(
    backbone=dict(deepen_factor=0.67, widen_factor=0.75),
    neck=dict(deepen_factor=0.67, widen_factor=0.75),
)
