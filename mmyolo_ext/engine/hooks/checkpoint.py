"""Save checkpoints, periodically and the best by a metric, and stop a training that no longer improves."""

import math
from collections.abc import Mapping
from pathlib import Path

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.hooks import EarlyStoppingHook as MMEngineEarlyStoppingHook
from mmengine.runner import Runner

from mmyolo_ext.checkpoint.writing import moment_of
from mmyolo_ext.engine.train_loop import is_step_boundary
from mmyolo_ext.registry import HOOKS


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """MMEngine's ``CheckpointHook`` that deletes and trusts only files of its own run.

    * Checkpoints are written by :class:`~mmyolo_ext.checkpoint.writing.CheckpointFolder`; older ones are deleted after
      the new one is complete.
    * With ``by_epoch=False``, a checkpoint that is due during accumulation is written after the next optimizer step.
    * The best score and its file are read from the manifest of the work dir, never from a path in a checkpoint. A
      score that is NaN or infinite is never the best.

    Args:
        *args: As MMEngine's, which include ``interval``, ``max_keep_ckpts``, ``save_best`` and ``rule``.
        **kwargs: As MMEngine's. Checkpoints are written to local folders only: ``file_client_args``,
            ``backend_args`` and an ``out_dir`` with a scheme such as ``s3://`` are errors.
    """

    _due = False

    def folder(self, work_dir: str) -> Path:
        """Return the folder of the checkpoints of a run: its work dir, or a folder of that name in ``out_dir``.

        Raises:
            ValueError: If ``out_dir`` is not a local folder.
        """
        if '://' in str(self.out_dir) or self.file_client_args is not None or self.backend_args is not None:
            raise ValueError(f'CheckpointHook writes to local folders, got {self.out_dir!r}, {self.backend_args!r}')
        return Path(work_dir) if self.out_dir is None else Path(self.out_dir) / Path(work_dir).name

    def before_train(self, runner: Runner) -> None:
        """Find the best checkpoints of this run so far."""
        runner.logger.info(f'Checkpoints will be saved to {runner.checkpoints.folder}.')
        for metric in self.key_indicators if self.save_best else ():
            found = [runner.checkpoints.best(metric)]
            broadcast_object_list(found)  # the ranks must agree on what is better
            self._note_best(runner, metric, *(found[0] or (None, None)))
        if is_main_process() and runner.resumed:  # a killed run may have left outdated files
            position = {'epoch': runner.epoch, 'iter': runner.iter}
            runner.checkpoints.delete(self._outdated(runner, position) + self._other_best(runner))

    def after_train_iter(self, runner: Runner, batch_idx: int, *args, **kwargs) -> None:
        """Save at the first end of an optimizer step after a checkpoint is due by iterations."""
        if self.by_epoch:
            return
        due = self.every_n_train_iters(runner, self.interval, self.save_begin)
        self._due |= due or self.save_last and self.is_last_train_iter(runner)
        if self._due and is_step_boundary(runner):
            self._due = False
            runner.logger.info(f'Saving checkpoint at {runner.iter + 1} iterations')
            self._save_checkpoint(runner)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        name = self.filename_tmpl.format(step)
        self.last_ckpt = str(runner.checkpoints.folder / name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        parts = {'save_optimizer': self.save_optimizer, 'save_param_scheduler': self.save_param_scheduler}
        outdated = self._outdated(runner, meta)
        runner.save_checkpoint(runner.checkpoints.folder, name, **parts, meta=meta, outdated=outdated)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not self.save_best:
            return
        if 'auto' in self.key_indicators:
            self._init_rule(self.rules, [next(iter(metrics))])
        step = runner.epoch if self.by_epoch else runner.iter
        for metric, rule in zip(self.key_indicators, self.rules, strict=True):
            if metric not in metrics:
                raise ValueError(f'save_best of CheckpointHook must be one of {sorted(metrics)}, got {metric!r}')
            score = metrics[metric]
            if score is None or not math.isfinite(score):
                runner.logger.warning(f'{metric} is {score}, which is never the best.')
                continue
            best = runner.message_hub.get_info(self._info_key('best_score', metric), self.init_value_map[rule])
            if not self.is_better_than[metric](score, best):
                continue
            name = f'best_{metric}_{self.filename_tmpl.format(step)}'.replace('/', '_')
            self._note_best(runner, metric, name, float(score))
            runner.save_checkpoint(
                runner.checkpoints.folder,
                name,
                save_optimizer=False,
                save_param_scheduler=False,
                meta={'epoch': runner.epoch, 'iter': runner.iter},
                outdated=self._other_best(runner),
                metric=metric,
                score=float(score),
            )
            runner.logger.info(f'The best checkpoint with {score:0.4f} {metric} is saved to {name}.')

    def _note_best(self, runner: Runner, metric: str, name: str | None, score: float | None) -> None:
        """Record the best of a metric as MMEngine does."""
        path = None if name is None else str(runner.checkpoints.folder / name)
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = path
        else:
            self.best_ckpt_path_dict[metric] = path
        for start, value in (('best_score', score), ('best_ckpt', path)):
            key = self._info_key(start, metric)
            if value is None:
                runner.message_hub.pop_info(key, None)
            else:
                runner.message_hub.update_info(key, value)

    def _other_best(self, runner: Runner) -> list[str]:
        """Return files that were the best of a metric before the present ones."""
        noted = {
            metric: Path(path).name
            for metric in (self.key_indicators if self.save_best else ())
            if (path := runner.message_hub.get_info(self._info_key('best_ckpt', metric)))
        }
        return [
            name
            for name, facts in runner.checkpoints.entries.items()
            if facts.get('kind') == 'best' and name != noted.get(facts.get('metric'), name)
        ]

    def _info_key(self, start: str, metric: str) -> str:
        return start if len(self.key_indicators) == 1 else f'{start}_{metric}'

    def _outdated(self, runner: Runner, meta: dict) -> list[str]:
        """Return what to delete after a checkpoint: older emergency saves, and all but the newest periodic ones."""
        now, older = moment_of(runner.position(meta)), {'periodic': [], 'emergency': []}
        for name, facts in sorted(runner.checkpoints.entries.items(), key=lambda entry: moment_of(entry[1])):
            if facts.get('kind') in older and moment_of(facts) < now:
                older[facts['kind']].append(name)
        kept = self.max_keep_ckpts - 1 if self.max_keep_ckpts > 0 else len(older['periodic'])
        return older['emergency'] + older['periodic'][: max(len(older['periodic']) - kept, 0)]


def save_best_score(runner: Runner, metrics: Mapping[str, float | None]) -> float:
    """Return the score by which ``save_best`` chooses, negative if less is better; below all if missing or NaN."""
    checkpoint = (runner.cfg.get('default_hooks') or {}).get('checkpoint') or {}
    names = checkpoint.get('save_best') or 'coco/bbox_mAP'
    name = names if isinstance(names, str) else names[0]
    name = next(iter(metrics), name) if name == 'auto' else name  # as MMEngine reads it
    rules = checkpoint.get('rule') or ('less' if 'loss' in name.lower() else 'greater')
    score = metrics.get(name)
    if score is None or math.isnan(score):
        return -math.inf
    return -score if 'less' in (rules, rules[0]) else score


STATE = 'early_stopping'


@HOOKS.register_module()
class EarlyStoppingHook(MMEngineEarlyStoppingHook):
    """MMEngine's ``EarlyStoppingHook`` that resumes its best score and its count of validations without improvement.

    A checkpoint is saved before the validation of its epoch, which a resumed run repeats.

    Args:
        *args: As MMEngine's, which include ``monitor``, ``rule`` and ``patience``.
        **kwargs: As MMEngine's.
    """

    def before_run(self, runner: Runner) -> None:
        """Leave the training loop alone, which MMEngine's hook would build with its data for a test, too."""

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        state = {'best_score': float(self.best_score), 'wait_count': int(self.wait_count)}
        checkpoint.setdefault(STATE, {})[self.monitor] = state

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        state = (checkpoint.get(STATE) or {}).get(self.monitor)
        if runner._resume and state:
            self.best_score, self.wait_count = float(state['best_score']), int(state['wait_count'])
