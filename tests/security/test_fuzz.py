"""No reader crashes on random and damaged files; ``fuzz.py`` tries more of them."""

from pathlib import Path

import pytest
from fuzz import Target, fuzz, targets

TARGETS = targets()
EXAMPLES = {'COCO, values': 20, 'COCO, bytes': 20, 'image': 100}


@pytest.mark.parametrize('name', TARGETS)
@pytest.mark.filterwarnings('ignore')
def test_a_reader_accepts_or_refuses(tmp_path: Path, name: str) -> None:
    tried = fuzz(TARGETS[name], EXAMPLES.get(name, 150), 1, tmp_path)
    assert tried.files >= 10
    assert not tried.crashes


def test_a_crash_is_found(tmp_path: Path) -> None:
    def read(content: bytes, folder: Path) -> None:
        if content:
            raise KeyError('x')

    tried = fuzz(Target(TARGETS['.cfg'].files, read), 20, 1, tmp_path)
    assert list(tried.crashes) and list(tried.crashes)[0].startswith("KeyError: 'x' at test_fuzz.py:")
