"""Packages that only some ways of export need."""

import importlib
from types import ModuleType


def need(package: str, command: str) -> ModuleType:
    """The package, imported.

    Raises:
        ValueError: it is not there, or cannot be loaded; with the command that installs it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(f'this needs the package {package.split(".")[0]}: {command} ({error})') from error
