# From scratch on some hundred pictures. Fewer of them in a step (AccumulateHook in the config) than COCO's recipe has,
# for an epoch would be 5 steps of 64, and an optimizer that learns from so few steps. Figures: docs/guides/training.md.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=100, val_interval=10)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='mmyolo_ext.YOLOOptimWrapper',
    constructor='mmyolo_ext.YOLOOptimConstructor',
    optimizer=dict(type='AdamW', lr=0.002, weight_decay=0.05),
)
# end is max_epochs unless given
param_scheduler = [
    dict(
        type='mmyolo_ext.WarmupLinearLR',
        convert_to_iter_based=True,
        warmup_epochs=3,
        bias_start=0.0,  # Adam's step is as long as its rate: 0.1 would throw biases about
        final_factor=0.01,
    ),
]
# The recipe fits any batch size by itself (AccumulateHook); --auto-scale-lr says so and leaves the rate alone.
auto_scale_lr = dict(base_batch_size=16, enable=False)
