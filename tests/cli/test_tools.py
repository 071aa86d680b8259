"""The tools as users start them: train, test, predict, in one process and in two."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from forked import run_python, run_ranks_of
from tiny_coco import CLASSES, REPO, make_tiny_coco, write_user_config

pytestmark = pytest.mark.slow
ENVIRONMENT = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(REPO), 'PYTHON': sys.executable}


def run(*command: str | Path, code: int = 0) -> str:
    """Output and errors of a command, which must end with ``code``."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=ENVIRONMENT, timeout=300
    )
    text = done.stdout + done.stderr
    assert done.returncode == code, text[-3000:]
    return text


def tool(name: str, *arguments: str | Path, code: int = 0) -> str:
    done = run_python(REPO / 'tools' / name, *arguments)
    text = done.stdout + done.stderr
    assert done.returncode == code, text[-3000:]
    return text


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """(folder, output): a training of two epochs, validated after the second."""
    folder = tmp_path_factory.mktemp('tools')
    data = make_tiny_coco(folder / 'data')
    config = write_user_config(folder / 'mine.py', data, extra="log_level = 'INFO'\ndefault_hooks = dict(report=None)")
    return folder, tool('train.py', config, '--work-dir', folder / 'work', '--auto-scale-lr', '--amp')


def test_training_leaves_checkpoints_a_config_and_curves(trained):
    folder, output = trained
    work = folder / 'work'
    assert (work / 'epoch_2.pth').exists() and (work / 'curves.png').exists() and (work / 'mine.py').exists()
    assert 'kept 8 boxes on 6 images (2 background)' in output
    assert '--auto-scale-lr changes nothing here' in output and 'batch 2 x 1 rank(s) x 32 iteration(s)' in output
    assert 'Detected call of `scheduler.step()`' not in output
    saved = torch.load(work / 'epoch_2.pth', weights_only=False)
    assert saved['meta']['dataset_meta']['classes'] == CLASSES
    assert all(value.isfinite().all() for value in saved['state_dict'].values())


def predictions(path: Path) -> dict[int, dict]:
    samples = pickle.loads(path.read_bytes())
    assert len(samples) == len({sample['img_id'] for sample in samples})
    return {sample['img_id']: sample['pred_instances'] for sample in samples}


def figures(output: str) -> dict[str, str]:
    """Return the scores in the table that a test prints."""
    names, values = re.search(r'^( +AP +AP50 .*)\n(.*)$', output, re.MULTILINE).groups()
    return dict(zip(names.split(), values.split(), strict=True))


@pytest.fixture(scope='module')
def tested(trained):
    """Output of a test of the training, whose work dir is ``test``."""
    folder, _ = trained
    options = ('--work-dir', folder / 'test', '--out', folder / 'one.pkl', '--cfg-options', 'log_level=INFO')
    return tool('test.py', folder / 'mine.py', folder / 'work' / 'epoch_2.pth', *options)


def test_two_processes_count_each_image_once_and_agree_with_one(trained, tested):
    folder, _ = trained
    common = ('--work-dir', folder / 'test_2', '--cfg-options', 'log_level=INFO')
    checkpoint, one = folder / 'work' / 'epoch_2.pth', tested
    # batches of one on two ranks share their rectangles as batches of two on one rank do
    first, second = run_ranks_of(
        *(2, REPO / 'tools' / 'test.py', folder / 'mine.py', checkpoint, '--out', folder / 'two.pkl'),
        *(*common, 'batch_size=1'),
    )
    two = first.stdout + first.stderr
    assert first.returncode == second.returncode == 0, two + second.stderr
    assert figures(one) == figures(two) and 'AP50' in figures(one)
    single, double = predictions(folder / 'one.pkl'), predictions(folder / 'two.pkl')
    assert single.keys() == double.keys() == {1, 2, 3, 4, 5}
    for image_id in single:
        torch.testing.assert_close(single[image_id]['scores'], double[image_id]['scores'], rtol=1e-4, atol=1e-5)


# In place of Python: the tools leave what a real training and test left, or fail; programs in the script run.
PYTHON_OF_QUICKSTART = """#!/usr/bin/env bash
last="${@: -1}"
case "$*" in
    *datasets.digits*) echo noise; echo '1,300 scenes' ;;
    tools/train.py*) cp -r "$REAL/work/." "$4"; cat "$REAL/train.txt" ;;
    tools/test.py*) [[ -z "${FAILS:-}" ]] || { echo 'error: no such file'; exit 2; }
        mkdir -p "$last"; cp -r "$REAL/test/." "$last"; cat "$REAL/test.txt" ;;
    tools/predict.py*) mkdir -p "$last"; touch "$last/00000.jpg" ;;
    *) exec "$REAL_PYTHON" "$@" ;;
esac
"""


def test_quickstart_shows_the_scores_of_its_training_and_test(trained, tested, tmp_path, monkeypatch):
    folder, output = trained
    (folder / 'train.txt').write_text(output)
    (folder / 'test.txt').write_text(tested)
    python, tools = tmp_path / 'python', tmp_path / 'tools'
    tools.mkdir()
    shutil.copy(REPO / 'tools' / 'quickstart.sh', tools)
    (tools / 'setup_env.sh').write_text(f'echo {python}')
    python.write_text(PYTHON_OF_QUICKSTART)
    python.chmod(0o755)
    monkeypatch.setitem(ENVIRONMENT, 'REAL', str(folder))
    monkeypatch.setitem(ENVIRONMENT, 'REAL_PYTHON', sys.executable)
    seen = run('bash', tools / 'quickstart.sh')
    (work,) = (tmp_path / 'work_dirs' / 'quickstart').iterdir()
    assert '  1,300 scenes' in seen and 'noise' not in seen
    assert re.search(r'  epoch   2  step 3/3  ETA 0:00:00  loss \d', seen)
    ap, ap50 = (f'{float(figures(output)[name]):.2f}' for name in ('AP', 'AP50'))
    assert f'on validation scenes: mAP50 {ap50}  mAP50-95 {ap}\n' in seen
    for name in (next(work.glob('best_*.pth')).name, 'predictions', 'curves.png', 'train.log'):
        assert f' {work.relative_to(tmp_path) / name}\n' in seen
    ap, ap50 = (f'{float(figures(tested)[name]):.2f}' for name in ('AP', 'AP50'))
    assert seen.endswith(f'\nmAP50 {ap50}  mAP50-95 {ap}\n')
    assert 'Loads checkpoint by' not in tested  # MMEngine prints it
    again = run('bash', tools / 'quickstart.sh', '--retest')
    assert 'left out (--retest)' in again and again.endswith(seen.splitlines()[-1] + '\n')
    monkeypatch.setitem(ENVIRONMENT, 'FAILS', '1')
    assert 'step 4 of 5' in (text := run('bash', tools / 'quickstart.sh', '--retest', code=1))
    assert '    error: no such file\n' in text


def test_views_and_drawings(trained):
    folder, _ = trained
    arguments = ('--tta', '--show-dir', 'shown', '--work-dir', folder / 'tta')
    tool('test.py', folder / 'mine.py', folder / 'work' / 'epoch_2.pth', *arguments)
    assert len(list((folder / 'tta').glob('*/shown/*.png'))) == 5


def test_prediction_skips_and_counts_broken_images(trained):
    folder, _ = trained
    images = folder / 'images'
    images.mkdir()
    for name in ('a.jpg', 'b.jpg'):
        cv2.imwrite(str(images / name), np.full((50, 80, 3), 120, np.uint8))
    (images / 'b.jpg').write_bytes((images / 'b.jpg').read_bytes()[:-300])
    (images / 'notes.txt').touch()
    arguments = (folder / 'mine.py', folder / 'work' / 'epoch_2.pth', images, folder / 'data' / 'val' / '00[01].png')
    output = tool('predict.py', *arguments, '--out-dir', folder / 'out', '--device', 'cpu', '--score-thr', '0.0001')
    assert re.search(r'skipped: .*b\.jpg', output) and '3 images, 1 skipped' in output
    records = json.loads((folder / 'out' / 'predictions.json').read_text())
    assert [Path(record['file']).name for record in records] == ['a.jpg', '000.png', '001.png']
    assert sorted(file.name for file in (folder / 'out').glob('*.[jp]*g')) == ['000.png', '001.png', 'a.jpg']
    for box in records[0]['boxes']:
        assert 0 <= box['box'][0] <= box['box'][2] <= 80 and box['class'] == CLASSES[box['label']]


WITHOUT_MOSAIC = """
train_dataloader['sampler'] = dict(shuffle=False)
train_dataloader['dataset'] = dict(pipeline=[
    dict(type='mmyolo_ext.RandomAffine', size=(64, 64)), dict(type='PackDetInputs')])
log_level = 'INFO'
"""


def test_two_processes_train_though_one_never_sees_a_box(tmp_path):
    # rank 0 reads images 0, 2, 4, rank 1 reads 1, 3, 5
    data = make_tiny_coco(tmp_path / 'data', background=(1, 3, 5))
    config = write_user_config(tmp_path / 'mine.py', data, extra=WITHOUT_MOSAIC)
    options = ('--work-dir', tmp_path / 'work', '--cfg-options', 'batch_size=1')
    first, second = run_ranks_of(2, REPO / 'tools' / 'train.py', config, *options)
    output = first.stdout + first.stderr
    assert first.returncode == second.returncode == 0, output + second.stderr
    assert 'batch 1 x 2 rank(s) x 32 iteration(s)' in output and 'Epoch(train) [2][3/3]' in output
    saved = torch.load(tmp_path / 'work' / 'epoch_2.pth', weights_only=False)['state_dict']
    assert all(value.isfinite().all() for value in saved.values())


@pytest.mark.parametrize(('script', 'arguments'), [('dist_train.sh', ['c.py']), ('dist_test.sh', ['c.py', 'x.pth'])])
def test_scripts_without_their_arguments_say_how_they_are_used(script, arguments):
    assert 'usage: bash tools/dist_' in run('bash', REPO / 'tools' / script, *arguments, code=2)
    assert "PROCESSES must be a whole number of at least 1, got 'two'" in run(
        'bash', REPO / 'tools' / script, *arguments, 'two', code=2
    )


def test_dist_test_starts_the_ranks_of_a_test(monkeypatch):
    monkeypatch.setitem(ENVIRONMENT, 'PYTHON', 'echo')
    command = run('bash', REPO / 'tools' / 'dist_test.sh', 'c.py', 'x.pth', 2, '--out', 'two.pkl').split()
    assert Path(command[0]).name == 'launch.py' and '--nproc-per-node=2' in command
    test = next(word for word in command if word.endswith('tools/test.py'))
    assert command[command.index(test) + 1 :] == [*['c.py', 'x.pth', '--launcher', 'pytorch', '--out', 'two.pkl']]


def test_an_error_in_two_processes_is_said_once(tmp_path):
    script = REPO / 'tools' / 'dist_train.sh'
    config = REPO / 'configs' / 'yolov5' / 'yolov5_n_320_bccd.py'
    output = run('bash', script, config, 2, '--cfg-options', 'batchsize=3', code=2)
    assert output.count("did you mean 'batch_size'?") == 1 and 'Traceback' not in output
    assert re.search(r'stopped: process 0 on \S+ ended with code 2; its message is above$', output.strip())
