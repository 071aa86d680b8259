# A small space to try tools/tune.py with: the numbers of configs/quickstart/yolov5_n_digits.py that few short trainings
# can tell apart. docs/guides/tuning.md has the command.
space = {
    'optim_wrapper.optimizer.lr': dict(factor=5),
    'optim_wrapper.optimizer.weight_decay': dict(factor=10),
    # against the gain of objectness, which stays: AdamW does not see a factor that all three have in common
    'model.bbox_head.loss_cls.loss_weight': dict(factor=8),
    'model.bbox_head.loss_bbox.loss_weight': dict(factor=4),
    # no colours: the scenes have all of them as they are
    'train_dataloader...RandomAffine.scale': dict(low=0.0, high=0.5),
    'train_dataloader...RandomAffine.translate': dict(low=0.0, high=0.3),
}
