"""Compare model, config and data before the first step."""

from collections.abc import Iterator, Sequence

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from torch import nn

from mmyolo_ext.registry import HOOKS

MAX_PICTURES_READ = 1000
# What apis.load_config turns into the settings of every part; a runner that still finds them got a raw config.
SHORTCUTS = ('class_names', 'train_ann', 'train_img', 'val_ann', 'val_img', 'input_size')


@HOOKS.register_module()
class PreflightHook(Hook):
    """Stops a training or test that cannot succeed, naming both sides of what does not fit and the cure.

    It compares the head's ``num_classes`` with the data set's ``metainfo['classes']``, the classes of training and
    validation with each other, and the labels of the annotations with both; a training set without a single box is
    an error. Of a data set that does not count its boxes itself (attribute ``report``) at most 1000 pictures, evenly
    spread, are read.

    Raises:
        ValueError: On the first of these that does not hold.
    """

    priority = 'HIGHEST'

    def before_run(self, runner: Runner) -> None:
        left = [key for key in SHORTCUTS if key in runner.cfg]
        if left:
            raise ValueError(
                f'the shortcuts {left} of the config were not applied: use tools/train.py and tools/test.py, or read '
                'the config by mmyolo_ext.apis.load_config'
            )

    def before_train(self, runner: Runner) -> None:
        train = runner.train_dataloader.dataset
        check_classes(runner.model, train, 'training')
        check_labels(train, needs_boxes=True)
        if isinstance(runner.val_loop, BaseLoop):
            validation = runner.val_dataloader.dataset
            check_classes(runner.model, validation, 'validation')
            check_same_classes(train, validation)

    def before_test(self, runner: Runner) -> None:
        check_classes(runner.model, runner.test_dataloader.dataset, 'test')


def check_classes(model: nn.Module, dataset: object, split: str) -> None:
    """The data set names as many classes as every box head predicts."""
    classes = class_names(dataset)
    for name, num_classes in head_classes(model):
        if classes is not None and num_classes != len(classes):
            raise ValueError(
                f'model.{name} has num_classes={num_classes}, but the {split} data set names {len(classes)} classes '
                f'{classes}: set class_names in your config (it sets both), or model.{name}.num_classes'
            )


def check_same_classes(train: object, validation: object) -> None:
    """Training and validation name the same classes in the same order."""
    ours, theirs = class_names(train), class_names(validation)
    if None not in (ours, theirs) and ours != theirs:
        raise ValueError(
            f'training names the classes {ours}, validation {theirs}: set class_names in your config (it sets both), '
            'or metainfo=dict(classes=...) of both data sets alike'
        )


def check_labels(dataset: object, needs_boxes: bool) -> None:
    """Every label read is one of the classes, and there is at least one box."""
    report = getattr(_innermost(dataset), 'report', None)
    if report is not None or not hasattr(dataset, 'get_data_info') or len(dataset) == 0:
        return  # a data set that reports has looked at each box, and refuses to be without any
    classes = class_names(dataset)
    labels = {label for index in _spread(len(dataset)) for label in _labels(dataset.get_data_info(index))}
    if needs_boxes and not labels:
        raise ValueError(
            f'no box in {min(len(dataset), MAX_PICTURES_READ)} training pictures of {type(dataset).__name__}, whose '
            f'classes are {classes}: compare them with the names in the annotation file'
        )
    wrong = sorted(label for label in labels if classes is not None and not 0 <= label < len(classes))
    if wrong:
        raise ValueError(f'the annotations hold the labels {wrong}, but there are {len(classes)} classes: {classes}')


def class_names(dataset: object) -> tuple[str, ...] | None:
    """The classes a data set declares; None if it declares none."""
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    return (classes,) if isinstance(classes, str) else classes and tuple(classes)


def head_classes(model: nn.Module) -> Iterator[tuple[str, int]]:
    """(name, num_classes) of every box head, through wrappers for several processes and test-time augmentation."""
    if is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    roi = getattr(getattr(model, 'roi_head', None), 'bbox_head', None)
    heads = [('bbox_head', getattr(model, 'bbox_head', None))]
    heads += [('roi_head.bbox_head', head) for head in (roi if isinstance(roi, nn.ModuleList) else [roi])]
    for name, head in heads:
        if isinstance(getattr(head, 'num_classes', None), int):
            yield name, head.num_classes


def _innermost(dataset: object) -> object:
    while hasattr(dataset, 'dataset'):
        dataset = dataset.dataset
    return dataset


def _spread(length: int) -> Sequence[int]:
    return range(0, length, -(-length // MAX_PICTURES_READ))


def _labels(info: dict) -> list[int]:
    return [instance['bbox_label'] for instance in info.get('instances', [])]
