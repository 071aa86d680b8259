"""What a training and a test show on the screen, beside what the log file holds."""

import json
import logging
import re
import subprocess

import pytest
from forked import run_python
from mmengine.logging import MMLogger
from tiny_coco import CLASSES, REPO, make_tiny_coco, write_user_config

from mmyolo_ext.engine.console import quieten, short, without_stderr

NOISE = ('OneDL', 'creating index', 'DONE', 'System environment', 'Config:', 'Hooks will', 'copypaste', 'Exp name')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """What ``tools/train.py`` printed, and its work dir."""
    folder = tmp_path_factory.mktemp('run')
    extra = "log_level = 'INFO'\nrecipe = 'auto'"
    config = write_user_config(folder / 'mine.py', make_tiny_coco(folder / 'data'), extra=extra)
    done = run_python(REPO / 'tools' / 'train.py', config, '--work-dir', folder / 'work', cwd=folder)
    assert done.returncode == 0, done.stderr
    return done, folder / 'work'


def test_a_short_summary_then_progress(trained):
    done, work_dir = trained
    assert not any(noise in done.stdout + done.stderr for noise in NOISE), done.stdout
    assert 'Traceback' not in done.stderr
    lines = done.stdout.splitlines()
    first = next(number for number, line in enumerate(lines) if 'Epoch(train) [1]' in line)
    summary = '\n'.join(lines[:first])
    assert first <= 25
    # model, data, recipe, effective batch and rate, work dir
    assert re.search(r'Model mine: YOLOv5CSPDarknet, YOLOv5PAFPN, YOLOv5Head; [\d,]+ parameters, ', summary)
    for part in ('train.json: kept', 'val.json: kept', 'recipe: ', 'Effective rate: ', f'Work dir {work_dir}'):
        assert part in summary, part


def test_one_table_for_each_validation(trained):
    done, work_dir = trained
    lines = done.stdout.splitlines()
    tables = [number for number, line in enumerate(lines) if line.split()[:3] == ['AP', 'AP50', 'AP75']]
    assert len(tables) == 2 and all('Epoch(val) [' in lines[number - 1] for number in tables)
    assert lines[tables[0]].split()[3:] == ['small', 'medium', 'large']
    (scalars,) = work_dir.glob('*/vis_data/scalars.json')
    rows = [row for row in map(json.loads, scalars.read_text().splitlines()) if 'coco/bbox_mAP' in row]
    for number, row in zip(tables, rows, strict=True):
        # boxes have sides below 32 px: there are none of medium or large size
        expected = [f'{row[f"coco/bbox_mAP{suffix}"]:.4f}' for suffix in ('', '_50', '_75', '_s')]
        assert lines[number + 1].split() == [*expected, '-', '-']
    # the scores of classes are in the files, and not on the screen
    assert 'red_precision' not in done.stdout and all(f'coco/{name}_precision' in rows[0] for name in CLASSES)


def test_the_log_file_holds_everything(trained):
    _, work_dir = trained
    (log,) = work_dir.glob('*/*.log')
    text = log.read_text()
    for part in ('System environment', 'Config:\n', 'Hooks will be executed', 'coco/red_precision', 'share_obj'):
        assert part in text, part
    assert '| category' in text  # the table of classes


def test_lines_of_the_log_are_shortened():
    line = (
        'Epoch(val) [3][12/12]    coco/traffic cone_precision: 0.12  coco/bbox_mAP: 0.4120  coco/bbox_mAP_50: 0.7000'
        '  coco/bbox_mAP_75: 0.4000  coco/bbox_mAP_l: -1.0000  other/f1: 0.5000  data_time: 0.0100  time: 0.2000'
    )
    head, names, scores = short(line).splitlines()
    assert head == 'Epoch(val) [3][12/12]  other/f1: 0.5000  time: 0.2000'
    assert names.split() == ['AP', 'AP50', 'AP75', 'large'] and scores.split() == ['0.4120', '0.7000', '0.4000', '-']
    line = 'Epoch(train) [1][3/3]  base_lr: 6.8e-04 lr: 6.8e-04  eta: 0:00:00  loss: 0.18  share_cls: 0.2'
    assert short(line) == 'Epoch(train) [1][3/3]  lr: 6.8e-04  eta: 0:00:00  loss: 0.18'
    assert short('a warning  of a user: 3') == 'a warning  of a user: 3'


@pytest.mark.parametrize(('level', 'shown'), [('DEBUG', True), ('INFO', False)])
def test_the_log_level_decides(level, shown, capsys):
    logger = MMLogger(f'console {level}', log_level=level)
    quieten(logger)
    quieten(logger)  # a second runner may find the logger of the first
    record = logging.LogRecord('x', logging.INFO, 'mmengine/runner/runner.py', 1, 'Config:', (), None, '_log_env')
    warning = logging.LogRecord('x', logging.WARNING, 'mmengine/runner/runner.py', 1, 'Look', (), None, '_log_env')
    for one in (record, warning):
        logger.handle(one)
    printed = capsys.readouterr().out
    assert ('Config:' in printed) == shown and printed.count('Look') == 1 and 'WARNING' in printed


def test_programs_started_for_the_log_do_not_write_on_the_screen(capfd):
    with without_stderr():
        subprocess.run('no_such_compiler --version', shell=True, check=False)
    assert capfd.readouterr().err == ''
    subprocess.run('no_such_compiler --version', shell=True, check=False)
    assert 'no_such_compiler' in capfd.readouterr().err
