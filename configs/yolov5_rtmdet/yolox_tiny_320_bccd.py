_base_ = [
    '../_base_/models/yolox_tiny.py',
    '../_base_/datasets/bccd_320_mmdet.py',
    '../_base_/schedules/small_100e.py',
    '../_base_/default_runtime.py',
]

num_classes = 3

model = dict(bbox_head=dict(num_classes=num_classes))
load_from = 'mmdet::yolox_tiny_8x8_300e_coco'

# as in yolov5_n_320_bccd.py
default_hooks = dict(accumulate=dict(nominal_batch_size=16), ema=dict(momentum=0.005, gamma=200))
