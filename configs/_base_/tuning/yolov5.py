# The default search space of tools/tune.py: the values of the recipe. Keys that a config does not have are skipped.
# Copy the lines that you want into a space of your own; docs/guides/tuning.md describes the format.
space = {
    # the optimizer
    'optim_wrapper.optimizer.lr': dict(factor=10, optional=True),
    'optim_wrapper.optimizer.momentum': dict(low=0.6, high=0.98, optional=True),
    'optim_wrapper.optimizer.weight_decay': dict(factor=10, optional=True),
    # the gains of the three losses
    'model.bbox_head.loss_cls.loss_weight': dict(factor=4, optional=True),
    'model.bbox_head.loss_bbox.loss_weight': dict(factor=4, optional=True),
    'model.bbox_head.loss_obj.loss_weight': dict(factor=4, optional=True),
    # the augmentation
    'train_dataloader...MosaicAffine.scale': dict(low=0.0, high=0.9, optional=True),
    'train_dataloader...MosaicAffine.translate': dict(low=0.0, high=0.3, optional=True),
    'train_dataloader...RandomAffine.scale': dict(low=0.0, high=0.9, optional=True),
    'train_dataloader...RandomAffine.translate': dict(low=0.0, high=0.3, optional=True),
    'train_dataloader...HSVJitter.hue': dict(low=0.0, high=0.1, optional=True),
    'train_dataloader...HSVJitter.saturation': dict(low=0.0, high=0.9, optional=True),
    'train_dataloader...HSVJitter.value': dict(low=0.0, high=0.9, optional=True),
    'train_dataloader...MixUp.prob': dict(low=0.0, high=0.5, optional=True),
    'train_dataloader...HorizontalFlip.prob': dict(choices=[0.0, 0.5], optional=True),
}
