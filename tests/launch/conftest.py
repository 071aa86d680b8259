"""What the tests of launched trainings share."""

from pathlib import Path

import pytest
import torch
from forked import run_ranks_of
from launching import SETTINGS, weights
from tiny_coco import REPO, make_tiny_coco, write_user_config

REPORTED = """
_base_ = 'mine.py'
custom_imports = dict(imports=['mmyolo_ext', 'kill_hook', 'shifted_metric'], allow_failed_imports=False)
default_hooks = dict(report=dict(_delete_=True, type='mmyolo_ext.ReportHook'))
val_evaluator = dict(type='ShiftedCocoMetric')
"""


@pytest.fixture(scope='session')
def undisturbed(tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    """Folder of the data, and the weights of two ranks that nobody disturbs."""
    folder = tmp_path_factory.mktemp('undisturbed')
    write_user_config(folder / 'mine.py', make_tiny_coco(folder / 'data'), extra=SETTINGS)
    config = folder / 'reported.py'
    config.write_text(REPORTED)
    for rank in run_ranks_of(2, REPO / 'tools' / 'train.py', config, '--work-dir', folder / 'work'):
        assert rank.returncode == 0, rank.stdout + rank.stderr
    return folder, weights(folder / 'work')
