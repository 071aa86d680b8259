# YOLOv5's head on RTMDet's backbone and neck, which mmdet publishes trained on COCO under Apache-2.0.
# See docs/guides/mmdet_tools.md.
_base_ = './yolov5_p5.py'

model = dict(
    # the input that the weights were trained with: BGR, standardised
    data_preprocessor=dict(
        mean=[103.53, 116.28, 123.675],
        std=[57.375, 57.12, 58.395],
        bgr_to_rgb=False,
        pad_value=0.0,  # grey 114 is within 0.2 of it
    ),
    backbone=dict(
        _delete_=True,
        type='mmdet.CSPNeXt',
        arch='P5',
        expand_ratio=0.5,
        deepen_factor=0.167,
        widen_factor=0.375,
        channel_attention=True,
        norm_cfg=dict(type='BN'),
        act_cfg=dict(type='SiLU', inplace=True),
    ),
    neck=dict(
        _delete_=True,
        type='mmdet.CSPNeXtPAFPN',
        in_channels='auto',
        out_channels=96,
        num_csp_blocks=1,
        expand_ratio=0.5,
        norm_cfg=dict(type='BN'),
        act_cfg=dict(type='SiLU', inplace=True),
    ),
)
