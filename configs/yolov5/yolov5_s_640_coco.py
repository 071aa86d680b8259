_base_ = './yolov5_n_640_coco.py'

model = dict(
    backbone=dict(deepen_factor=0.33, widen_factor=0.5),
    neck=dict(deepen_factor=0.33, widen_factor=0.5),
)
