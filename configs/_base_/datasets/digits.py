# Scenes of handwritten digits, made by python -m mmyolo_ext.datasets.digits data/digits
img_scale = (128, 128)  # px of the scenes and of the network input
metainfo = dict(classes=('0', '1', '2', '3', '4', '5', '6', '7', '8', '9'))

# No flip: a mirrored digit is not a digit. No mosaic and no colour jitter: the scenes are random already.
train_pipeline = [
    dict(type='mmyolo_ext.RandomAffine', size=img_scale, scale=0.1, translate=0.1),
    dict(type='mmyolo_ext.PackInputs'),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=0,  # on two cores the network needs both, and a scene takes 2 ms
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='mmyolo_ext.stack_inputs'),
    dataset=dict(
        type='mmyolo_ext.SeededDataset',
        pipeline=train_pipeline,
        dataset=dict(
            type='mmyolo_ext.CheckedCocoDataset',
            data_root='data/digits/',
            metainfo=metainfo,
            ann_file='annotations/train.json',
            data_prefix=dict(img='train/'),
            pipeline=[
                dict(type='mmyolo_ext.LoadImage'),
                dict(type='LoadAnnotations', with_bbox=True),
                dict(type='mmyolo_ext.Letterbox', size_hw=img_scale),
            ],
        ),
    ),
)

val_pipeline = [
    dict(type='mmyolo_ext.LoadImage'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='mmyolo_ext.Letterbox', size_hw=img_scale),
    dict(type='mmyolo_ext.PackInputs'),
]
# the same for mmdet's DetInferencer and SAHI, which find these transforms by name in the outermost dataset
inference_pipeline = [
    dict(type='mmyolo_ext.LoadImageFromFile'),
    dict(type='mmyolo_ext.Resize', scale=img_scale),
    dict(type='mmyolo_ext.PackInputs'),
]
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmyolo_ext.RectBatchDataset',
        batch_size=8,
        size=img_scale,
        stride=32,  # the largest of the network
        pipeline=inference_pipeline,
        dataset=dict(
            type='mmyolo_ext.CheckedCocoDataset',
            data_root='data/digits/',
            metainfo=metainfo,
            ann_file='annotations/val.json',
            data_prefix=dict(img='val/'),
            test_mode=True,
            pipeline=val_pipeline,
        ),
    ),
)
# Validation selects the best checkpoint; the test uses scenes of its own.
test_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmyolo_ext.RectBatchDataset',
        batch_size=8,
        size=img_scale,
        stride=32,
        pipeline=inference_pipeline,
        dataset=dict(
            type='mmyolo_ext.CheckedCocoDataset',
            data_root='data/digits/',
            metainfo=metainfo,
            ann_file='annotations/test.json',
            data_prefix=dict(img='test/'),
            test_mode=True,
            pipeline=val_pipeline,
        ),
    ),
)

val_evaluator = dict(type='mmyolo_ext.CocoMetric', ann_file='data/digits/annotations/val.json')
test_evaluator = dict(type='mmyolo_ext.CocoMetric', ann_file='data/digits/annotations/test.json')

# Test-time augmentation (tools/test.py --tta): three scales, and no flip here either.
tta_pipeline = [
    dict(type='mmyolo_ext.LoadImage'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='mmyolo_ext.Letterbox', size_hw=(side, side), stride=32) for side in (96, 128, 160)],
            [dict(type='mmyolo_ext.PackInputs')],
        ],
    ),
]
