_base_ = './yolov5_shufflenetv2-0.5_320_bccd.py'

model = dict(backbone=dict(stem='stem_block'))
