# COCO 2017 at 640 px. A child config changes its variables and lists: see docs/guides/configs.md.
img_scale = (640, 640)  # px of the network input

train_pipeline = [
    dict(type='mmyolo_ext.MosaicAffine', size=img_scale, scale=0.5, translate=0.1),
    dict(type='mmyolo_ext.HSVJitter', hue=0.015, saturation=0.7, value=0.4),
    dict(type='mmyolo_ext.HorizontalFlip', prob=0.5),
    dict(type='mmyolo_ext.PackInputs'),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='mmyolo_ext.stack_inputs'),
    dataset=dict(
        type='mmyolo_ext.SeededDataset',
        pipeline=train_pipeline,
        # decoded images in memory that all workers share
        dataset=dict(
            type='mmyolo_ext.CachedDataset',
            size=img_scale,
            max_gb=2.0,
            dataset=dict(
                type='mmyolo_ext.CheckedCocoDataset',
                data_root='data/coco/',
                ann_file='annotations/instances_train2017.json',
                data_prefix=dict(img='train2017/'),
                pipeline=[dict(type='mmyolo_ext.LoadImage')],
            ),
        ),
    ),
)

val_pipeline = [
    dict(type='mmyolo_ext.LoadImage'),
    dict(type='LoadAnnotations', with_bbox=True),
    # centred: grey on all sides of the image, as in a mosaic
    dict(type='mmyolo_ext.Letterbox', size_hw=img_scale, centred=True),
    dict(type='mmyolo_ext.PackInputs'),
]
# the same for mmdet's DetInferencer and SAHI, which find these transforms by name in the outermost dataset
inference_pipeline = [
    dict(type='mmyolo_ext.LoadImageFromFile'),
    dict(type='mmyolo_ext.Resize', scale=img_scale, centred=True),
    dict(type='mmyolo_ext.PackInputs'),
]
val_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmyolo_ext.RectBatchDataset',
        batch_size=16,
        size=img_scale,
        stride=32,  # the largest of the network
        pipeline=inference_pipeline,
        dataset=dict(
            type='mmyolo_ext.CheckedCocoDataset',
            data_root='data/coco/',
            ann_file='annotations/instances_val2017.json',
            data_prefix=dict(img='val2017/'),
            test_mode=True,
            pipeline=val_pipeline,
        ),
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='mmyolo_ext.CocoMetric', ann_file='data/coco/annotations/instances_val2017.json')
test_evaluator = val_evaluator

# Test-time augmentation (tools/test.py --tta): the image and its mirror image at three scales. The flip comes before
# the padding, so that a box is mapped back by the padding, the scale, and the flip of the whole image.
tta_pipeline = [
    dict(type='mmyolo_ext.LoadImage'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [
                dict(type='mmyolo_ext.Letterbox', size_hw=(side, side), centred=True, stride=32)
                for side in (512, 640, 768)
            ],
            [dict(type='mmyolo_ext.PackInputs')],
        ],
    ),
]
