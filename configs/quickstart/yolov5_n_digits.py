_base_ = [
    '../_base_/models/yolov5_p5.py',
    '../_base_/datasets/digits.py',
    '../_base_/schedules/yolov5_300e.py',
    '../_base_/default_runtime.py',
]

num_classes = 10

model = dict(
    backbone=dict(deepen_factor=0.33, widen_factor=0.25),
    neck=dict(deepen_factor=0.33, widen_factor=0.25),
    # the boxes are easy, the ten classes are not: the class loss gets sixteen times its share
    bbox_head=dict(
        num_classes=num_classes, input_size=128, loss_cls=dict(loss_weight=8.0), loss_bbox=dict(loss_weight=0.4)
    ),
)

# The recipe of COCO cut down to minutes on a CPU: a step every eight scenes, an optimizer that needs no long warm-up,
# and an EMA over the last hundred steps.
train_cfg = dict(max_epochs=12, val_interval=4)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=0.003, betas=(0.9, 0.999), weight_decay=0.05, fused=True)
)
param_scheduler = [
    dict(
        type='mmyolo_ext.WarmupLinearLR',
        convert_to_iter_based=True,
        warmup_epochs=1,
        bias_start=0.0,
        final_factor=0.01,
    ),
]
default_hooks = dict(
    logger=dict(interval=25),
    accumulate=dict(nominal_batch_size=8),
    ema=dict(momentum=0.01, gamma=100),
    close_mosaic=dict(num_last_epochs=0),  # the pipeline has no mosaic
    checkpoint=dict(max_keep_ckpts=1),
)
