_base_ = './yolov5_s_640_coco.py'

model = dict(backbone=dict(version='v5'))
