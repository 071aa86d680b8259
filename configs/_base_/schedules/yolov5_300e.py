train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=300, val_interval=10)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='mmyolo_ext.YOLOOptimWrapper',
    constructor='mmyolo_ext.YOLOOptimConstructor',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.937, nesterov=True, weight_decay=0.0005),
)
# end is max_epochs unless given
param_scheduler = [
    dict(
        type='mmyolo_ext.WarmupLinearLR',
        convert_to_iter_based=True,
        warmup_epochs=3,
        min_warmup_iters=100,
        bias_start=0.1,
        final_factor=0.01,
    ),
    dict(
        type='mmyolo_ext.WarmupMomentum',
        convert_to_iter_based=True,
        warmup_epochs=3,
        min_warmup_iters=100,
        start=0.8,
    ),
]
# AccumulateHook adapts the recipe to any batch size; --auto-scale-lr logs that and keeps the learning rate.
auto_scale_lr = dict(base_batch_size=64, enable=False)
