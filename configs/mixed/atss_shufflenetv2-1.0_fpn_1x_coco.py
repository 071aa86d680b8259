_base_ = 'mmdet::atss/atss_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['mmyolo_ext'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmyolo_ext.ShuffleNetV2',
        widen_factor=1.0,
        out_indices=(1, 2, 3),  # strides 8, 16, 32
        # as the ResNet of the base: frozen up to stride 4, with the statistics of ImageNet, since a batch of 2 images
        # is too small for its own
        frozen_stages=0,
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://shufflenetv2_x1.0'),
    ),
    neck=dict(in_channels=[116, 232, 464], start_level=0),
)
