"""docs/troubleshooting.md: the package can print each message that the page quotes."""

import ast
import re
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
PAGE = (REPO / 'docs/troubleshooting.md').read_text(encoding='utf-8')
MESSAGES = re.findall(r'^\| `([^`]+)` \|', PAGE, re.MULTILINE)
GAP = '\0'


def texts_of(path: Path) -> set[str]:
    """The string literals of a module but its docstrings, with :data:`GAP` for the values in f-strings."""
    tree, texts = ast.parse(path.read_text(encoding='utf-8')), set()
    docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if node in docstrings:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else GAP for part in node.values)
            texts.add(' '.join(''.join(parts).split()))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.add(' '.join(node.value.split()))
    return texts


@pytest.fixture(scope='module')
def texts() -> set[str]:
    return set().union(*(texts_of(path) for path in (REPO / 'mmyolo_ext').rglob('*.py')))


def test_the_page_has_messages():
    assert len(MESSAGES) > 50 and len(set(MESSAGES)) == len(MESSAGES)


@pytest.mark.parametrize('message', MESSAGES)
def test_the_package_can_print_the_message(message, texts):
    parts = [part for part in message.split('...') if part.strip()]
    pattern = re.compile('.*'.join(re.escape(part.strip()) for part in parts))
    assert any(pattern.search(text) for text in texts)
