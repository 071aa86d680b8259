"""Write the report of a run again, or that of any detections: ``mmyolo-ext report work_dirs/yolov5_n_pets``."""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from mmyolo_ext.cli.common import tool
from mmyolo_ext.coco_json import read_coco
from mmyolo_ext.engine.hooks.curves import read_scalars
from mmyolo_ext.evaluation.coco_metric import clean
from mmyolo_ext.evaluation.report import read_report, write_report


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Write the report of a run as one HTML page')
    parser.add_argument('run', type=Path, help='folder of a run, or of its report; with --detections, where to write')
    parser.add_argument(
        '--precision',
        type=float,
        metavar='P',
        help='operating point with the highest recall at a precision of at least P, instead of the highest F1',
    )
    parser.add_argument('--detections', type=Path, metavar='JSON', help='COCO results of any detector')
    parser.add_argument('--ground-truth', type=Path, metavar='JSON', help='COCO annotations, with --detections')
    parser.add_argument('--images', type=Path, metavar='DIR', help='folder of the images, with --detections')
    args = parser.parse_args(argv)
    if (args.detections is None) != (args.ground_truth is None):
        raise ValueError('--detections and --ground-truth belong together: give both or none')
    if args.images and not args.detections:
        raise ValueError('--images belongs to --detections: the report of a run knows its images')
    if args.precision is not None and not 0 < args.precision <= 1:
        raise ValueError(f'--precision must be above 0 and at most 1, got {args.precision}')
    return args


@tool
def main(argv: Sequence[str] | None = None) -> None:
    """Run the tool on ``argv``, by default the command line."""
    args = parse_args(argv)
    chosen = {} if args.precision is None else {'min_precision': args.precision}
    if args.detections:
        print(_of_files(args, chosen))
        return
    ground_truth, detections, numbers = read_report(args.run)
    folder = args.run / 'report' if (args.run / 'report').is_dir() else args.run
    facts = {**numbers.get('facts', {}), **chosen}
    log = read_scalars(sorted(folder.parent.glob('*/vis_data/scalars.json')))
    print(
        write_report(
            folder,
            ground_truth=ground_truth,
            detections=detections,
            facts=facts,
            log=log,
            config=config_of(folder.parent),
            keep_data=True,
        )
    )


def config_of(work_dir: Path) -> Config | None:
    """Return the config of the training in a work dir; tests of checkpoints leave theirs named by the time."""
    configs = [path for path in work_dir.glob('*.py') if not re.fullmatch(r'\d{8}_\d{6}', path.stem)]
    return Config.fromfile(max(configs, key=lambda path: path.stat().st_mtime)) if configs else None


def _of_files(args: argparse.Namespace, facts: dict) -> Path:
    ground_truth, _ = clean(read_coco(str(args.ground_truth)), str(args.ground_truth))
    try:
        detections = json.loads(args.detections.read_text(encoding='utf-8'))
        complete = all({'image_id', 'category_id', 'bbox', 'score'} <= entry.keys() for entry in detections)
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f'{args.detections} is no list of COCO results: {error}') from error
    if not complete:
        raise ValueError(f'each result in {args.detections} needs image_id, category_id, bbox and score')
    names = {'model': args.detections.stem, 'data': str(args.ground_truth), **facts}
    root = args.images or args.ground_truth.parent
    return write_report(args.run, ground_truth=ground_truth, detections=detections, facts=names, image_root=root)


if __name__ == '__main__':
    main()
