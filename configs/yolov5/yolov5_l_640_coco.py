_base_ = [
    '../_base_/models/yolov5_p5.py',
    '../_base_/datasets/coco_640.py',
    '../_base_/schedules/yolov5_300e.py',
    '../_base_/default_runtime.py',
]

# for the large models: a wider range of scales, and MixUp
train_pipeline = [
    dict(type='mmyolo_ext.MosaicAffine', size=_base_.img_scale, scale=0.9, translate=0.1),
    dict(type='mmyolo_ext.MixUp', prob=0.1),
    *_base_.train_pipeline[1:],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
