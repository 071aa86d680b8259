_base_ = [
    '../_base_/models/yolov5_p5.py',
    '../_base_/datasets/digits.py',
    '../_base_/schedules/yolov5_300e.py',
    '../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(deepen_factor=0.33, widen_factor=0.25),
    neck=dict(deepen_factor=0.33, widen_factor=0.25),
    bbox_head=dict(num_classes=10, input_size=192),
)

train_cfg = dict(max_epochs=15, val_interval=5)
default_hooks = dict(logger=dict(interval=10), close_mosaic=dict(num_last_epochs=3))
