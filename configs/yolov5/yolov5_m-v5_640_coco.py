_base_ = './yolov5_m_640_coco.py'

model = dict(backbone=dict(version='v5'))
