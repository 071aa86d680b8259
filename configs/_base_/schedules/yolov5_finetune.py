# From weights that can see already: shorter than yolov5_300e.py and gentler to the backbone. Why: docs/guides/finetuning.md.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=50, val_interval=5)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='mmyolo_ext.YOLOOptimWrapper',
    constructor='mmyolo_ext.YOLOOptimConstructor',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.937, nesterov=True, weight_decay=0.0005),
    # the head has new classes to learn in little time; edges and colours are the same in any pictures, so the nearer
    # to them a stage of the backbone is, the slower it learns
    paramwise_cfg=dict(layer_decay=0.9),
)
# end is max_epochs unless given
param_scheduler = [
    dict(
        type='mmyolo_ext.WarmupLinearLR',
        convert_to_iter_based=True,
        warmup_epochs=1,
        min_warmup_iters=50,
        bias_start=0.0,  # the biases are no longer at the start that a high rate has to leave
        final_factor=0.05,
    ),
]
# The recipe fits any batch size by itself (AccumulateHook); --auto-scale-lr says so and leaves the rate alone.
auto_scale_lr = dict(base_batch_size=64, enable=False)
