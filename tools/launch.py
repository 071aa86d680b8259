"""torchrun, but when a process fails its own message is the end of it, not the launcher's traceback."""

import logging
import sys

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def main(arguments: list[str]) -> int:
    """Run the processes; the exit code of the one that failed first, 0 if none did."""
    logging.getLogger('torch.distributed.elastic').setLevel(logging.CRITICAL)
    logging.getLogger('torch.distributed.elastic.multiprocessing.api').setLevel(logging.CRITICAL)
    try:
        run.run(run.parse_args(arguments))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        print(
            f'stopped: process {rank} ended with code {failure.exitcode}; what it said stands above', file=sys.stderr
        )
        return failure.exitcode if failure.exitcode > 0 else 1
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
