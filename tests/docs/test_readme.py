"""README.md and its Chinese version: short, alike, with links that lead somewhere."""

import re
from pathlib import Path

import pytest

from mmyolo_ext.apis import load_config

REPO = Path(__file__).parents[2]
README, CHINESE = ((REPO / name).read_text(encoding='utf-8') for name in ('README.md', 'README_zh-CN.md'))


def code(text: str) -> list[str]:
    """The code blocks of a page, without comments."""
    return [re.sub(r' *#.*', '', block) for block in re.findall(r'```.*?```', text, re.DOTALL)]


@pytest.mark.parametrize('text', [README, CHINESE], ids=['English', 'Chinese'])
def test_it_fits_two_screens_and_has_one_image(text):
    assert len(text.splitlines()) <= 120
    assert text.count('![') == 1


def test_both_languages_have_the_same_code_links_and_figures():
    assert code(README) == code(CHINESE)
    english, chinese = (set(re.findall(r'\]\(([^)]*)\)', text)) for text in (README, CHINESE))
    assert english ^ chinese == {'README.md', 'README_zh-CN.md'}
    figures = r'0\.\d{2,3}|\b\d+\.\d\b'
    assert sorted(re.findall(figures, README)) == sorted(re.findall(figures, CHINESE))


@pytest.mark.parametrize('page', ['README.md', 'README_zh-CN.md', 'CONTRIBUTING.md', 'SECURITY.md', 'PROVENANCE.md'])
def test_its_links_lead_to_files(page):
    links = re.findall(r'\]\(([^)#]+)', (REPO / page).read_text(encoding='utf-8'))
    assert [link for link in links if '://' not in link and not (REPO / link).exists()] == []


def test_the_five_lines_for_own_data_are_a_config(tmp_path):
    (lines,) = (block for block in re.findall(r'```python\n(.*?)```', README, re.DOTALL) if '_base_' in block)
    assert len(lines.splitlines()) == 5
    (tmp_path / 'my_pets.py').write_text(lines.replace("'configs/", f"'{REPO}/configs/"))
    cfg = load_config(tmp_path / 'my_pets.py')
    assert cfg.model.bbox_head.num_classes == 2
    assert cfg.val_evaluator.ann_file == 'data/pets/annotations/val.json'
