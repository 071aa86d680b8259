"""What the tests share: where the reference data is, and MMEngine's readers as they were."""

import gc
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
from mmengine.runner import CheckpointLoader

SHARED = Path(os.environ.get('MMYOLO_EXT_SHARED', Path(__file__).parents[2] / 'shared'))
MMENGINE_READERS = CheckpointLoader._schemes.copy()

# A shell ignores Ctrl-C in what it starts in the background; the tests send it all the same.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files of slow tests, then of many tests, so that no worker ends long after the others."""
    slow, count = {item.path for item in items if item.get_closest_marker('slow')}, Counter(i.path for i in items)
    items.sort(key=lambda item: (item.path not in slow, -count[item.path]))


def pytest_collection_finish() -> None:
    """Exclude what is imported by now from garbage collection, which every dataset of MMEngine calls when it loads."""
    gc.freeze()


def shared_path(relative: str) -> Path:
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f'{relative} is not in {SHARED}: set MMYOLO_EXT_SHARED to the folder that holds it')
    return path


@pytest.fixture(autouse=True)
def own_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader of checkpoints that a test installs, as every run of ours does, is gone after it."""
    monkeypatch.setattr(CheckpointLoader, '_schemes', MMENGINE_READERS.copy())


@pytest.fixture(scope='session')
def golden_dir() -> Path:
    """Checkpoints of the original implementations and their outputs."""
    return shared_path('golden')


@pytest.fixture(scope='session')
def bccd_dir() -> Path:
    """BCCD in Pascal VOC form."""
    return shared_path('data/bccd')


@pytest.fixture(autouse=True)
def same_main_program():
    """Put the main program back: ``run_script`` replaces it, and the processes of later tests would start that one."""
    main = sys.modules['__main__']
    yield
    sys.modules['__main__'] = main
