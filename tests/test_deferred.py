"""Packages that are imported at their first use."""

import importlib
import subprocess
import sys

import pytest

from mmyolo_ext.deferred import deferred

LATE = """
__version__ = '3.1'
class Base:
    size = 5
def double(value):
    return 2 * value
"""


@pytest.fixture
def late(tmp_path, monkeypatch):
    """Make a package ``late`` with a module ``late.inner``, and return whether it has been imported."""
    (tmp_path / 'late').mkdir()
    (tmp_path / 'late' / '__init__.py').write_text(LATE)
    (tmp_path / 'late' / 'inner.py').write_text(LATE)
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda: hasattr(sys.modules.get('late'), '__file__')
    for name in [name for name in sys.modules if name.partition('.')[0] == 'late']:
        del sys.modules[name]


def test_the_first_use_imports(late):
    with deferred('late'):
        import late.inner as module
        from late import inner as again
        from late.inner import Base, double

        assert not late()
    assert 'late' not in sys.modules and 'late.inner' not in sys.modules
    assert double(4) == 8 and late() and sys.modules['late.inner'].double is module.double
    assert Base.size == 5 and again.double(1) == 2 and module.__version__ == '3.1'
    assert isinstance(Base(), Base) and not isinstance(3, Base) and issubclass(module.Base, Base)


def test_a_derived_class_is_one_of_the_package(late):
    with deferred('late'):
        from late import Base

        class Derived(Base):
            pass

        assert late()  # ends the deferral, so this is the package itself
        from late import double
    assert Derived.size == 5 and double.__module__ == 'late'
    assert not any(type(finder).__module__ == 'mmyolo_ext.deferred' for finder in sys.meta_path)


def test_what_is_derived_from_an_unused_package_is_empty(late):
    with deferred(unused=('late',)):
        from late.inner import Base

        class Derived(Base):
            pass

    assert not late() and not hasattr(Derived, 'size')


def test_a_package_that_is_not_installed_or_imported_already(late):
    importlib.import_module('late')
    with deferred('late', 'no_such_package'):
        import late.inner

        assert late.inner.double(2) == 4
        with pytest.raises(ModuleNotFoundError, match='no_such_package'):
            importlib.import_module('no_such_package')


PROGRAM = """
import sys
from mmyolo_ext.deferred import RARE_IN_MMDET
import mmyolo_ext.cli.train
print([name for name in RARE_IN_MMDET if name in sys.modules])
from mmdet.datasets.transforms import ImageAug
steps = [dict(name='Resize', parameters=dict(size=dict(height=4, width=6)), p=1.0)]
print(type(ImageAug(steps).pipeline).__module__)
"""


def test_a_training_starts_without_the_rare_parts_of_mmdet_and_they_work(tmp_path):
    (tmp_path / 'program.py').write_text(PROGRAM)

    done = subprocess.run([sys.executable, str(tmp_path / 'program.py')], capture_output=True, text=True, timeout=100)
    assert done.stdout.splitlines()[-2:] == ['[]', 'imgaug.augmenters.meta'], done.stdout + done.stderr
