default_scope = 'mmdet'
custom_imports = dict(imports=['mmyolo_ext'], allow_failed_imports=False)
runner_type = 'mmyolo_ext.Runner'

# Hooks have names, so a config changes one of their numbers: default_hooks = dict(logger=dict(interval=10))
default_hooks = dict(
    runtime_info=dict(type='mmyolo_ext.LazyInfoHook'),
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=3, save_best='coco/bbox_mAP', rule='greater'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='DetVisualizationHook'),
    # checks before the first step
    preflight=dict(type='mmyolo_ext.PreflightHook'),
    weights=dict(type='mmyolo_ext.WeightsHook'),
    load_report=dict(type='mmyolo_ext.LoadReportHook'),
    # the recipe
    sample_seed=dict(type='mmyolo_ext.SampleSeedHook'),
    accumulate=dict(type='mmyolo_ext.AccumulateHook', nominal_batch_size=64),
    ema=dict(type='mmyolo_ext.StepEMAHook'),
    close_mosaic=dict(type='mmyolo_ext.CloseMosaicHook', num_last_epochs=10),
    sync_buffers=dict(type='SyncBuffersHook'),
    # while it runs and when it ends
    loss_share=dict(type='mmyolo_ext.LossShareHook'),
    throughput=dict(type='mmyolo_ext.ThroughputHook'),
    data_wait=dict(type='mmyolo_ext.DataWaitHook', share=0.2),
    curves=dict(type='mmyolo_ext.CurvesHook'),
)

env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    # seconds that a process waits for the others before it ends with an error, by NCCL and by gloo
    dist_cfg=dict(backend='nccl', timeout=600),
)
randomness = dict(seed=0)
# of the parameters, and so of what the convolutions give: 'channels_last', 'contiguous' or None
memory_format = 'channels_last'
# optimizer steps in a row that may be skipped because their gradients are not finite, before the training stops
step_guard = dict(max_skips=5)

# MMEngine names it after the run: under one fixed name, the second run of a process would write into the first log.
visualizer = dict(type='DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)
log_level = 'INFO'
load_from = None
resume = False

# for tools/test.py --tta: views vote by model.test_cfg's nms; their pipeline stands with the data set
tta_model = dict(type='mmyolo_ext.TTAModel')
