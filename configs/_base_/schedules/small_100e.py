# From scratch on a few hundred images: AdamW, which needs fewer steps. A config also lowers the number of images per
# step (AccumulateHook), since an epoch would have 5 steps of 64. Figures: docs/guides/training.md.
_base_ = './yolov5_300e.py'

train_cfg = dict(max_epochs=100)

optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=0.002, weight_decay=0.05))
param_scheduler = [
    dict(
        type='mmyolo_ext.WarmupLinearLR',
        convert_to_iter_based=True,
        warmup_epochs=3,
        bias_start=0.0,  # an Adam step has the length of its rate: 0.1 would be far too long for a bias
        final_factor=0.01,
    ),
]
auto_scale_lr = dict(base_batch_size=16)
