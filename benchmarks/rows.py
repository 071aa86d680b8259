"""From the figures of each benchmark to its table in the documents, beside the reference figures where there are any.

Reference figures were measured once, on another machine of the same kind (two cores of an AMD EPYC, torch 2.13 for the
CPU), on which one warp took 1.36 ms and one matrix product 12 ms. So they are compared in warps and matrix products.
"""

from collections.abc import Mapping
from typing import Any

from tables import span, table

Figures = Mapping[str, Any]
REFERENCE_WARP_MS, REFERENCE_MATMUL_MS = 1.36, 12.0
REFERENCE = 'measured on another machine of the same kind, where a warp took 1.36 ms and a matrix product 12 ms'
# trainer -> samples a second by (side, where the images come from)
REFERENCE_SAMPLES = {
    'Ultralytics YOLOv5': {(640, 'ram'): 249, (640, 'disk'): 129, (320, 'ram'): 897, (320, 'disk'): 241},
    'MMYOLO': {(640, 'ram'): 128, (640, 'disk'): 85, (320, 'ram'): 262, (320, 'disk'): 111},
}
REFERENCE_LOSS_MS = {'Ultralytics YOLOv5': 113, 'MMYOLO': 205}


def pipeline(figures: Figures) -> str:
    """Samples a second of each case, and in warps."""
    rows, memory = [], []
    for name, case in figures.items():
        side, _, kind = name.partition(' ')
        if 'warps_per_sample' in case:
            warps, times = case['warps_per_sample'], case['sample_ms']
            warps_of = f'{warps["median"]:.2f} ({warps["min"]:.2f}-{warps["max"]:.2f})'
            time = f'{times["median"]:.2f} ({times["min"]:.2f}-{times["max"]:.2f})'
            rows.append([f'{side} px', f'mmyolo_ext, {kind}', f'{case["samples_per_second"]:.0f}', time, warps_of])
        elif 'mosaics' in case:
            memory.append(
                f'Memory over {case["mosaics"]:,} mosaics of {side} px: {case["mb_before"]:.0f} MB before, '
                f'{case["mb_at_most"]:.0f} MB at most ({case["growth"]:+.1%}).'
            )
    sides = {int(name.partition(' ')[0]) for name in figures}
    for trainer, measured in REFERENCE_SAMPLES.items():
        for (side, kind), samples in measured.items():
            if side in sides:
                ms = 1e3 / samples
                cells = [
                    f'{side} px',
                    f'{trainer}, {kind} *',
                    f'{samples}',
                    f'{ms:.2f}',
                    f'{ms / REFERENCE_WARP_MS:.2f}',
                ]
                rows.append(cells)
    rows.sort(key=lambda row: -int(row[0].split()[0]))
    heads = ['input', 'training samples', 'a second', 'ms a sample', 'warps a sample']
    return _with_notes(table(heads, rows), f'\\* {REFERENCE}.', *memory)


def loss(figures: Figures) -> str:
    """Milliseconds and matrix products of each case."""
    rows = [
        [f'mmyolo_ext, {name}', span(case), f'{case["matmuls"]:.2f}', f'{case["spread"]:.0%}']
        for name, case in figures['cases'].items()
    ]
    # the reference is of this size and of 16 images
    comparable = figures['device'] == 'cpu' and figures['size'] == 640 and figures['classes'] == 80
    if comparable:
        for trainer, ms in REFERENCE_LOSS_MS.items():
            rows.append([f'{trainer}, batch 16 *', f'{ms}', f'{ms / REFERENCE_MATMUL_MS:.1f}', ''])
    text = table(['assign and loss, forward and backward', 'ms', 'matrix products', 'spread'], rows)
    note = f'{figures["size"]} px, {figures["classes"]} classes, 7.5 boxes per image.'
    return _with_notes(text, note + (f' \\* {REFERENCE}.' if comparable else ''))


def step(figures: Figures) -> str:
    """Whole steps against bare ones, and where the rest goes."""
    rows = [[name, *_step_cells(case), _parts(case)] for name, case in figures.items()]
    heads = ['step', 'whole, ms', 'bare, ms', 'whole / bare', 'images/s', 'matrix products', 'of it, ms']
    return table(heads, rows)


def epoch(figures: Figures) -> str:
    """One epoch, per step, and the time to the first step."""
    rows = [[name, *_step_cells(case), _parts(case)] for name, case in figures.items() if 'bare' in case]
    heads = ['epoch', 'a step, ms', 'bare, ms', 'epoch / bare', 'images/s', 'matrix products', 'of it, ms']
    parts = [table(heads, rows)] if rows else []
    if first := figures.get('first step'):
        seconds = [f'{first[name] / 1e3:.1f}' for name in ('median_ms', 'min_ms', 'max_ms')]
        parts.append(
            f'First step after {seconds[0]} s ({seconds[1]}-{seconds[2]}); first batch after '
            f'{first["batch_ready_ms"] / 1e3:.1f} s. The first process of all took '
            f'{first["first_of_all_ms"] / 1e3:.1f} s.'
        )
    return _with_notes(*parts)


def inference(figures: Figures) -> str:
    """Median milliseconds of a batch, to all anchors and to the detections, a line for each model and form."""
    kinds = ('network', 'detections')
    lines: dict[tuple, dict[tuple, str]] = {}
    for case in figures.values():
        cells = lines.setdefault((case['model'], case['form']), {})
        cells |= {(case['batch'], case['size'], kind): span(case[kind]).split()[0] for kind in kinds if kind in case}
    groups = sorted({(case['batch'], case['size']) for case in figures.values()})
    columns = [(*group, kind) for group in groups for kind in kinds]
    rows = [[*line, *(cells.get(column, '') for column in columns)] for line, cells in lines.items()]
    return table(['model', 'form', *(f'{batch} x {size} px, {kind}' for batch, size, kind in columns)], rows)


def evaluation(figures: Figures) -> str:
    """Ours against pycocotools."""
    rows = [
        [
            name,
            *(f'{span(_seconds(case[who]))}' for who in ('ours', 'pycocotools')),
            f'{case["times_faster"]:.2f}',
            'yes' if case['equal'] else 'NO',
        ]
        for name, case in figures.items()
        if isinstance(case, Mapping)
    ]
    text = table(['COCO evaluation', 'ours, s', 'pycocotools, s', 'times faster', 'equal figures'], rows)
    return _with_notes(text, f'{figures["images"]:,} images, {figures["boxes"]} boxes on each.')


def nms(figures: Figures) -> str:
    """Every contestant on each case."""
    known = list(dict.fromkeys(who for case in figures.values() for who in case if isinstance(case[who], Mapping)))
    rows = [
        [name, str(case['kept']), *(_contestant(case.get(who)) for who in known)] for name, case in figures.items()
    ]
    return table(['boxes', 'kept', *(f'{who}, ms' for who in known)], rows)


def _contestant(times: Figures | None) -> str:
    if times is None:
        return ''
    other = times.get('kept_otherwise', 0)
    return span(times).split()[0] + (f', {other} kept otherwise' if other else '')


def _step_cells(case: Figures) -> list[str]:
    ratio = case['ratio']
    return [
        span(case),
        span(case['bare']),
        f'{ratio["median"]:.3f} ({ratio["min"]:.3f}-{ratio["max"]:.3f})',
        f'{case["images_per_second"]:.1f}',
        f'{case["median_ms"] / case["matmul_ms"]:.1f}',
    ]


def _parts(case: Figures) -> str:
    return ', '.join(f'{name} {ms:.1f}' for name, ms in case.get('parts_ms', {}).items() if ms >= 0.05)


def _seconds(times: Figures) -> dict[str, float]:
    return {name: times[name] / 1e3 for name in ('median_ms', 'min_ms', 'max_ms')}


def _with_notes(*parts: str) -> str:
    return '\n\n'.join(part for part in parts if part)
