"""What the tests of launched trainings share."""

from pathlib import Path

import pytest
import torch
from launching import PATHS, SETTINGS, run, weights
from tiny_coco import REPO, make_tiny_coco, write_user_config


@pytest.fixture(scope='session')
def undisturbed(tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    """Folder of the data, and the weights of two ranks that nobody disturbs."""
    folder = tmp_path_factory.mktemp('undisturbed')
    config = write_user_config(folder / 'mine.py', make_tiny_coco(folder / 'data'), extra=SETTINGS)
    run(['bash', REPO / 'tools' / 'dist_train.sh', config, 2, '--work-dir', folder / 'work'], PYTHONPATH=PATHS)
    return folder, weights(folder / 'work')
