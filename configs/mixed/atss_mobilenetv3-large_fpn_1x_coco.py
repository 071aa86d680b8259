_base_ = 'mmdet::atss/atss_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['mmyolo_ext'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmyolo_ext.MobileNetV3',
        arch='large',
        out_indices=(2, 3, 4),  # strides 8, 16, 32
        # as the ResNet of the base: frozen up to stride 4, with the statistics of ImageNet, since a batch of 2 images
        # is too small for its own
        frozen_stages=1,
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://mobilenet_v3_large'),
    ),
    neck=dict(in_channels=[40, 112, 160], start_level=0),
)
