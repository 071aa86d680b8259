# YOLOv5's neck and head on a light backbone. All levels of the neck have the same number of channels: where channels
# double from level to level, as in yolov5_p5.py, two thirds of the neck's parameters belong to stride 32, which has
# 1/21 of the cells, and stride 8 keeps 64 channels for the small objects. The neck's widen_factor (0.5, 0.75 or 1.0:
# 64, 96 or 128 channels) makes neck and head cost about as much as the backbone; see docs/guides/backbones.md.
_base_ = './yolov5_p5.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmyolo_ext.ShuffleNetV2',
        widen_factor=1.0,
        stem='conv_maxpool',
        out_indices=(1, 2, 3),
        norm_cfg=dict(type='BN', momentum=0.03),  # as in the neck
    ),
    neck=dict(
        out_channels=(128, 128, 128),  # multiplied by widen_factor
        deepen_factor=0.33,
        widen_factor=0.75,
    ),
)
