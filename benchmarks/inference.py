"""How long a picture takes on the CPU: PyTorch in its forms, TorchScript, and ONNX Runtime in float32 and int8.

Twice for each: from the normalised picture to the boxes and scores of every place ("network"), and to the detections
after thresholds and suppression ("detections"). Weights are seeded, classes are COCO's 80, and the threshold lets 300
candidates a picture through to suppression::

    OMP_NUM_THREADS=2 python benchmarks/inference.py [--models YOLOv5n] [--sizes 320 640] [--batch 8] [--markdown]

Prints one JSON line. With ``--save`` the rows go into ``benchmarks/results/inference.json``, where they replace those
of the same model, form, size and batch, so that a slow or busy machine can be measured in pieces; ``--markdown`` then
writes all that stand there into the table of ``docs/benchmarks.md``.
"""

import argparse
import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from engines import ENGINES, Engine, build_detector, engines, pictures
from machine import calibrate, describe, measure, report
from tables import span, table, update

MODELS = {
    'YOLOv5n': 'yolov5/n_640_coco.py',
    'ShuffleNetV2 1.0': 'light/shufflenetv2-1.0_640_coco.py',
    'MobileNetV3 small': 'light/mobilenetv3-small_640_coco.py',
}
RESULTS = Path(__file__).parent / 'results' / 'inference.json'
KEY = ('model', 'form', 'size', 'batch')
KINDS = ('network', 'detections')
REPEATS, REPEAT_MS = 7, 200  # a repeat is as many runs as fill this time


def measure_model(model: str, form_names: list[str], sizes: list[int], batch: int) -> list[dict[str, Any]]:
    """Rows of one model: each form at each size, with a calibration for every size."""
    detector = build_detector(MODELS[model])
    rows = []
    for size in sizes:
        images = pictures(batch, size)
        with TemporaryDirectory() as folder:
            for name, engine in engines(detector, images, form_names, Path(folder)):
                rows.append({**dict(zip(KEY, (model, name, size, batch), strict=True)), **times(engine)})
        calibration = calibrate()
        for row in rows[-len(form_names) :]:
            row['calibration'] = calibration
    return rows


def times(engine: Engine) -> dict[str, dict[str, float]]:
    """Milliseconds of a batch, to each of :data:`KINDS`."""
    figures = {}
    for kind in KINDS:
        call = getattr(engine, kind)
        if call is None:
            continue
        # the first runs of TorchScript compile, and caches are cold
        rough = measure(call, 5, warmup=3)['median_ms']
        figures[kind] = measure(call, REPEATS, runs=max(1, math.ceil(REPEAT_MS / rough)))
    return figures


def save(rows: list[dict[str, Any]], path: Path) -> None:
    """Put rows into the file of results, in the place of those of the same key.

    Raises:
        ValueError: those that stand there come from another processor or another number of threads.
    """
    machine = describe()
    kept = []
    if path.is_file():
        saved = json.loads(path.read_text(encoding='utf-8'))
        for fact in ('cpu', 'cores', 'torch_threads'):
            if saved['machine'][fact] != machine[fact]:
                raise ValueError(
                    f'{path} was measured with {fact} {saved["machine"][fact]}, this is {machine[fact]}: give another '
                    'file by --save FILE'
                )
        new = {key(row) for row in rows}
        kept = [row for row in saved['rows'] if key(row) not in new]
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {'machine': machine, 'rows': sorted([*kept, *rows], key=key)}
    path.write_text(json.dumps(content, indent=1) + '\n', encoding='utf-8')


def key(row: dict[str, Any]) -> tuple:
    """The order of the table."""
    return list(MODELS).index(row['model']), row['batch'], list(ENGINES).index(row['form']), row['size']


def markdown(results: dict[str, Any]) -> str:
    """The table of all results, milliseconds of a batch, and the machine under it."""
    rows, machine = results['rows'], results['machine']
    sizes = sorted({row['size'] for row in rows})
    cells = {key(row): row for row in rows}
    lines = {key(row)[:3]: [row['model'], str(row['batch']), row['form']] for row in rows}
    for start, line in lines.items():
        for size in sizes:
            figures = cells.get((*start, size), {})
            line += [span(figures[kind]) if kind in figures else '' for kind in KINDS]
    heads = ['model', 'batch', 'form', *(f'{size} px, {kind}' for size in sizes for kind in KINDS)]
    warps, matmuls = ([row['calibration'][name] for row in rows] for name in ('warp_ms', 'matmul_ms'))
    versions = ', '.join(f'{name} {version}' for name, version in machine['versions'].items())
    notes = (
        f'{machine["cpu"]}, {machine["torch_threads"]} threads; {versions}. In the same runs: one warp '
        f'{min(warps):.2f} to {max(warps):.2f} ms, one matrix product {min(matmuls):.1f} to {max(matmuls):.1f} ms.'
    )
    return f'{table(heads, list(lines.values()))}\n\n{notes}'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--models', nargs='+', choices=MODELS, default=list(MODELS))
    parser.add_argument('--forms', nargs='+', choices=ENGINES, default=list(ENGINES))
    parser.add_argument('--sizes', nargs='+', type=int, default=[320, 640], help='sides of the pictures, px')
    parser.add_argument('--batch', type=int, default=1, help='pictures at a time (default: 1)')
    parser.add_argument('--save', nargs='?', const=RESULTS, type=Path, help='put the rows into a file of results')
    parser.add_argument('--markdown', action='store_true', help='write what is saved into docs/benchmarks.md')
    parser.add_argument('--no-run', action='store_true', help='measure nothing')
    args = parser.parse_args()
    if args.batch < 1 or any(size < 32 or size % 32 for size in args.sizes):
        parser.error(f'--batch must be 1 or more and --sizes multiples of 32, got {args.batch} and {args.sizes}')
    return args


def main() -> None:
    args = parse_args()
    if not args.no_run:
        rows = [row for model in args.models for row in measure_model(model, args.forms, args.sizes, args.batch)]
        report('inference', rows)
        if args.save:
            save(rows, args.save)
    if args.markdown:
        update('inference', markdown(json.loads((args.save or RESULTS).read_text(encoding='utf-8'))))


if __name__ == '__main__':
    main()
