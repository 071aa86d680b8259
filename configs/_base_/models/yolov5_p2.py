_base_ = './yolov5_p5.py'

# a fourth level of stride 4, for objects below 16 px
model = dict(
    backbone=dict(out_indices=(1, 2, 3, 4)),
    neck=dict(out_channels=(128, 256, 512, 1024)),  # multiplied by widen_factor
    bbox_head=dict(
        prior_generator=dict(
            base_sizes=[
                [(5, 6), (8, 15), (16, 12)],  # half of those of stride 8
                [(10, 13), (16, 30), (33, 23)],
                [(30, 61), (62, 45), (59, 119)],
                [(116, 90), (156, 198), (373, 326)],
            ],
            strides=[4, 8, 16, 32],
        ),
    ),
)
