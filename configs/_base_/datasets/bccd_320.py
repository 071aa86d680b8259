# BCCD, converted by tools/dataset_converters/voc2coco.py --one-based: blood cells, 292 images for training and 72 for
# testing.
_base_ = './coco_640.py'

img_scale = (320, 320)
metainfo = dict(classes=('RBC', 'WBC', 'Platelets'))

train_pipeline = _base_.train_pipeline
train_pipeline[0].size = img_scale
train_dataloader = dict(
    num_workers=2,
    dataset=dict(
        pipeline=train_pipeline,
        dataset=dict(
            size=img_scale,
            dataset=dict(
                data_root='data/bccd/',
                metainfo=metainfo,
                ann_file='annotations/trainval.json',
                data_prefix=dict(img='JPEGImages/'),
            ),
        ),
    ),
)

val_pipeline = _base_.val_pipeline
val_pipeline[2].size_hw = img_scale
inference_pipeline = _base_.inference_pipeline
inference_pipeline[1].scale = img_scale
val_dataloader = dict(
    num_workers=2,
    dataset=dict(
        size=img_scale,
        pipeline=inference_pipeline,
        dataset=dict(
            data_root='data/bccd/',
            metainfo=metainfo,
            ann_file='annotations/test.json',
            data_prefix=dict(img='JPEGImages/'),
            pipeline=val_pipeline,
        ),
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(ann_file='data/bccd/annotations/test.json')
test_evaluator = val_evaluator

tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].transforms[1] = [
    dict(type='mmyolo_ext.Letterbox', size_hw=(side, side), centred=True, stride=32) for side in (256, 320, 384)
]
