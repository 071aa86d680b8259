"""What the tests share: where the reference data is."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get('MMYOLO_EXT_SHARED', Path(__file__).parents[2] / 'shared'))


def shared_path(relative: str) -> Path:
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f'{relative} is not in {SHARED}: set MMYOLO_EXT_SHARED to the folder that holds it')
    return path


@pytest.fixture(scope='session')
def golden_dir() -> Path:
    """Checkpoints of the original implementations and their outputs."""
    return shared_path('golden')


@pytest.fixture(scope='session')
def bccd_dir() -> Path:
    """BCCD in Pascal VOC form."""
    return shared_path('data/bccd')
