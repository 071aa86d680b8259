_base_ = [
    '../_base_/models/yolov5_rtmdet.py',
    '../_base_/datasets/coco_640.py',
    '../_base_/schedules/yolov5_finetune.py',
    '../_base_/default_runtime.py',
]

load_from = 'mmdet::rtmdet_tiny_8xb32-300e_coco'
