"""The benchmarks page: the table of each benchmark, and run.sh, which continues after a failure."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))

import page
import rows

ROOT = Path(__file__).parents[2]

TIMES = {'median_ms': 60.0, 'min_ms': 50.0, 'max_ms': 80.0, 'spread': 0.5, 'repeats': 5, 'runs': 1}
STEP = {
    **TIMES,
    'bare': {**TIMES, 'median_ms': 48.0},
    'ratio': {'median': 1.25, 'min': 1.1, 'max': 1.4},
    'images_per_second': 266.67,
    'matmul_ms': 12.0,
    'parts_ms': {'loss': 6.04, 'EMA': 0.01},
}
MACHINE = {
    'cpu': 'Some CPU',
    'cores': 4,
    'torch_threads': 2,
    'card': 'Some Card',
    'versions': {'python': '3.11', 'onnxruntime': None},
}
CALIBRATION = {'warp_ms': 1.5, 'matmul_ms': 12.0}


def test_pipeline_beside_the_reference() -> None:
    span = {'median': 2.5, 'min': 2.4, 'max': 2.75}
    figures = {
        '320 ram': {'samples_per_second': 400.4, 'sample_ms': span, 'warps_per_sample': span},
        '320 memory': {'mosaics': 2000, 'mb_before': 400.0, 'mb_at_most': 404.0, 'growth': 0.01},
    }
    text = rows.pipeline(figures)
    assert '| 320 px | mmyolo_ext, ram | 400 | 2.50 (2.40-2.75) | 2.50 (2.40-2.75) |' in text
    # 897 samples a second: 1.115 ms, over 1.36 ms a warp
    assert '| 320 px | Ultralytics YOLOv5, ram * | 897 | 1.11 | 0.82 |' in text
    assert '640 px' not in text and '2,000 mosaics of 320 px: 400 MB before, 404 MB at most (+1.0%)' in text


def test_loss_beside_the_reference() -> None:
    case = {**TIMES, 'matmuls': 4.44}
    text = rows.loss({'device': 'cpu', 'size': 640, 'classes': 80, 'cases': {'yolov5, batch 16': case}})
    assert '| mmyolo_ext, yolov5, batch 16 | 60.0 (50.0-80.0) | 4.44 | 50% |' in text
    # 113 / 12 and 205 / 12
    assert '| Ultralytics YOLOv5, batch 16 * | 113 | 9.4 |' in text and '| MMYOLO, batch 16 * | 205 | 17.1 |' in text
    for device, size in (('cuda', 640), ('cpu', 320)):
        other = rows.loss({'device': device, 'size': size, 'classes': 80, 'cases': {'a': case}})
        assert 'MMYOLO' not in other and 'another machine' not in other


def test_steps_and_epochs() -> None:
    # 60 ms over 12 ms a matrix product; parts of less than 0.05 ms are left out
    line = '60.0 (50.0-80.0) | 48.0 (50.0-80.0) | 1.250 (1.100-1.400) | 266.7 | 5.0 | loss 6.0 |'
    assert f'| n, 320 px | {line}' in rows.step({'n, 320 px': STEP})
    first = {'median_ms': 8000.0, 'min_ms': 7000, 'max_ms': 9500, 'batch_ready_ms': 7900, 'first_of_all_ms': 12000}
    text = rows.epoch({'epoch': STEP, 'first step': first})
    assert f'| epoch | {line}' in text
    assert 'First step after 8.0 s (7.0-9.5); first batch after 7.9 s. The first process of all took 12.0 s.' in text
    assert rows.epoch({'first step': first}).startswith('First step')


def test_latency_has_a_line_for_each_form() -> None:
    case = {'model': 'n', 'form': 'PyTorch', 'size': 320, 'batch': 1, 'network': TIMES, 'detections': TIMES}
    other = {**case, 'size': 640}
    other.pop('network')
    lines = rows.inference({'a': case, 'b': other, 'c': {**case, 'batch': 8}}).splitlines()
    assert lines[0].startswith('| model | form | 1 x 320 px, network | 1 x 320 px, detections | 1 x 640 px, network |')
    assert lines[2] == '| n | PyTorch | 60.0 | 60.0 |  | 60.0 | 60.0 | 60.0 |'


def test_evaluation_and_nms() -> None:
    line = {'ours': TIMES, 'pycocotools': {**TIMES, 'median_ms': 12000.0}, 'times_faster': 4.0, 'equal': False}
    text = rows.evaluation({'images': 5000, 'boxes': 100, 'objects': 7, 'metric': line})
    assert '| metric | 0.06 (0.05-0.08) | 12.0 (0.1-0.1) | 4.00 | NO |' in text and '5,000 images' in text
    cases = {
        'few': {'kept': 7, 'ours': {**TIMES, 'kept_otherwise': 0}, 'opencv': {**TIMES, 'kept_otherwise': 2}},
        'many': {'kept': 9, 'ours': {**TIMES, 'kept_otherwise': 0}, 'passed': True},
    }
    lines = rows.nms(cases).splitlines()
    assert lines[0] == '| boxes | kept | ours, ms | opencv, ms |'
    assert lines[2] == '| few | 7 | 60.0 | 60.0, 2 kept otherwise |'
    assert lines[3] == '| many | 9 | 60.0 |  |'


def test_the_line_under_a_table_names_machine_card_and_calibrations() -> None:
    result = {'figures': {'a': STEP}, 'machine': MACHINE, 'calibration': CALIBRATION}
    line = page.text_of('step', result).splitlines()[-1]
    assert line == (
        'Some Card, Some CPU, 2 of 4 cores; python 3.11. In the same run: one warp 1.5 ms, one matrix product 12 ms.'
    )
    # benchmarks on the CPU do not name the card; all calibrations count
    case = {'calibration': {'warp_ms': 1.25, 'matmul_ms': 14.0}}
    assert page.machine_of({**result, 'figures': {'a': case}}, card=False).endswith(
        'python 3.11. In the same run: one warp 1.25 to 1.5 ms, one matrix product 12 to 14 ms.'
    )
    assert page.machine_of(result, card=False).startswith('Some CPU')


def test_what_is_kept_is_the_last_line_of_figures(tmp_path: Path) -> None:
    result = {'benchmark': 'loss', 'figures': {}, 'machine': MACHINE, 'calibration': CALIBRATION}
    page.keep('loss', f'a host prints\n{json.dumps(result)}\n{{"and": "more"}}\n', tmp_path / 'new')
    assert json.loads((tmp_path / 'new' / 'loss.json').read_text()) == result
    for text in ('', 'no figures\n[1, 2]\n'):
        with pytest.raises(ValueError, match='printed no line of figures'):
            page.keep('loss', text, tmp_path)
    assert not (tmp_path / 'loss.json').exists()


def test_the_page_shows_the_stored_results(tmp_path: Path) -> None:
    doc = tmp_path / 'page.md'
    shutil.copy(ROOT / 'docs' / 'benchmarks' / 'index.md', doc)
    subprocess.run([sys.executable, ROOT / 'benchmarks' / 'page.py', '--doc', doc], check=True)
    assert doc.read_text() == (ROOT / 'docs' / 'benchmarks' / 'index.md').read_text()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with run.sh, the page and instant benchmarks: *loss* works, *step* raises, *nms* prints no figures."""
    (tmp_path / 'tools').mkdir()
    (tmp_path / 'docs' / 'benchmarks').mkdir(parents=True)
    shutil.copytree(ROOT / 'benchmarks', tmp_path / 'benchmarks', ignore=shutil.ignore_patterns('results', '*.pyc'))
    (tmp_path / 'tools' / 'setup_env.sh').write_text(f'echo {sys.executable}\n')
    (tmp_path / 'docs' / 'benchmarks' / 'index.md').write_text(
        ''.join(f'<!-- {name}:begin -->old<!-- {name}:end -->\n' for name in page.BENCHMARKS)
    )
    loss = {'device': 'cpu', 'size': 640, 'classes': 80, 'cases': {}}
    for name, figures, code in (('loss', loss, 0), ('nms', {}, 1)):
        line = {'benchmark': name, 'figures': figures, 'machine': MACHINE, 'calibration': CALIBRATION}
        (tmp_path / 'benchmarks' / f'{name}.py').write_text(
            'import os, sys\n'
            "print('a host prints')\n"
            f"line = {json.dumps(line)!r}.replace('Some CPU', os.environ['OMP_NUM_THREADS'] + ' threads')\n"
            f'print(line)\nsys.exit({code})\n'
        )
    (tmp_path / 'benchmarks' / 'step.py').write_text("raise RuntimeError('broken')\n")
    return tmp_path


def run(project: Path, *names: str) -> subprocess.CompletedProcess:
    command = ['bash', project / 'benchmarks' / 'run.sh', *names]
    environment = {**os.environ, 'OMP_NUM_THREADS': '7'}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_failing_benchmark_is_named_and_the_others_go_on(project: Path) -> None:
    done = run(project, 'step', 'pipeline', 'nms', 'loss')
    assert done.returncode == 1 and 'failed: step nms' in done.stdout, done.stderr
    assert 'broken' in done.stderr and 'no line of figures' in done.stderr
    assert 'pipeline: skipped, BCCD is not in data/bccd' in done.stdout
    results = {path.stem for path in (project / 'benchmarks' / 'results').iterdir()}
    assert results == {'loss', 'nms'}
    text = (project / 'docs' / 'benchmarks' / 'index.md').read_text()
    assert '<!-- step:begin -->old<!-- step:end -->' in text and '<!-- pipeline:begin -->old' in text
    loss, nms = (text.split(f'<!-- {name}:begin -->')[1].split(':end')[0] for name in ('loss', 'nms'))
    assert 'Ultralytics' in loss and '2 threads' in loss and '1 threads' in nms


def test_only_benchmarks_that_there_are(project: Path) -> None:
    done = run(project, 'los')
    assert done.returncode == 2 and 'no benchmark los; there are: pipeline loss step' in done.stderr
    assert run(project, 'loss').returncode == 0
