_base_ = './yolov5_shufflenetv2-1.0_320_bccd.py'

model = dict(backbone=dict(widen_factor=0.5), neck=dict(widen_factor=0.5))
