"""Compare runs on one page: ``mmyolo-ext compare work_dirs/a work_dirs/b``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmyolo_ext.cli.common import tool
from mmyolo_ext.cli.report import config_of
from mmyolo_ext.engine.hooks.curves import read_scalars
from mmyolo_ext.evaluation.report.compare import Compared, write_comparison


@tool
def main(argv: Sequence[str] | None = None) -> None:
    """Run the tool on ``argv``, by default the command line."""
    parser = argparse.ArgumentParser(description='Compare runs that have a report: the first with each other one')
    parser.add_argument('runs', nargs='+', type=Path, metavar='RUN', help='folder of a training or test')
    parser.add_argument('--out', type=Path, default=Path('comparison'), help='folder to write; default: comparison')
    args = parser.parse_args(argv)
    print(write_comparison(args.out, [_read(folder, args.runs) for folder in args.runs]))


def _read(folder: Path, all_folders: Sequence[Path]) -> Compared:
    names = [one.resolve().name for one in all_folders]
    name = folder.resolve().name if names.count(folder.resolve().name) == 1 else str(folder)
    config = config_of(folder)
    return Compared(
        name,
        folder,
        log=read_scalars(sorted(folder.glob('*/vis_data/scalars.json'))),
        config=config.pretty_text if config else '',
    )


if __name__ == '__main__':
    main()
