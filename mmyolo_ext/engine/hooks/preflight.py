"""Checks before the first step: model, data, evaluator and checkpoint."""

from collections.abc import Callable, Iterable

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner
from torch import nn

from mmyolo_ext.checkpoint.matching import fit
from mmyolo_ext.checkpoint.mmengine_loader import install_reader
from mmyolo_ext.engine.fit_checks import (
    check_anchors,
    check_checkpoint_classes,
    check_evaluator,
    check_score_names,
    head_classes,
    unwrapped,
)
from mmyolo_ext.engine.preflight_data import Finding, Split, check_overlap, check_split, class_names
from mmyolo_ext.registry import HOOKS

# keys that apis.load_config replaces by settings; a runner that finds them got a raw config
SHORTCUTS = (
    *('class_names', 'train_ann', 'train_img', 'val_ann', 'val_img', 'input_size'),
    *('data', 'recipe', 'patience', 'logger'),
)


@HOOKS.register_module()
class PreflightHook(Hook):
    """Stop a training or test that cannot succeed, before its first step, with an error that names the cure.

    * Checkpoints are read by :func:`~mmyolo_ext.checkpoint.mmengine_loader.read_weights`, which executes nothing.
    * A checkpoint is compared with the model by the names and shapes of tensors, and the result is logged. It is an
      error if nothing matches, or, in a test or a resumed training, if anything is missing.
    * These are errors: ``num_classes`` of a head differs from the number of classes of a dataset, training and
      validation have different classes, a label is out of range, the training set has no box.
    * Unless the config has ``check = 'off'``, rank 0 also examines boxes and files of all splits, decodes a sample of
      the images (:mod:`mmyolo_ext.engine.preflight_data`), and compares anchors, evaluator, score names and the
      classes of a checkpoint with the data (:mod:`mmyolo_ext.engine.fit_checks`). Errors stop all ranks, the rest is
      logged.

    Raises:
        ValueError: If a check fails.
    """

    priority = 'HIGHEST'

    def before_run(self, runner: Runner) -> None:
        install_reader()
        left = [key for key in SHORTCUTS if runner.cfg.get(key) is not None]
        if left:
            raise ValueError(
                f'the shortcuts {left} of the config were not applied: use tools/train.py and tools/test.py, or read '
                'the config by mmyolo_ext.apis.load_config'
            )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        training = isinstance(runner._train_loop, BaseLoop)
        loop = runner._train_loop if training else runner._test_loop
        dataset = getattr(getattr(loop, 'dataloader', None), 'dataset', None)
        starts = training and not runner._resume
        _report(runner, lambda: check_checkpoint_classes(checkpoint, dataset, starts))
        _fit_checkpoint(runner, checkpoint, starts)

    def before_train(self, runner: Runner) -> None:
        frozen_parts = getattr(unwrapped(runner.model), 'frozen_parts', ())
        if frozen_parts and not (runner._load_from or runner._resume):
            runner.logger.warning(
                f'The parts {frozen_parts} are frozen and keep their random initialisation, unless init_cfg loads '
                'weights: set load_from.'
            )
        train, validation = runner.train_dataloader.dataset, None
        check_classes(runner.model, train, 'training')
        if isinstance(runner.val_loop, BaseLoop):
            validation = runner.val_dataloader.dataset
            check_classes(runner.model, validation, 'validation')
            check_same_classes(train, validation)

        def look() -> list[Finding]:
            split = Split(train, 'training')
            datasets = [train] if validation is None else [validation, train]
            findings = [*check_split(split), *check_anchors(runner.model, split, datasets)]
            if validation is not None:
                other = Split(validation, 'validation')
                findings += [*check_split(other), *check_overlap(split, other)]
                findings += check_evaluator(runner.val_evaluator, validation, 'val')
                findings += check_score_names(runner.hooks, runner.val_evaluator)
            return findings

        _report(runner, look)

    def before_test(self, runner: Runner) -> None:
        dataset, evaluator = runner.test_dataloader.dataset, runner.test_evaluator
        check_classes(runner.model, dataset, 'test')
        _report(runner, lambda: [*check_split(Split(dataset, 'test')), *check_evaluator(evaluator, dataset, 'test')])


def _report(runner: Runner, look: Callable[[], Iterable[Finding]]) -> None:
    """Log what rank 0 finds; raise an error on all ranks if a finding is one."""
    if runner.cfg.get('check', 'on') == 'off':
        return
    shared = [[]]
    if is_main_process():
        try:
            shared[0] = list(look())
        except Exception as error:  # a dataset of an unknown kind is allowed, and the other ranks wait below
            shared[0] = [(False, f'the data could not be examined: {type(error).__name__}: {error}')]
    broadcast_object_list(shared, src=0)
    for is_error, text in shared[0]:
        if not is_error:
            runner.logger.warning(f'Check: {text}')
    errors = [text for is_error, text in shared[0] if is_error]
    if errors:
        raise ValueError('. '.join(errors) + '. (To skip this check: --check off, or check = "off" in the config)')


def check_classes(model: nn.Module, dataset: object, split: str) -> None:
    """Check that every box head predicts as many classes as the dataset has.

    Raises:
        ValueError: If the numbers differ.
    """
    classes = class_names(dataset)
    for name, num_classes in head_classes(model):
        if classes is not None and num_classes != len(classes):
            raise ValueError(
                f'model.{name} has num_classes={num_classes}, but the {split} data set names {len(classes)} classes '
                f'{classes}: set class_names in your config (it sets both), or model.{name}.num_classes'
            )


def check_same_classes(train: object, validation: object) -> None:
    """Check that training and validation have the same classes in the same order.

    Raises:
        ValueError: If they differ.
    """
    ours, theirs = class_names(train), class_names(validation)
    if None not in (ours, theirs) and ours != theirs:
        raise ValueError(
            f'training names the classes {ours}, validation {theirs}: set class_names in your config (it sets both)'
        )


def _fit_checkpoint(runner: Runner, checkpoint: dict, starts: bool) -> None:
    """Adapt a checkpoint to the model where possible, see :func:`fit`, and log what matches."""
    model = unwrapped(runner.model)
    given = {name: getattr(value, 'shape', None) for name, value in checkpoint.get('state_dict', checkpoint).items()}
    random = [name for name, p in model.named_parameters() if not p.requires_grad and given.get(name) != p.shape]
    report, notes = fit(model, checkpoint, start_anew=starts)
    if not report.matched or not starts and (report.missing or report.reshaped):
        raise ValueError(f'the checkpoint does not fit the model: {report}. Was it trained with this config?')
    random = [name for name in random if name in given or name in report.missing]
    if random and starts:
        names = ', '.join(random[:3])
        notes.append(f'{len(random)} frozen tensors are not in it and keep their random initialisation ({names})')
    for note in notes:
        runner.logger.warning(f'Checkpoint: {note}.')
    runner.logger.info(f'Checkpoint: {report}.' + ('' if report.complete else f'\n{report.full_table()}'))
