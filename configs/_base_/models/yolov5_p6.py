_base_ = './yolov5_p5.py'

model = dict(
    data_preprocessor=dict(pad_size_divisor=64),
    backbone=dict(arch='P6'),
    neck=dict(out_channels=(256, 512, 768, 1024)),  # multiplied by widen_factor
    bbox_head=dict(
        input_size=1280,
        prior_generator=dict(
            base_sizes=[
                [(19, 27), (44, 40), (38, 94)],
                [(96, 68), (86, 152), (180, 137)],
                [(140, 301), (303, 264), (238, 542)],
                [(436, 615), (739, 380), (925, 792)],
            ],
            strides=[8, 16, 32, 64],
        ),
    ),
)
