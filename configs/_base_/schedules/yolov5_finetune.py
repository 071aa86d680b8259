# From a trained detector: shorter than yolov5_300e.py, lower rates for the backbone. See docs/guides/finetuning.md.
_base_ = './yolov5_300e.py'

train_cfg = dict(max_epochs=50, val_interval=5)

# The head has new classes to learn; edges and colours are the same in all images, so earlier stages learn more slowly.
optim_wrapper = dict(paramwise_cfg=dict(layer_decay=0.9))
param_scheduler = [
    dict(
        type='mmyolo_ext.WarmupLinearLR',
        convert_to_iter_based=True,
        warmup_epochs=1,
        min_warmup_iters=50,
        bias_start=0.0,  # trained biases need no high rate at the start
        final_factor=0.05,
    ),
]
