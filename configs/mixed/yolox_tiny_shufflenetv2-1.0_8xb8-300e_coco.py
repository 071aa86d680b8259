_base_ = 'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py'
custom_imports = dict(imports=['mmyolo_ext'], allow_failed_imports=False)

# All layers are trained, norms included: mosaics look unlike ImageNet, and training takes 300 epochs.
model = dict(
    # normalisation of torchvision's weights; the base trains from scratch on raw BGR
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
    backbone=dict(
        _delete_=True,
        type='mmyolo_ext.ShuffleNetV2',
        widen_factor=1.0,
        out_indices=(1, 2, 3),  # strides 8, 16, 32
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://shufflenetv2_x1.0'),
    ),
    neck=dict(in_channels=[116, 232, 464]),
)
