# BCCD, made by tools/dataset_converters/voc2coco.py --one-based: blood cells, 292 pictures to train on and 72 to test.
# One number or name here serves the whole file. Derived names start with an underscore and are deleted at its end.
_root = 'data/bccd/'
_classes = ('RBC', 'WBC', 'Platelets')
_size = 320  # longer side of the input, px
_train_ann, _train_img = 'annotations/trainval.json', 'JPEGImages/'
_val_ann, _val_img = 'annotations/test.json', 'JPEGImages/'
_batch, _workers = 16, 2
_stride = 32  # the network's largest
_cache_gb = 2.0  # of decoded pictures

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
# decoded once and kept in memory, which the workers share; the log says how many of them fit
_pictures = dict(
    type='mmyolo_ext.CachedDataset',
    size=(_size, _size),
    max_gb=_cache_gb,
    dataset=dict(
        type='mmyolo_ext.CheckedCocoDataset',
        data_root=_root,
        metainfo=dict(classes=_classes),
        ann_file=_train_ann,
        data_prefix=dict(img=_train_img),
        pipeline=[dict(type='mmyolo_ext.LoadImage')],
    ),
)
# after the mosaic, on the finished picture
_finish = [
    dict(type='mmyolo_ext.HSVJitter', hue=0.015, saturation=0.7, value=0.4),
    dict(type='mmyolo_ext.HorizontalFlip', prob=0.5),
    dict(type='mmyolo_ext.PackInputs', meta_keys=_meta_keys),
]
_mix = dict(
    type='mmyolo_ext.MixDataset',
    dataset=_pictures,
    pipeline=[
        dict(type='mmyolo_ext.MosaicAffine', size=(_size, _size), scale=0.5, translate=0.1),
        *_finish,
    ],
)
train_dataloader = dict(
    batch_size=_batch,
    num_workers=_workers,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='mmyolo_ext.stack_inputs'),
    dataset=dict(type='mmyolo_ext.SeededDataset', dataset=_mix),
)

val_dataloader = dict(
    batch_size=_batch,
    num_workers=_workers,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmyolo_ext.RectBatchDataset',
        batch_size=_batch,
        size=_size,
        stride=_stride,
        dataset=dict(
            type='mmyolo_ext.CheckedCocoDataset',
            data_root=_root,
            metainfo=dict(classes=_classes),
            ann_file=_val_ann,
            data_prefix=dict(img=_val_img),
            test_mode=True,
            pipeline=[
                dict(type='mmyolo_ext.LoadImage'),
                dict(type='LoadAnnotations', with_bbox=True),
                # centred: as in the mosaics of training, grey on every side of what the border cuts
                dict(type='mmyolo_ext.Letterbox', size_hw=(_size, _size), centred=True),
                dict(type='PackDetInputs', meta_keys=_meta_keys),
            ],
        ),
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='mmyolo_ext.CocoMetric', ann_file=_root + _val_ann)
test_evaluator = val_evaluator

# Views for --tta: as it is and flipped, each at 3 scales, padded as in validation. The flip comes before the padding,
# so that boxes go back by the padding, the scale, and the flip of the whole picture.
tta_pipeline = [
    dict(type='mmyolo_ext.LoadImage'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [
                dict(type='mmyolo_ext.Letterbox', size_hw=(_side, _side), centred=True, stride=_stride)
                for _side in (256, 320, 384)
            ],
            [dict(type='PackDetInputs', meta_keys=_meta_keys)],
        ],
    ),
]

del (
    _batch,
    _cache_gb,
    _classes,
    _finish,
    _meta_keys,
    _pictures,
    _root,
    _size,
    _stride,
    _train_ann,
    _train_img,
    _val_ann,
    _val_img,
    _workers,
    _mix,
)
