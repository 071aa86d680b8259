"""How the stand-in takes its place, and when it does not."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import mmcv.ops
import pytest

from mmyolo_ext import ops
from mmyolo_ext.ops import EXT, MODULES, MissingOpError, SuppliedOps


def run(code: str, *paths: Path) -> str:
    """Standard output of a fresh interpreter that looks for modules in ``paths`` first."""
    head = f'import sys; sys.path[:0] = {[str(path) for path in paths]!r}\n'
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', head + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def package(folder: Path, name: str, text: str, **modules: str) -> None:
    (folder / name).mkdir()
    for module, content in {'__init__': text, **modules}.items():
        (folder / name / f'{module}.py').write_text(content, encoding='utf-8')


# Installs without mmyolo_ext/__init__.py, which needs mmengine.
INSTALL = f"""
import importlib.util
spec = importlib.util.spec_from_file_location('ops', {ops.__file__!r})
ops = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ops)
ops.install()
"""


def test_compiled_ops_are_left_alone(tmp_path: Path) -> None:
    package(tmp_path, 'mmcv', '', _ext='nms = "compiled"')
    code = INSTALL + "import mmcv._ext; print(mmcv._ext.nms, ops.ops_status(), 'torch' in sys.modules)"
    assert run(code, tmp_path) == 'compiled compiled False'


def test_missing_ops_are_supplied_without_importing_mmcv(tmp_path: Path) -> None:
    package(tmp_path, 'mmcv', '')
    code = INSTALL + "print(ops.ops_status(), 'mmcv' in sys.modules, 'torch' in sys.modules)"
    assert run(code, tmp_path) == 'supplied False False'


def test_nothing_happens_without_mmcv() -> None:
    code = 'import importlib.util as u, sys; find = u.find_spec\n'
    code += "u.find_spec = lambda name, package=None: None if name == 'mmcv' else find(name, package)\n"
    assert run(code + INSTALL + "print(ops.ops_status(), 'mmcv._ext' in sys.modules)") == 'no mmcv False'


def test_package_imports_without_torch_or_mmcv() -> None:
    for missing in ('torch', 'mmcv', 'mmengine', 'mmdet'):
        assert run(f'sys.modules[{missing!r}] = None; import mmyolo_ext; print(mmyolo_ext.__version__)')


def test_importing_the_package_imports_neither_mmcv_nor_mmdet() -> None:
    code = (
        "import mmyolo_ext; print([name for name in ('mmcv', 'mmdet', 'cv2', 'torchvision') if name in sys.modules])"
    )
    assert run(code) == '[]'


def test_a_missing_op_names_itself_and_the_cure() -> None:
    op = SuppliedOps(EXT).border_align_forward
    with pytest.raises(
        MissingOpError, match=r"'border_align_forward'.*pip install .*--no-build-isolation.*onedl-mmcv"
    ):
        op(1, pool_size=2)


def test_dunder_names_are_not_ops() -> None:
    assert not hasattr(SuppliedOps(EXT), '__path__')


def test_every_op_is_found_and_asked_for_by_mmcv() -> None:
    sources = ''.join(path.read_text(encoding='utf-8') for path in Path(mmcv.ops.__file__).parent.glob('*.py'))
    supplied, names = SuppliedOps(EXT), set(re.findall(r"'(\w+)'", sources))
    found = {name for name in names if getattr(supplied, name).__module__.startswith('mmyolo_ext.ops.')}
    assert {'nms', 'softnms', 'nms_match', 'roi_align_forward', 'ms_deform_attn_backward', 'carafe_forward'} <= found
    for module in map(importlib.import_module, (f'mmyolo_ext.ops.{name}' for name in MODULES)):
        passes = {name for name in vars(module) if name.endswith(('_forward', '_backward')) or '_backward_' in name}
        assert passes <= found


@pytest.mark.skipif(ops.ops_status() != 'supplied', reason='mmcv has its compiled ops here')
def test_the_module_has_a_spec() -> None:
    assert importlib.util.find_spec(EXT) is not None
    assert mmcv.ops.get_compiler_version() == 'not compiled, supplied by mmyolo_ext'
