"""``python -m mmyolo_ext.compat SCRIPT.py ARGUMENTS...``: a script of the OpenMMLab stack with mmcv's ops supplied.

``python -m mmyolo_ext.compat mmdet::tools/test.py CONFIG CHECKPOINT`` runs mmdet's own tool. With several processes:
``python -m torch.distributed.run --nproc_per_node=2 -m mmyolo_ext.compat SCRIPT.py ARGUMENTS...``.

The script's exit code is passed on; 2 if there is no such script.
"""

import sys

from .run_script import find_script, run_script


def main(arguments: list[str]) -> None:
    """The command line, without the program's name."""
    if not arguments or arguments[0] in ('-h', '--help'):
        print(__doc__, file=sys.stderr if not arguments else sys.stdout)
        sys.exit(0 if arguments else 2)
    try:
        script = find_script(arguments[0])
    except ValueError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
    run_script(script, arguments[1:])


if __name__ == '__main__':
    main(sys.argv[1:])
