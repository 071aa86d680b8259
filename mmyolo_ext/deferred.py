"""Leave out packages that a program imports at its start and may never use, until something of them is used."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

# mmdet imports them at its start for lanes, tracking, panoptic metrics and corrupted images
RARE_IN_MMDET = ('imgaug', 'imagecorruptions', 'matplotlib', 'scipy', 'sklearn')


@contextmanager
def deferred(*packages: str, unused: tuple[str, ...] = ()) -> Iterator[None]:
    """Inside the block, defer the import of packages that are not imported yet.

    ``import a.b`` and ``from a.b import c`` give stand-ins, which import the package at their first use: a call, an
    attribute, a class derived from them, ``isinstance``. A use inside the block ends the deferral.

    Args:
        *packages: Names; those that are not installed fail as usual.
        unused: Others, of which the program uses nothing: classes derived from theirs are empty.
    """
    packages = tuple(name for name in (*packages, *unused) if name not in sys.modules and find_spec(name))
    finder = _Finder(packages, unused)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        finder.end()


class _Finder(MetaPathFinder, Loader):
    def __init__(self, packages: tuple[str, ...], unused: tuple[str, ...]) -> None:
        self._packages, self._unused = packages, unused

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if _is_part(name, self._packages) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name, self)

    def exec_module(self, module: ModuleType) -> None:
        pass

    def is_unused(self, name: str) -> bool:
        return _is_part(name, self._unused)

    def end(self) -> None:
        """Find packages as usual from here on."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
            for name, module in list(sys.modules.items()):
                if isinstance(module, _Module) and module.finder is self:
                    del sys.modules[name]


class _Module(ModuleType):
    def __init__(self, name: str, finder: _Finder) -> None:
        super().__init__(name)
        self.__dict__['finder'] = finder

    def __getattr__(self, name: str) -> object:
        if name.startswith('__'):
            if name not in ('__version__', '__all__'):
                raise AttributeError(name)
        elif self.finder in sys.meta_path:
            return _Name(self, name)
        self.finder.end()
        return getattr(import_module(self.__name__), name)


class _Name:
    """What ``from a.b import c`` gives."""

    def __init__(self, module: _Module, name: str) -> None:
        self._module, self._name = module, name

    def _real(self) -> object:
        self._module.finder.end()
        try:
            return getattr(import_module(self._module.__name__), self._name)
        except AttributeError:
            return import_module(f'{self._module.__name__}.{self._name}')

    def __call__(self, *args: object, **options: object) -> object:
        return self._real()(*args, **options)

    def __getattr__(self, name: str) -> object:
        if name.startswith('__'):  # asked by typing and inspect
            raise AttributeError(name)
        return getattr(self._real(), name)

    def __mro_entries__(self, bases: tuple) -> tuple[type, ...]:
        unused = self._module.finder.is_unused(self._module.__name__)
        return (type(self._name, (), {}) if unused else self._real(),)

    def __instancecheck__(self, value: object) -> bool:
        return isinstance(value, self._real())

    def __subclasscheck__(self, kind: type) -> bool:
        return issubclass(kind, self._real())

    def __or__(self, other: object) -> object:
        return self._real() | other

    def __ror__(self, other: object) -> object:
        return other | self._real()


def _is_part(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f'{package}.') for package in packages)
