_base_ = [
    '../_base_/models/yolox_tiny.py',
    '../_base_/datasets/bccd_320.py',
    '../_base_/schedules/small_100e.py',
    '../_base_/default_runtime.py',
]

num_classes = 3

model = dict(bbox_head=dict(num_classes=num_classes))
load_from = 'mmdet::yolox_tiny_8x8_300e_coco'

# mmdet's heads undo a letterbox by its scale alone: pad right and below
val_pipeline = _base_.val_pipeline
val_pipeline[2].centred = False
inference_pipeline = _base_.inference_pipeline
inference_pipeline[1].centred = False
val_dataloader = dict(dataset=dict(pipeline=inference_pipeline, dataset=dict(pipeline=val_pipeline)))
test_dataloader = val_dataloader

tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].transforms[1] = [
    dict(type='mmyolo_ext.Letterbox', size_hw=(side, side), centred=False, stride=32) for side in (256, 320, 384)
]

# as in yolov5_n_320_bccd.py
default_hooks = dict(accumulate=dict(nominal_batch_size=16), ema=dict(momentum=0.005, gamma=200))
