_base_ = './yolov5_l_640_coco.py'

model = dict(backbone=dict(version='v5'))
