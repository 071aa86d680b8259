_base_ = [
    '../_base_/models/yolov5_p5.py',
    '../_base_/datasets/bccd_320.py',
    '../_base_/schedules/yolov5_finetune.py',
    '../_base_/default_runtime.py',
]

num_classes = 3

# Any YOLOv5n checkpoint of this package, Ultralytics or MMYOLO; the outputs for the classes are initialised anew.
load_from = 'weights/yolov5n.pt'

model = dict(
    # frozen are stem and first stage: 11 thousand of 1.8 million parameters, on the largest feature maps
    backbone=dict(deepen_factor=0.33, widen_factor=0.25, frozen_stages=1),
    neck=dict(deepen_factor=0.33, widen_factor=0.25),
    bbox_head=dict(num_classes=num_classes, input_size=320),
)

# 292 images are 5 steps of 64 per epoch: take 19 of 16, 950 in all; the EMA covers the last 200 at most
default_hooks = dict(
    accumulate=dict(nominal_batch_size=16),
    ema=dict(momentum=0.005, gamma=200),
    close_mosaic=dict(num_last_epochs=5),
)
