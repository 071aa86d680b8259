"""The layers of the package, checked by reading its sources: which part may import which, and shared habits."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = 'mmyolo_ext'
GROUND = ('registry', 'boxes', 'ops', 'checkpoint', 'version', 'image_io', 'box_format', 'coco_json')
NEIGHBOURS = ('datasets', 'models', 'engine', 'evaluation', 'weights', 'export')
ROOF = ('apis', 'tuning', 'doctor')
RESTS_ON_NOTHING = f'{PACKAGE}.export.runtime'
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
    if module == RESTS_ON_NOTHING:
        return ()
    if part == '':
        return GROUND
    if part == 'checkpoint':
        return ('checkpoint', 'ops', 'registry')
    if part == 'coco_json':
        return ('coco_json', 'image_io')
    if part in GROUND:
        return (part,)
    if part in NEIGHBOURS:
        return (part, *GROUND)
    assert part in ROOF, f'{module}: a part of the package without a floor; add it to this test'
    return (*ROOF, *NEIGHBOURS, *GROUND)


def floor_faults(files: dict[str, str]) -> list[str]:
    """Every import that goes upwards or to a neighbour."""
    faults = []
    for path, text in files.items():
        allowed = allowed_parts(module_name(path))
        faults += [
            f'{path} imports {name}' for name in sorted(ours(imports(path, text))) if name.split('.')[0] not in allowed
        ]
    return faults


def circles(files: dict[str, str]) -> list[str]:
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
    """The public module, classes and functions of a file that say nothing about themselves."""
    tree = ast.parse(text)
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    public = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith('_')]
    silent = [node.name for node in public if not ast.get_docstring(node)]
    return (['the module'] if tree.body and not ast.get_docstring(tree) else []) + silent


def test_each_part_imports_its_floor_and_below():
    assert floor_faults(sources(PACKAGE)) == []


def test_no_circular_import():
    assert circles(sources(PACKAGE)) == []


def test_nothing_of_other_licences_is_imported():
    used = {
        (path, name.split('.')[0]) for path, text in sources(PACKAGE, 'tools').items() for name in imports(path, text)
    }
    assert not [(path, name) for path, name in sorted(used) if name in FORBIDDEN]


def test_public_names_have_docstrings():
    silent = {path: without_docstring(text) for path, text in sources(PACKAGE).items()}
    silent |= {path: without_docstring(text)[:1] for path, text in sources('tools').items() if text[:3] != '"""'}
    assert {path: names for path, names in silent.items() if names} == {}


def test_no_path_of_a_machine():
    """Such a path works for its author alone."""
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
        ('datasets/__init__.py', 'from ..doctor import main', 'doctor.main'),
        ('models/heads/a.py', 'from ..layers import Conv\nfrom ...boxes import iou\nfrom ...registry import M', None),
        ('apis/a.py', 'from ..models import heads\nfrom .. import doctor\nimport mmdet.datasets', None),
    ],
)
def test_the_floor_check_sees_a_fault(path, text, fault):
    path = f'{PACKAGE}/{path}'
    assert floor_faults({path: text}) == ([f'{path} imports {fault}'] if fault else [])


def test_the_circle_check_sees_a_circle():
    files = {f'{PACKAGE}/models/{name}.py': f'from .{other} import x' for name, other in ('ab', 'bc', 'ca')}
    assert circles(files) == [f'{PACKAGE}.models.a -> {PACKAGE}.models.b -> {PACKAGE}.models.c -> {PACKAGE}.models.a']
    assert circles({**files, f'{PACKAGE}/models/c.py': 'import torch'}) == []


def test_the_docstring_check_sees_the_silent():
    assert without_docstring('class A:\n    pass\n\ndef _b():\n    pass\n') == ['the module', 'A']
    assert without_docstring('') == []
