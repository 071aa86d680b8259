# Scenes of handwritten digits, made by python -m mmyolo_ext.datasets.digits data/digits
# One number or name here serves the whole file. Derived names start with an underscore and are deleted at its end.
_root = 'data/digits/'
_classes = ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')
_size = 128  # side of the scenes and of the input, px
_train_ann, _train_img = 'annotations/train.json', 'train/'
_val_ann, _val_img = 'annotations/val.json', 'val/'
_test_ann, _test_img = 'annotations/test.json', 'test/'
_batch = 8
_stride = 32  # the network's largest

_meta_keys = (
    'img_id',
    'img_path',
    'ori_shape',
    'img_shape',
    'scale_factor',
    'pad_param',
    'flip',
    'flip_direction',
)
# No flip: a mirrored digit is none. No mosaic, no colour jitter: the scenes are composed at random, in all colours.
train_dataloader = dict(
    batch_size=_batch,
    num_workers=0,  # on two cores the network needs both, and a scene takes 2 ms
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmyolo_ext.SeededDataset',
        dataset=dict(
            type='mmyolo_ext.CheckedCocoDataset',
            data_root=_root,
            metainfo=dict(classes=_classes),
            ann_file=_train_ann,
            data_prefix=dict(img=_train_img),
            pipeline=[
                dict(type='mmyolo_ext.LoadImage'),
                dict(type='LoadAnnotations', with_bbox=True),
                dict(type='mmyolo_ext.Letterbox', size_hw=(_size, _size)),
                dict(type='mmyolo_ext.RandomAffine', size=(_size, _size), scale=0.1, translate=0.1),
                dict(type='PackDetInputs', meta_keys=_meta_keys),
            ],
        ),
    ),
)

# the same for validation, which chooses the best checkpoint, and for the test, which judges it
_judged = dict(
    type='mmyolo_ext.CheckedCocoDataset',
    data_root=_root,
    metainfo=dict(classes=_classes),
    test_mode=True,
    pipeline=[
        dict(type='mmyolo_ext.LoadImage'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='mmyolo_ext.Letterbox', size_hw=(_size, _size)),
        dict(type='PackDetInputs', meta_keys=_meta_keys),
    ],
)
_rectangles = dict(type='mmyolo_ext.RectBatchDataset', batch_size=_batch, size=_size, stride=_stride)
_loader = dict(
    batch_size=_batch,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_dataloader = dict(
    dataset=dict(dataset=dict(ann_file=_val_ann, data_prefix=dict(img=_val_img), **_judged), **_rectangles), **_loader
)
test_dataloader = dict(
    dataset=dict(dataset=dict(ann_file=_test_ann, data_prefix=dict(img=_test_img), **_judged), **_rectangles),
    **_loader,
)

val_evaluator = dict(type='mmyolo_ext.CocoMetric', ann_file=_root + _val_ann)
test_evaluator = dict(type='mmyolo_ext.CocoMetric', ann_file=_root + _test_ann)

# Views for --tta: 3 scales, padded as in validation; no flip here either.
tta_pipeline = [
    dict(type='mmyolo_ext.LoadImage'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='mmyolo_ext.Letterbox', size_hw=(_side, _side), stride=_stride) for _side in (96, 128, 160)],
            [dict(type='PackDetInputs', meta_keys=_meta_keys)],
        ],
    ),
]

del (
    _batch,
    _classes,
    _judged,
    _loader,
    _meta_keys,
    _rectangles,
    _root,
    _size,
    _stride,
    _test_ann,
    _test_img,
    _train_ann,
    _train_img,
    _val_ann,
    _val_img,
)
