"""Write the report of a training or test when it ends."""

import contextlib
import json
import platform
import shlex
import shutil
import sys
import time
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import get_world_size, master_only
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmyolo_ext.engine.fit_checks import unwrapped
from mmyolo_ext.engine.hooks.checkpoint import save_best_score
from mmyolo_ext.engine.hooks.curves import read_scalars
from mmyolo_ext.engine.preflight_data import leaf_datasets
from mmyolo_ext.registry import FUNCTIONS, HOOKS
from mmyolo_ext.version import __version__

PACKAGES = ('torch', 'onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection', 'numpy', 'faster-coco-eval')
BEST = 'best_predictions.npz'
MOST_IMAGES = 20_000  # of a training split whose boxes are shown


@HOOKS.register_module()
class ReportHook(Hook):
    """Write ``report/index.html`` into the work dir when a training or test ends (docs/guides/report.md).

    The report of a training shows the best validation, by the first metric of ``save_best`` and its ``rule``; its
    predictions are kept in ``best_predictions.npz`` for a run that is resumed. It needs ``mmyolo_ext.CocoMetric``. A
    report that cannot be written is a warning; the run goes on. A test keeps the report of the training in the same
    work dir as ``report_validation``, and the reverse as ``report_test``.

    Args:
        min_precision: Choose the operating point as the lowest confidence with this precision, from 0 to 1, instead of
            that with the highest F1.
    """

    priority = 'LOWEST'

    def __init__(self, min_precision: float | None = None) -> None:
        if min_precision is not None and not 0 < min_precision <= 1:
            raise ValueError(f'min_precision must be above 0 and at most 1, got {min_precision}')
        self.min_precision = min_precision
        self._best: tuple[float, int, list[dict]] | None = None

    def before_train(self, runner: Runner) -> None:
        self._started = time.monotonic()
        self._best = _read_best(runner) if getattr(runner, 'resumed', False) else None

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        metric = _metric(runner.val_loop.evaluator)
        if metric is not None:
            score = save_best_score(runner, metrics or {})
            if self._best is None or score > self._best[0]:
                self._best = score, runner.epoch, metric.predictions
                _keep_best(runner, *self._best)

    @master_only
    def after_train(self, runner: Runner) -> None:
        if self._best is None:
            return
        score, epoch, predictions = self._best
        minutes = (time.monotonic() - self._started) / 60
        facts = {
            'split': 'validation',
            'best epoch': f'{epoch} of {runner.max_epochs}',
            'checkpoint': runner.message_hub.get_info('best_ckpt') or runner.message_hub.get_info('last_ckpt'),
            'time': f'{minutes:.1f} min' + (' since it was resumed' if getattr(runner, 'resumed', False) else ''),
        }
        self._write(runner, runner.val_loop, predictions, facts)

    @master_only
    def after_test(self, runner: Runner) -> None:
        metric = _metric(runner.test_loop.evaluator)
        if metric is not None:
            facts = {'split': 'test', 'checkpoint': runner.cfg.get('load_from')}
            name = runner.cfg.get('load_from') or runner.cfg.filename or runner.work_dir
            self._write(runner, runner.test_loop, metric.predictions, {**facts, 'title': f'Test of {Path(name).stem}'})

    def _write(self, runner: Runner, loop: Any, predictions: list[dict], facts: dict[str, Any]) -> None:
        folder = Path(runner.work_dir) / 'report'
        try:
            _keep_other(folder, facts['split'])
            leaves = leaf_datasets(loop.dataloader.dataset)
            train = _train_leaves(runner)
            page = _metric(loop.evaluator).write_report(
                folder,
                predictions,
                facts={**self._facts(runner, leaves, train), **facts},
                log=read_scalars(sorted(Path(runner.work_dir).glob('*/vis_data/scalars.json'))),
                config=runner.cfg,
                image_root=(leaves[0].data_prefix or {}).get('img') if len(leaves) == 1 else None,
                train_ground_truth=_content(train),
                data_section=_data_section(runner, loop, facts['split'], train, predictions),
            )
        except Exception as error:
            text = ' '.join(str(error).split())
            runner.logger.warning(f'The report was not written: {type(error).__name__}: {text}')
        else:
            runner.logger.info(f'Report: {page}')

    def _facts(self, runner: Runner, leaves: list, train: list) -> dict[str, Any]:
        model, cfg = unwrapped(runner.model), runner.cfg
        parts = [type(part).__name__ for part in (getattr(model, n, None) for n in ('backbone', 'neck', 'bbox_head'))]
        count = sum(parameter.numel() for parameter in model.parameters())
        loader = cfg.get('train_dataloader') or {}
        program, *arguments = sys.argv
        command = f'{program} {shlex.join(arguments)}'
        return {
            'title': f'Report of {Path(runner.work_dir).name}',
            'model': f'{", ".join(part for part in parts if part != "NoneType")}; {count:,} parameters',
            'training data': ', '.join(_source(leaf) for leaf in train) or None,
            'evaluated data': ', '.join(_source(leaf) for leaf in leaves),
            'device': str(next(model.parameters()).device),
            'processes': get_world_size(),
            'command': command,
            'seed': runner.seed,
            'batch_size': (loader.get('batch_size') or 0) * get_world_size() or None,
            'min_precision': self.min_precision,
            'versions': {'mmyolo_ext': __version__, 'Python': platform.python_version(), **_versions()},
            'overridden': {
                one['path']: one['value']
                for one in (*(cfg.get('overridden') or ()), *(cfg.get('chosen_recipe') or ()))
            },
            'reproduce': command,
        }


def _keep_other(folder: Path, split: str) -> None:
    """Move the report of another split aside."""
    numbers = folder / 'report.json'
    kept = split
    if numbers.exists():
        with contextlib.suppress(ValueError, AttributeError):  # of a report that is damaged
            kept = json.loads(numbers.read_text(encoding='utf-8')).get('facts', {}).get('split', split)
    if kept != split:
        aside = folder.with_name('report_test' if kept == 'test' else 'report_validation')
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)


def _metric(evaluator: Evaluator) -> Any:
    """Return the metric that writes reports, or None."""
    return next((metric for metric in evaluator.metrics if hasattr(metric, 'write_report')), None)


def _keep_best(runner: Runner, score: float, epoch: int, predictions: list[dict]) -> None:
    """Write the predictions of the best validation; one that cannot be written is missing after a resume alone."""
    arrays = {
        key: np.concatenate([np.asarray(one[key]) for one in predictions]) for key in ('bboxes', 'scores', 'labels')
    }
    ids, counts = [one['img_id'] for one in predictions], [len(one['scores']) for one in predictions]
    path = Path(runner.work_dir) / BEST
    part = path.with_suffix('.part')
    try:
        with part.open('wb') as file:
            np.savez(file, score=score, epoch=epoch, img_id=ids, counts=counts, **arrays)
        part.replace(path)
    except OSError as error:
        runner.logger.warning(f'{path} was not written: {error}')


def _read_best(runner: Runner) -> tuple[float, int, list[dict]] | None:
    """Return what :func:`_keep_best` has written up to the epoch of a resumed run, or None."""
    path = Path(runner.work_dir) / BEST
    try:
        with np.load(path, allow_pickle=False) as content:
            kept = dict(content)
        if int(kept['epoch']) > runner.epoch:
            return None
        ends = np.cumsum(kept['counts'])[:-1]
        parts = [np.split(kept[key], ends) for key in ('bboxes', 'scores', 'labels')]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    names = ('img_id', 'bboxes', 'scores', 'labels')
    rows = zip(kept['img_id'].tolist(), *parts, strict=True)
    return float(kept['score']), int(kept['epoch']), [dict(zip(names, row, strict=True)) for row in rows]


def _train_leaves(runner: Runner) -> list:
    loader = getattr(runner._train_loop, 'dataloader', None)  # a test has the config of a loop, or none
    return leaf_datasets(loader.dataset) if hasattr(loader, 'dataset') else []


def _source(dataset: Any) -> str:
    return f'{getattr(dataset, "source", getattr(dataset, "ann_file", "?"))} ({len(dataset):,} images)'


def _content(leaves: list) -> dict | None:
    """Return the annotations of the training split, if it is one of a size that is shown fast."""
    if len(leaves) != 1 or not hasattr(leaves[0], 'to_coco') or len(leaves[0]) > MOST_IMAGES:
        return None
    return leaves[0].to_coco()


def _data_section(runner: Runner, loop: Any, split: str, train: list, predictions: list[dict]) -> str | None:
    """Return the check of the data, if each split is one dataset of ours; a failure is a warning."""
    own = 'test' if split == 'test' else 'val'
    parts = {'train': train, own: leaf_datasets(loop.dataloader.dataset)}
    splits = {name: leaves[0] for name, leaves in parts.items() if len(leaves) == 1}
    if not hasattr(splits.get(own), 'read_content'):
        return None
    try:
        detections = _metric(loop.evaluator).detections(predictions)
        return FUNCTIONS.get('mmyolo_ext.run_data_section')(splits, own, detections)
    except Exception as error:
        text = ' '.join(str(error).split())
        runner.logger.warning(f'The report has no check of the data: {type(error).__name__}: {text}')
        return None


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
