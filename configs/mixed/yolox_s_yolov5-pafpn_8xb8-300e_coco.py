_base_ = 'mmdet::yolox/yolox_s_8xb8-300e_coco.py'
custom_imports = dict(imports=['mmyolo_ext'], allow_failed_imports=False)

model = dict(
    neck=dict(
        _delete_=True,
        type='mmyolo_ext.YOLOv5PAFPN',
        in_channels=[128, 256, 512],
        out_channels=[128, 128, 128],  # equal, since all levels of the head have one width
        deepen_factor=0.33,
    ),
)
