_base_ = [
    '../_base_/models/yolov5_p5.py',
    '../_base_/datasets/bccd_320.py',
    '../_base_/schedules/small_100e.py',
    '../_base_/default_runtime.py',
]

num_classes = 3

model = dict(
    backbone=dict(deepen_factor=0.33, widen_factor=0.25),
    neck=dict(deepen_factor=0.33, widen_factor=0.25),
    bbox_head=dict(num_classes=num_classes, input_size=320),
)

# 292 images are 19 steps of 16 per epoch, 1900 steps in all; the EMA covers the last 200 at most
default_hooks = dict(accumulate=dict(nominal_batch_size=16), ema=dict(momentum=0.005, gamma=200))
