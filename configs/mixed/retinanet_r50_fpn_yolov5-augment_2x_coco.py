_base_ = 'mmdet::retinanet/retinanet_r50_fpn_2x_coco.py'  # strong augmentation needs a long schedule
custom_imports = dict(imports=['mmyolo_ext'], allow_failed_imports=False)

img_scale = (640, 640)  # px of the input

train_pipeline = [
    dict(type='mmyolo_ext.Mosaic', size=img_scale),
    dict(type='mmyolo_ext.RandomAffine', size=img_scale, scale=0.5, translate=0.1),
    dict(type='mmyolo_ext.MixUp', prob=0.1),
    dict(type='mmyolo_ext.HSVJitter', hue=0.015, saturation=0.7, value=0.4),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(
    batch_sampler=None,  # all images have one shape
    dataset=dict(
        _delete_=True,
        type='mmyolo_ext.SeededDataset',
        pipeline=train_pipeline,
        dataset=dict(
            type='CocoDataset',
            data_root='data/coco/',
            ann_file='annotations/instances_train2017.json',
            data_prefix=dict(img='train2017/'),
            filter_cfg=dict(filter_empty_gt=True, min_size=32),
            pipeline=[
                dict(type='mmyolo_ext.LoadImage'),
                dict(type='LoadAnnotations', with_bbox=True),
                dict(type='Resize', scale=img_scale, keep_ratio=True),
            ],
        ),
    ),
)

test_pipeline = [
    dict(type='mmyolo_ext.LoadImage'),
    dict(type='mmyolo_ext.Letterbox', size_hw=img_scale),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

default_hooks = dict(
    sampler_seed=dict(type='mmyolo_ext.SampleSeedHook'),  # sets the epoch of SeededDataset
    close_mosaic=dict(type='mmyolo_ext.CloseMosaicHook', num_last_epochs=2),
)
