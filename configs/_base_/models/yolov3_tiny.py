_base_ = './yolov3.py'

model = dict(
    backbone=dict(_delete_=True, type='mmyolo_ext.TinyDarknet', out_indices=(4, 5)),
    neck=dict(_delete_=True, type='mmyolo_ext.YOLOv3TinyFPN', in_channels='auto', out_channels=(256, 512)),
    bbox_head=dict(
        prior_generator=dict(
            base_sizes=[[(10, 14), (23, 27), (37, 58)], [(81, 82), (135, 169), (344, 319)]],
            strides=[16, 32],
        ),
    ),
)
