"""Real images and the index of mmdet's configs for the tests of configs."""

import functools
from collections.abc import Iterator
from pathlib import Path

import mmengine.config.utils
import pytest
from bccd_step import make_bccd_coco


@pytest.fixture(scope='session')
def bccd_coco(bccd_dir, tmp_path_factory) -> Path:
    """A few images of BCCD in COCO form: ``images/``, ``train.json``, ``val.json``."""
    return make_bccd_coco(bccd_dir, tmp_path_factory.mktemp('bccd') / 'data')


@pytest.fixture(autouse=True, scope='session')
def read_index_once() -> Iterator[None]:
    """Keep the hundred metafiles of mmdet, which MMEngine parses for every config that inherits one of mmdet's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmengine.config.utils, 'load', functools.cache(mmengine.config.utils.load))
        yield
