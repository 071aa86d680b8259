# A small search space to try tools/tune.py with: values of configs/quickstart/yolov5_n_digits.py whose effect shows in
# a few short trials. The command is in docs/guides/tuning.md.
space = {
    'optim_wrapper.optimizer.lr': dict(factor=5),
    'optim_wrapper.optimizer.weight_decay': dict(factor=10),
    # relative to the gain of objectness, which is fixed: AdamW is invariant to a factor common to all three
    'model.bbox_head.loss_cls.loss_weight': dict(factor=8),
    'model.bbox_head.loss_bbox.loss_weight': dict(factor=4),
    # no colours: the scenes have all of them already
    'train_dataloader...RandomAffine.scale': dict(low=0.0, high=0.5),
    'train_dataloader...RandomAffine.translate': dict(low=0.0, high=0.3),
}
