"""Real images for the tests of configs."""

from pathlib import Path

import pytest
from bccd_step import make_bccd_coco


@pytest.fixture(scope='session')
def bccd_coco(bccd_dir, tmp_path_factory) -> Path:
    """A few images of BCCD in COCO form: ``images/``, ``train.json``, ``val.json``."""
    return make_bccd_coco(bccd_dir, tmp_path_factory.mktemp('bccd') / 'data')
