_base_ = './yolov5_shufflenetv2-1.0_320_bccd.py'

model = dict(backbone=dict(stem='stem_block'))
