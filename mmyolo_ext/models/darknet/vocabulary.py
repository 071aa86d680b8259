"""The sections and fields of a Darknet ``.cfg`` file: those read, those left to our config, those that must be idle.

Names and meanings as Darknet's users document them (pjreddie.com/darknet, and the wiki of AlexeyAB's Darknet).
"""

from mmyolo_ext.models.darknet.parser import Section, did_you_mean

OTHER_NAMES = {'network': 'net', 'conv': 'convolutional', 'max': 'maxpool'}

READ = {
    'net': {'width', 'height', 'channels'},
    'convolutional': {
        'filters',
        'size',
        'stride',
        'stride_x',
        'stride_y',
        'pad',
        'padding',
        'groups',
        'batch_normalize',
        'activation',
    },
    'shortcut': {'from', 'activation', 'weights_type', 'weights_normalization'},
    'route': {'layers', 'groups', 'group_id'},
    'upsample': {'stride'},
    'maxpool': {'size', 'stride', 'stride_x', 'stride_y', 'padding'},
    'dropout': {'probability'},
    'yolo': {'mask', 'anchors', 'classes', 'num'},
}
# How Darknet trains; here the config of the run says that.
# fmt: off
TRAINING = {
    'net': {
        'batch', 'subdivisions', 'momentum', 'decay', 'learning_rate', 'burn_in', 'power', 'max_batches', 'policy',
        'step', 'scale', 'steps', 'scales', 'gamma', 'time_steps', 'angle', 'aspect', 'saturation', 'exposure', 'hue',
        'mosaic', 'mosaic_bound', 'mixup', 'cutmix', 'blur', 'gaussian_noise', 'flip', 'letter_box', 'max_crop',
        'min_crop', 'random', 'label_smooth_eps', 'ema_alpha', 'adam', 'B1', 'B2', 'eps', 'optimized_memory',
        'workspace_size_limit_MB', 'dynamic_minibatch', 'try_fix_nan', 'weights_reject_freq',
        'num_sigmas_reject_badlabels', 'equidistant_point',
    },
    'yolo': {
        'jitter', 'resize', 'random', 'ignore_thresh', 'truth_thresh', 'iou_thresh', 'iou_normalizer',
        'cls_normalizer', 'obj_normalizer', 'delta_normalizer', 'iou_loss', 'iou_thresh_kind', 'nms_kind', 'beta_nms',
        'max_delta', 'label_smooth_eps', 'focal_loss', 'objectness_smooth', 'counters_per_class', 'max',
    },
}
# fmt: on
# These change the network in ways that are not built here: only the value that changes nothing passes.
IDLE = {
    'convolutional': {'dilation': 1, 'antialiasing': 0, 'binary': 0, 'xnor': 0},
    'upsample': {'scale': 1},
    'dropout': {'dropblock': 0},
    'maxpool': {'maxpool_depth': 0, 'antialiasing': 0},
    'yolo': {'scale_x_y': 1, 'new_coords': 0},
}


def check_vocabulary(section: Section) -> None:
    """Put the section's usual name in place of another, and raise ValueError for anything unknown.

    Raises:
        ValueError: an unknown section or field, or one that would change the network in a way that is not built here.
    """
    section.kind = OTHER_NAMES.get(section.kind, section.kind)
    if section.kind not in READ:
        section.fail(f'is an unknown section, must be one of {tuple(READ)}{did_you_mean(section.kind, READ)}')
    read, idle = READ[section.kind], IDLE.get(section.kind, {})
    for name, (text, _) in section.fields.items():
        if name in idle:
            if text not in (str(idle[name]), f'{idle[name]}.0'):
                section.fail(f'{name}={text} is not supported, only {idle[name]}', name)
        elif name not in read | TRAINING.get(section.kind, set()):
            section.fail(
                f'{name} is an unknown field, must be one of {tuple(sorted(read))}{did_you_mean(name, read)}', name
            )
