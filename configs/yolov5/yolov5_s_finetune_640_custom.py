_base_ = [
    '../_base_/models/yolov5_p5.py',
    '../_base_/datasets/coco_640.py',
    '../_base_/schedules/yolov5_finetune.py',
    '../_base_/default_runtime.py',
]

# Copy these lines into a config of your own, with _base_ = 'configs/yolov5/yolov5_s_finetune_640_custom.py'.
# load_from: any YOLOv5s checkpoint of this package, Ultralytics or MMYOLO; class outputs are initialised anew.
load_from = 'weights/yolov5s.pt'
class_names = ('cat', 'dog')  # in the order of the categories in the JSON files
data_root = 'data/custom/'
train_ann, train_img = 'annotations/train.json', 'train/'
val_ann, val_img = 'annotations/val.json', 'val/'

# Stem and first stage are frozen. With fewer than some hundred images freeze more: frozen_stages=4 is the whole
# backbone, frozen_parts=('backbone', 'neck') of the model leaves only the head trainable.
model = dict(
    backbone=dict(deepen_factor=0.33, widen_factor=0.5, frozen_stages=1),
    neck=dict(deepen_factor=0.33, widen_factor=0.5),
)

# A step every 16 images: with a few hundred images, 64 would give too few steps. The EMA covers the last 200 at most.
default_hooks = dict(
    accumulate=dict(nominal_batch_size=16),
    ema=dict(momentum=0.005, gamma=200),
    close_mosaic=dict(num_last_epochs=5),
)
