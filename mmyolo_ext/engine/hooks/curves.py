"""Plot the losses and the mAP of a training."""

import json
from collections.abc import Iterable
from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmyolo_ext.registry import HOOKS

LOSSES = ('loss', 'loss_bbox', 'loss_obj', 'loss_cls')
METRICS = ('bbox_mAP', 'bbox_mAP_50', 'bbox_mAP_75')


@HOOKS.register_module()
class CurvesHook(Hook):
    """Write ``curves.png`` into the work dir when training ends: the losses and the mAP over the epochs.

    It reads the scalars that MMEngine's ``LocalVisBackend`` wrote in all runs of a resumed training. Without
    matplotlib, or without scalars, it logs a warning.
    """

    priority = 'LOWEST'

    @master_only
    def after_train(self, runner: Runner) -> None:
        rows = read_scalars(sorted(Path(runner.work_dir).glob('*/vis_data/scalars.json')))
        target = Path(runner.work_dir) / 'curves.png'
        try:
            draw_curves(rows, target, title=runner.experiment_name)
        except (ImportError, ValueError) as error:
            runner.logger.warning(f'curves.png was not written: {error}')
        else:
            runner.logger.info(f'Curves of losses and mAP: {target}')


def read_scalars(files: Iterable[Path]) -> list[dict]:
    """Return the rows of one training from the logs of its runs, oldest first.

    A resumed run replaces the rows of earlier runs from its first epoch on.
    """
    rows: list[dict] = []
    for file in files:
        run = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
        starts = [row['epoch'] for row in run if 'epoch' in row]
        if starts:
            rows = [row for row in rows if _epoch(row) < starts[0]] + run
    return rows


def series(rows: list[dict], name: str) -> tuple[list[float], list[float]]:
    """Return epochs and values of a scalar; of several values in one epoch, their mean."""
    by_epoch: dict[int, list[float]] = {}
    for row in rows:
        for key, value in row.items():
            if key.rsplit('/', 1)[-1] == name and isinstance(value, (int, float)):
                by_epoch.setdefault(_epoch(row), []).append(value)
    return list(by_epoch), [sum(values) / len(values) for values in by_epoch.values()]


def loss_names(rows: list[dict]) -> list[str]:
    """Return the names of the logged losses: the usual ones first, then others (``loss_nwd``, ...)."""
    logged = {key for row in rows for key in row if key == 'loss' or key.startswith('loss_')}
    return [name for name in LOSSES if name in logged] + sorted(logged.difference(LOSSES))


def draw_curves(rows: list[dict], target: Path, title: str = '') -> None:
    """Plot losses on the left, on a logarithmic scale, and mAP on the right with its best epoch.

    Raises:
        ValueError: If ``rows`` contains no loss.
        ImportError: If matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    if not series(rows, 'loss')[0]:
        raise ValueError('no loss was logged')
    figure = Figure(figsize=(11, 4.2), dpi=130, layout='constrained')
    figure.suptitle(title, fontsize=10)
    losses, metrics = figure.subplots(1, 2)
    epochs, values = series(rows, METRICS[0])
    best = max(zip(values, epochs, strict=True), default=None)
    for axes, names in ((losses, loss_names(rows)), (metrics, METRICS)):
        for name in names:
            epochs, values = series(rows, name)
            if epochs:
                axes.plot(epochs, values, label=name, marker='o' if len(epochs) < 40 else None, markersize=3)
                axes.legend(frameon=False)
        axes.grid(alpha=0.25)
    losses.set(title='training losses (sum over a batch)', xlabel='epoch', yscale='log')
    found = f', best mAP {best[0]:.3f} at epoch {best[1]}' if best else ''
    metrics.set(title=f'validation{found}', xlabel='epoch', ylim=(0, 1), xlim=losses.get_xlim())
    figure.savefig(target)


def _epoch(row: dict) -> int:
    # validation rows have the epoch as their step only
    return row.get('epoch', row['step'])
