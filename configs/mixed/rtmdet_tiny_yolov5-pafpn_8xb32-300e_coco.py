_base_ = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
custom_imports = dict(imports=['mmyolo_ext'], allow_failed_imports=False)

model = dict(
    neck=dict(
        _delete_=True,
        type='mmyolo_ext.YOLOv5PAFPN',
        in_channels=[96, 192, 384],
        out_channels=[96, 96, 96],  # equal, since the head shares its convolutions between levels
        deepen_factor=0.33,
        norm_cfg=dict(type='SyncBN'),  # as in the base
    ),
)
