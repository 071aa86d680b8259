"""Examples of configs in the documentation: each passes the checks of tools/train.py."""

import re
from pathlib import Path

import pytest

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.config_check import check_config

REPO = Path(__file__).parents[2]
PAGES = [REPO / 'README.md', *sorted((REPO / 'docs').rglob('*.md'))]
BASE = re.compile(r"^_base_ = '(?:configs/|mmyolo_ext::)([\w./-]+\.py)'", re.MULTILINE)


def examples() -> list:
    """Return the Python blocks with a ``_base_`` of this package that need no file of the user."""
    found = []
    for page in PAGES:
        blocks = re.findall(r'^```python\n(.*?)^```', page.read_text(encoding='utf-8'), re.DOTALL | re.MULTILINE)
        blocks = [block for block in blocks if BASE.search(block) and 'my_' not in block and 'data = ' not in block]
        name = page.relative_to(REPO).with_suffix('').as_posix()
        found += [pytest.param(block, id=f'{name}-{number}') for number, block in enumerate(blocks)]
    return found


@pytest.mark.parametrize('block', examples())
def test_an_example_is_a_valid_config(block, tmp_path):
    (tmp_path / 'mine.py').write_text(block.replace("'configs/", f"'{REPO}/configs/"))
    cfg = load_config(tmp_path / 'mine.py')
    check_config(cfg, 'train')
