_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['mmyolo_ext'], allow_failed_imports=False)

# The head's anchors are sizes in px at an input of 640 px.
model = dict(
    type='mmyolo_ext.YOLODetector',
    backbone=dict(out_indices=(1, 2, 3)),
    # the three levels of the anchors, without extra convolutions
    neck=dict(in_channels='auto', start_level=0, add_extra_convs=False, num_outs=3),
    bbox_head=dict(_delete_=True, type='mmyolo_ext.YOLOv5Head', num_classes=80, in_channels='auto', input_size=640),
    # the defaults of the head
    train_cfg=None,
    test_cfg=None,
)

train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(640, 640), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='Resize', scale=(640, 640), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# The head's losses are sums over images, with gains for steps of 64 images: use its recipe.
optim_wrapper = dict(
    _delete_=True,
    type='mmyolo_ext.YOLOOptimWrapper',
    constructor='mmyolo_ext.YOLOOptimConstructor',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.937, nesterov=True, weight_decay=0.0005),
)
default_hooks = dict(accumulate=dict(type='mmyolo_ext.AccumulateHook', nominal_batch_size=64))
