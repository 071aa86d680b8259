_base_ = './yolov5_x_640_coco.py'

model = dict(backbone=dict(version='v5'))
