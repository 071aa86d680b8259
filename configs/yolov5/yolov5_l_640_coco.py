_base_ = [
    '../_base_/models/yolov5_p5.py',
    '../_base_/datasets/coco_640.py',
    '../_base_/schedules/yolov5_300e.py',
    '../_base_/default_runtime.py',
]

train_dataloader = dict(dataset=dict(dataset=dict(_delete_=True, **_base_.strong_mix)))
