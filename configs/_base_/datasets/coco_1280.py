# COCO 2017 at 1280 px, for networks with stride 64.
_base_ = './coco_640.py'

img_scale = (1280, 1280)

train_pipeline = _base_.train_pipeline
train_pipeline[0].size = img_scale
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline, dataset=dict(size=img_scale)))

val_pipeline = _base_.val_pipeline
val_pipeline[2].size_hw = img_scale
inference_pipeline = _base_.inference_pipeline
inference_pipeline[1].scale = img_scale
val_dataloader = dict(
    batch_size=8,
    dataset=dict(
        batch_size=8, size=img_scale, stride=64, pipeline=inference_pipeline, dataset=dict(pipeline=val_pipeline)
    ),
)
test_dataloader = val_dataloader

tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].transforms[1] = [
    dict(type='mmyolo_ext.Letterbox', size_hw=(side, side), centred=True, stride=64) for side in (1024, 1280, 1536)
]
