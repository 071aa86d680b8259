# BCCD for mmdet's heads, which undo a letterbox by its scale alone: pad right and below
_base_ = './bccd_320.py'

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
