_base_ = [
    '../_base_/models/yolov5_p6.py',
    '../_base_/datasets/coco_1280.py',
    '../_base_/schedules/yolov5_300e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(deepen_factor=0.67, widen_factor=0.75),
    neck=dict(deepen_factor=0.67, widen_factor=0.75),
)

train_dataloader = dict(dataset=dict(dataset=dict(_delete_=True, **_base_.strong_mix)))
