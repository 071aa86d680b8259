"""What is known of the average precision of a checkpoint without evaluating it again."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmyolo_ext.checkpoint.resuming import history_of
from mmyolo_ext.engine.hooks.curves import read_scalars

NAMES = {'bbox_mAP': 'AP50-95', 'bbox_mAP_50': 'AP50', 'bbox_mAP_75': 'AP75', 'mAP': 'AP50'}
OF_CLASS = '_precision'


class Figures(NamedTuple):
    """Average precisions, 0 to 1, by the metric's own names without their prefix; and how they were found."""

    values: dict[str, float]
    source: str

    @property
    def overall(self) -> dict[str, float]:
        """Those of all classes together, under their usual names, the foremost first."""
        return {NAMES[name]: self.values[name] for name in NAMES if name in self.values}

    def of_class(self, name: str) -> float | None:
        """AP50-95 of one class."""
        return self.values.get(name + OF_CLASS)


def known_figures(content: Mapping[str, Any], checkpoint: Path) -> Figures | None:
    """Of the weights in a checkpoint: as a best checkpoint keeps them in itself, else as the logs beside it have them.

    The figures that MMEngine keeps in its other checkpoints are of an earlier validation, and are not taken.
    """
    values = of_best_checkpoint(content) or of_logs(content, checkpoint.parent)
    return Figures(values, 'by the validation of its training, in float32') if values else None


def of_best_checkpoint(content: Mapping[str, Any]) -> dict[str, float]:
    """The last validation in the message hub, if the checkpoint was saved for it as the best; else nothing."""
    meta, hub = content.get('meta') or {}, content.get('message_hub') or {}
    told = hub.get('runtime_info') or {}
    best = [str(value) for key, value in told.items() if str(key).startswith('best_ckpt') and value]
    own = (f'_epoch_{meta.get("epoch")}.pth', f'_iter_{meta.get("iter")}.pth')
    if not any(path.endswith(own) for path in best):
        return {}
    scalars = hub.get('log_scalars') or {}
    last = {
        name.removeprefix('val/'): history.current()
        for name, scalar in scalars.items()
        if name.startswith('val/') and (history := history_of(scalar)) is not None
    }
    return _precisions(last)


def of_logs(content: Mapping[str, Any], folder: Path) -> dict[str, float]:
    """The row that ``scalars.json`` has for the epoch of the checkpoint, of the run that wrote it; else nothing."""
    meta = content.get('meta') or {}
    run = re.search(r'\d{8}_\d{6}$', str(meta.get('experiment_name')))
    if run is None or 'epoch' not in meta:
        return {}
    files = sorted(folder.glob('*/vis_data/scalars.json'))
    if run[0] not in [file.parts[-3] for file in files]:
        return {}
    try:
        # later runs in the same folder are of other weights
        rows = read_scalars(file for file in files if file.parts[-3] <= run[0])
    except ValueError:  # a log cut short
        return {}
    own = [row for row in rows if 'epoch' not in row and row.get('step') == meta['epoch']]
    return _precisions(own[-1]) if own else {}


def _precisions(values: Mapping[str, Any]) -> dict[str, float]:
    plain = {name.rpartition('/')[2]: value for name, value in values.items()}
    return {name: float(value) for name, value in plain.items() if name in NAMES or name.endswith(OF_CLASS)}
