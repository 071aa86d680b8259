default_scope = 'mmdet'
custom_imports = dict(imports=['mmyolo_ext'], allow_failed_imports=False)
runner_type = 'mmyolo_ext.Runner'

# A config changes an argument of a hook by its name: default_hooks = dict(logger=dict(interval=10))
default_hooks = dict(
    preflight=dict(type='mmyolo_ext.PreflightHook'),
    runtime_info=dict(type='mmyolo_ext.TrainingInfoHook'),
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=3, save_best='coco/bbox_mAP', rule='greater'),
    visualization=dict(type='DetVisualizationHook'),
    # the recipe
    sampler_seed=dict(type='mmyolo_ext.SampleSeedHook'),
    accumulate=dict(type='mmyolo_ext.AccumulateHook', nominal_batch_size=64),
    ema=dict(type='mmyolo_ext.StepEMAHook'),
    close_mosaic=dict(type='mmyolo_ext.CloseMosaicHook', num_last_epochs=10),
    sync_buffers=dict(type='SyncBuffersHook'),
    curves=dict(type='mmyolo_ext.CurvesHook'),
    progress=dict(type='mmyolo_ext.ProgressHook'),
    report=dict(type='mmyolo_ext.ReportHook'),
)

env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    # seconds that a process waits for the others before it fails, for NCCL and gloo
    dist_cfg=dict(backend='nccl', timeout=600),
)
randomness = dict(seed=0)
# of parameters and feature maps: 'channels_last', 'contiguous' or None
memory_format = 'channels_last'
# consecutive optimizer steps with non-finite gradients that are skipped before the training stops
step_guard = dict(max_skips=5)

# tools of mmdet need the name; a run has a visualizer of its own
visualizer = dict(type='DetLocalVisualizer', name='visualizer', vis_backends=[dict(type='LocalVisBackend')])
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)
log_level = 'INFO'
load_from = None
resume = False

# for tools/test.py --tta: views are merged by the nms of model.test_cfg; tta_pipeline is in the dataset config
tta_model = dict(type='mmyolo_ext.TTAModel')
