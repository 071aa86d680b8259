_base_ = './yolov5_rtmdet-tiny_640_coco.py'

model = dict(backbone=dict(deepen_factor=0.33, widen_factor=0.5), neck=dict(out_channels=128))
load_from = 'mmdet::rtmdet_s_8xb32-300e_coco'
