"""The layers of the package, checked by reading its sources: which part may import which, and shared habits."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = 'mmyolo_ext'
BASE = ('registry', 'boxes', 'version', 'image_io', 'tiling', 'coco_json', 'progress', 'deferred', 'ops', 'checkpoint')
NEEDED_IN_BASE = {'coco_json': ('image_io',)}
COMPONENTS = ('datasets', 'models', 'engine', 'evaluation', 'export')
ENTRY_POINTS = ('cli', 'apis', 'tuning', '__main__')
IMPORTS_NOTHING = f'{PACKAGE}.export.runtime'
FORBIDDEN = ('ultralytics', 'mmyolo', 'yolov5')  # other licences, and not needed


def sources(*folders: str) -> dict[str, str]:
    """Text of every Python file below ``folders``, by its path in the project."""
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob('*.py'))
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding='utf-8') for path in paths}


def module_name(path: str) -> str:
    return path.removesuffix('.py').removesuffix('/__init__').replace('/', '.')


def imports(path: str, text: str) -> set[str]:
    """Absolute dotted names a file imports, also inside functions; ``from a import b`` counts as ``a.b``."""
    package = module_name(path).split('.')
    package = package if path.endswith('__init__.py') else package[:-1]
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = '.'.join([*base, *([node.module] if node.module else [])])
            found |= {f'{start}.{alias.name}' for alias in node.names}
    return found


def ours(names: set[str]) -> set[str]:
    """Of imported names, those inside the package, without its name."""
    return {name.removeprefix(f'{PACKAGE}.') for name in names if name.startswith(f'{PACKAGE}.')}


def allowed_parts(module: str) -> tuple[str, ...]:
    """The parts of the package that ``module`` (dotted, with the package's name) may import."""
    part = module.split('.')[1] if '.' in module else ''
    if module == IMPORTS_NOTHING:
        return ()
    if part == '':
        return BASE
    if part in BASE:
        return (part, *NEEDED_IN_BASE.get(part, ()))
    if part in COMPONENTS:
        return (part, *BASE)
    assert part in ENTRY_POINTS, f'{module}: a part of the package without a layer; add it to this test'
    return (*ENTRY_POINTS, *COMPONENTS, *BASE)


def upward_imports(files: dict[str, str]) -> list[str]:
    """Every import of a higher layer, or of another part of the same layer."""
    faults = []
    for path, text in files.items():
        allowed = allowed_parts(module_name(path))
        faults += [
            f'{path} imports {name}' for name in sorted(ours(imports(path, text))) if name.split('.')[0] not in allowed
        ]
    return faults


def cycles(files: dict[str, str]) -> list[str]:
    """Circular imports between files of the package."""
    modules = {module_name(path) for path in files}

    def target(name: str) -> str | None:
        return next((known for known in (name, name.rpartition('.')[0]) if known in modules), None)

    graph = {
        module_name(path): {target(name) for name in imports(path, text)} - {None} for path, text in files.items()
    }
    done, found = set(), []

    def visit(module: str, trail: list[str]) -> None:
        if module in trail:
            found.append(' -> '.join([*trail[trail.index(module) :], module]))
        elif module not in done:
            for other in sorted(graph[module]):
                visit(other, [*trail, module])
            done.add(module)

    for module in sorted(graph):
        visit(module, [])
    return found


def without_docstring(text: str) -> list[str]:
    """The module and the public classes and functions of a file that have no docstring."""
    tree = ast.parse(text)
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    public = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith('_')]
    missing = [node.name for node in public if not ast.get_docstring(node)]
    return (['the module'] if tree.body and not ast.get_docstring(tree) else []) + missing


def test_imports_point_downwards():
    assert upward_imports(sources(PACKAGE)) == []


def test_no_import_is_circular():
    assert cycles(sources(PACKAGE)) == []


def test_nothing_of_other_licences_is_imported():
    used = {
        (path, name.split('.')[0]) for path, text in sources(PACKAGE, 'tools').items() for name in imports(path, text)
    }
    assert not [(path, name) for path, name in sorted(used) if name in FORBIDDEN]


def test_public_names_have_docstrings():
    missing = {path: without_docstring(text) for path, text in sources(PACKAGE).items()}
    assert {path: names for path, names in missing.items() if names} == {}


def test_one_vocabulary():
    """Words that the project replaces: by image, label, predicted, and instead of."""
    pattern = re.compile('pi[c]ture|ta[u]ght|t[o]ld|gone[ ]on with|in the[ ]place of', re.IGNORECASE)  # not itself
    folders = (PACKAGE, 'configs', 'tools', 'tests', 'docs', 'benchmarks')
    paths = [path for folder in folders for path in (ROOT / folder).rglob('*')] + list(ROOT.glob('README*.md'))
    found = [
        f'{path.relative_to(ROOT)}: {line.strip()}'
        for path in paths
        if path.suffix in ('.py', '.sh', '.md')
        for line in path.read_text(encoding='utf-8').splitlines()
        if pattern.search(line)
    ]
    assert found == []


def test_no_path_of_a_machine():
    homes = '|'.join(('work', 'root', 'home', 'tmp', 'Users'))
    pattern = re.compile(rf'(?<![\w.$}}])/(?:{homes})/')
    suffixes = {'.py', '.sh', '.md', '.txt', '.toml', '.json', ''}
    folders = (PACKAGE, 'configs', 'tools', 'tests', 'docs', 'benchmarks', 'requirements', '.ci')
    files = [path for folder in folders for path in (ROOT / folder).rglob('*')] + list(ROOT.glob('*.*'))
    files = [path for path in files if path.is_file() and path.suffix in suffixes and '__pycache__' not in path.parts]
    found = [
        f'{path.relative_to(ROOT)}: {line.strip()}'
        for path in files
        for line in path.read_text(encoding='utf-8').splitlines()
        if pattern.search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ('path', 'text', 'fault'),
    [
        ('boxes.py', 'from .registry import MODELS', 'registry.MODELS'),
        ('models/heads/a.py', 'from ...datasets import x', 'datasets.x'),
        ('models/heads/a.py', 'def late():\n    import mmyolo_ext.apis.config', 'apis.config'),
        ('engine/a.py', 'from ..models.heads.a import A', 'models.heads.a.A'),
        ('export/runtime.py', 'from mmyolo_ext.boxes import iou', 'boxes.iou'),
        ('datasets/__init__.py', 'from ..cli.doctor import main', 'cli.doctor.main'),
        ('models/heads/a.py', 'from ..layers import Conv\nfrom ...boxes import iou\nfrom ...registry import M', None),
        ('apis/a.py', 'from ..models import heads\nfrom .. import cli\nimport mmdet.datasets', None),
    ],
)
def test_an_upward_import_is_found(path, text, fault):
    path = f'{PACKAGE}/{path}'
    assert upward_imports({path: text}) == ([f'{path} imports {fault}'] if fault else [])


def test_a_cycle_is_found():
    files = {f'{PACKAGE}/models/{name}.py': f'from .{other} import x' for name, other in ('ab', 'bc', 'ca')}
    assert cycles(files) == [f'{PACKAGE}.models.a -> {PACKAGE}.models.b -> {PACKAGE}.models.c -> {PACKAGE}.models.a']
    assert cycles({**files, f'{PACKAGE}/models/c.py': 'import torch'}) == []


def test_a_missing_docstring_is_found():
    assert without_docstring('class A:\n    pass\n\ndef _b():\n    pass\n') == ['the module', 'A']
    assert without_docstring('') == []
