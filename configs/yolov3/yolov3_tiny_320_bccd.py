_base_ = [
    '../_base_/models/yolov3_tiny.py',
    '../_base_/datasets/bccd_320.py',
    '../_base_/schedules/yolov5_300e.py',
    '../_base_/default_runtime.py',
]

num_classes = 3

model = dict(bbox_head=dict(num_classes=num_classes, input_size=320))

train_cfg = dict(max_epochs=100, val_interval=10)
