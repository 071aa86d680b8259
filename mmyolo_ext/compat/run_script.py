"""Run a script of the OpenMMLab stack as Python would, after mmcv's ops were supplied.

Most such scripts import mmdet, and with it ``mmcv.ops``, before they read the config that names this package. By then
it is too late: mmcv without its compiled half has failed to import.
"""

import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

MAIN, WORKER = '__main__', '__mp_main__'
SEPARATOR = '::'
SCRIPT = 'MMYOLO_EXT_SCRIPT'
"""Environment variable that tells processes started anew which script they belong to."""


def find_script(name: str) -> Path:
    """The file that ``name`` means: a path, or ``PACKAGE::PATH`` for a script that came with an installed package.

    ``mmdet::tools/train.py`` lies in mmdet's folder ``.mim``, as configs written ``mmdet::...`` do.

    Raises:
        ValueError: There is no such package, or no such file.
    """
    package, separator, relative = name.partition(SEPARATOR)
    if not separator:
        if Path(name).is_file():
            return Path(name)
        raise ValueError(
            f'there is no script {name}: give a path, or PACKAGE::PATH for one that an installed package brings, as '
            'mmdet::tools/train.py'
        )
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f'{name}: there is no installed package {package!r}')
    root = Path(next(iter(spec.submodule_search_locations)))
    tried = [root / '.mim' / relative, root / relative]
    found = next((path for path in tried if path.is_file()), None)
    if found is None:
        raise ValueError(f'{name}: there is no file {" or ".join(map(str, tried))}')
    return found


def run_script(script: Path, arguments: Sequence[str]) -> None:
    """Run ``script`` as the main program of this process; what it raises, SystemExit included, is passed on.

    Args:
        script: a Python file.
        arguments: its ``sys.argv`` after its own name.
    """
    sys.argv = [str(script), *arguments]
    sys.path[0] = str(script.resolve().parent)
    os.environ[SCRIPT] = str(script.resolve())
    _execute(script, MAIN)


def _execute(script: Path, name: str) -> None:
    module = ModuleType(name)
    module.__file__ = str(script)
    # Where processes are started anew (spawn, forkserver), each imports the main program by this name: this module,
    # by which it gets the ops, and which then runs the script once more, under WORKER.
    module.__spec__ = ModuleSpec(__spec__.name, loader=None, origin=str(script))
    sys.modules[name] = module
    exec(compile(script.read_bytes(), str(script), 'exec'), module.__dict__)


if __name__ == WORKER:
    _execute(Path(os.environ[SCRIPT]), WORKER)
    globals().update(vars(sys.modules[WORKER]))
