"""``python -m mmyolo_ext.cli.run SCRIPT.py ARGUMENTS...``: a script of the OpenMMLab stack with mmcv's ops supplied.

``python -m mmyolo_ext.cli.run mmdet::tools/test.py CONFIG CHECKPOINT`` runs mmdet's own tool. With several processes:
``python -m torch.distributed.run --nproc_per_node=2 -m mmyolo_ext.cli.run SCRIPT.py ARGUMENTS...``.

The script's exit code is passed on; 2 if there is no such script.
"""

import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType


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
elif __name__ == '__main__':
    main()
