"""Run a script of the OpenMMLab stack with mmcv's ops supplied.

Usage: ``python -m mmyolo_ext.cli.run SCRIPT.py ARGUMENTS...``

``python -m mmyolo_ext.cli.run mmdet::tools/test.py CONFIG CHECKPOINT`` runs mmdet's own tool. With several processes:
``python -m torch.distributed.run --nproc_per_node=2 -m mmyolo_ext.cli.run SCRIPT.py ARGUMENTS...``.

Most such scripts import mmdet, and with it ``mmcv.ops``, before they read the config that imports this package; mmcv
without compiled ops then fails to import.

The exit code is that of the script, or 2 if the script does not exist.
"""

import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

MAIN, WORKER = '__main__', '__mp_main__'
SCRIPT = 'MMYOLO_EXT_SCRIPT'  # environment variable that names the script for spawned processes


def main(argv: list[str] | None = None) -> None:
    """Run the command line; ``argv`` is ``sys.argv`` without the program's name."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ('-h', '--help'):
        print(__doc__, file=sys.stderr if not arguments else sys.stdout)
        sys.exit(0 if arguments else 2)
    try:
        script = find_script(arguments[0])
    except ValueError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
    run_script(script, arguments[1:])


def find_script(name: str) -> Path:
    """Return the file of a script.

    Args:
        name: A path, or ``PACKAGE::PATH`` for a script of an installed package, such as ``mmdet::tools/train.py`` in
            mmdet's folder ``.mim``.

    Raises:
        ValueError: If there is no such package, or no such file.
    """
    package, separator, relative = name.partition('::')
    if not separator:
        if Path(name).is_file():
            return Path(name)
        raise ValueError(
            f'there is no script {name}: give a path, or PACKAGE::PATH for a script of an installed package, such as '
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
    """Run a script as the main program of this process; its exceptions propagate, SystemExit included.

    Args:
        script: Python file.
        arguments: Its ``sys.argv[1:]``.
    """
    sys.argv = [str(script), *arguments]
    sys.path[0] = str(script.resolve().parent)
    os.environ[SCRIPT] = str(script.resolve())
    _execute(script, MAIN)


def _execute(script: Path, name: str) -> None:
    module = ModuleType(name)
    module.__file__ = str(script)
    # Spawned processes import the main program by this name: this module, which supplies the ops and runs the script
    # again under WORKER.
    module.__spec__ = ModuleSpec(__spec__.name, loader=None, origin=str(script))
    sys.modules[name] = module
    exec(compile(script.read_bytes(), str(script), 'exec'), module.__dict__)


if __name__ == WORKER:
    _execute(Path(os.environ[SCRIPT]), WORKER)
    globals().update(vars(sys.modules[WORKER]))
elif __name__ == '__main__':
    main()
