"""Fill ``docs/benchmarks/index.md`` with the results of :file:`run.sh`: a table and the machine for each benchmark.

::

    python benchmarks/page.py [loss step ...] [--results DIR] [--doc FILE] [--note TEXT] [--keep NAME < LINE]

``--keep`` stores the last line of JSON that a benchmark printed among the results.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rows import epoch, evaluation, inference, loss, nms, pipeline, step
from tables import DOC, update

RESULTS = Path(__file__).parent / 'results'
BENCHMARKS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    'pipeline': pipeline,
    'loss': loss,
    'step': step,
    'epoch': epoch,
    'inference': inference,
    'evaluation': evaluation,
    'nms': nms,
}
ON_CARD = ('loss', 'step', 'epoch', 'inference')


def text_of(name: str, result: Mapping[str, Any]) -> str:
    """What stands between the markers of a benchmark: its table, then the machine and the calibrations."""
    card = name in ON_CARD and result['figures'].get('device') != 'cpu'
    return f'{BENCHMARKS[name](result["figures"])}\n\n{machine_of(result, card)}'


def machine_of(result: Mapping[str, Any], card: bool) -> str:
    """The line under a table, which names the card if it took part."""
    machine = result['machine']
    device = f'{machine["card"]}, ' if machine['card'] and card else ''
    versions = ', '.join(f'{name} {version}' for name, version in machine['versions'].items() if version)
    times = [result['calibration'], *(case['calibration'] for case in cases_of(result) if 'calibration' in case)]
    warp, matmul = (
        ' to '.join(f'{value:.3g}' for value in sorted({min(values), max(values)}))
        for values in ([one[name] for one in times] for name in ('warp_ms', 'matmul_ms'))
    )
    return (
        f'{device}{machine["cpu"]}, {machine["torch_threads"]} of {machine["cores"]} cores; {versions}. '
        f'In the same run: one warp {warp} ms, one matrix product {matmul} ms.'
    )


def cases_of(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The dicts among the figures, one a case."""
    return [case for case in result['figures'].values() if isinstance(case, Mapping)]


def last_line(text: str) -> dict[str, Any]:
    """The last line that is a benchmark's.

    Raises:
        ValueError: none is.
    """
    for line in reversed(text.splitlines()):
        try:
            result = json.loads(line)
        except ValueError:
            continue
        if isinstance(result, dict) and {'benchmark', 'figures', 'machine', 'calibration'} <= result.keys():
            return result
    raise ValueError('the benchmark printed no line of figures')


def keep(name: str, text: str, results: Path) -> None:
    """Put a benchmark's line among the results, laid out to be read and compared."""
    results.mkdir(parents=True, exist_ok=True)
    file = results / f'{name}.json'
    file.write_text(json.dumps(last_line(text), indent=1) + '\n', encoding='utf-8')


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*', metavar='benchmark', help=f'of {", ".join(BENCHMARKS)}; all by default')
    parser.add_argument('--results', type=Path, default=RESULTS)
    parser.add_argument('--doc', type=Path, default=DOC)
    parser.add_argument('--note', help='put beneath each of these tables')
    parser.add_argument('--keep', metavar='NAME', choices=BENCHMARKS)
    options = parser.parse_args()
    if unknown := set(options.names) - BENCHMARKS.keys():
        parser.error(f'benchmarks are {", ".join(BENCHMARKS)}, got {", ".join(sorted(unknown))}')
    try:
        if options.keep:
            keep(options.keep, sys.stdin.read(), options.results)
        for name in options.names or ([] if options.keep else BENCHMARKS):
            file = options.results / f'{name}.json'
            if file.is_file() or options.names:
                text = text_of(name, json.loads(file.read_text(encoding='utf-8')))
                update(name, f'{text}\n\n{options.note}' if options.note else text, options.doc)
    except (ValueError, OSError) as fault:
        sys.stderr.write(f'error: {fault}\n')
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
