_base_ = [
    '../_base_/models/yolov5_light.py',
    '../_base_/datasets/coco_640.py',
    '../_base_/schedules/yolov5_300e.py',
    '../_base_/default_runtime.py',
]

model = dict(backbone=dict(stem='stem_block'))
