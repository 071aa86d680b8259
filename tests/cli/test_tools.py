"""The tools as users start them: train, test, predict, in one process and in two."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from forked import run_python
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
    config = write_user_config(folder / 'mine.py', data, extra="log_level = 'INFO'")
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


def test_two_processes_count_each_image_once_and_agree_with_one(trained):
    folder, _ = trained
    common = ('--work-dir', folder / 'test', '--cfg-options', 'log_level=INFO')
    checkpoint = folder / 'work' / 'epoch_2.pth'
    one = tool('test.py', folder / 'mine.py', checkpoint, '--out', folder / 'one.pkl', *common)
    script = REPO / 'tools' / 'dist_test.sh'
    # batches of one on two ranks share their rectangles as batches of two on one rank do
    two = run(
        *('bash', script, folder / 'mine.py', checkpoint, 2, '--out', folder / 'two.pkl'),
        *(*common, 'batch_size=1'),
    )
    assert figures(one) == figures(two) and 'AP50' in figures(one)
    single, double = predictions(folder / 'one.pkl'), predictions(folder / 'two.pkl')
    assert single.keys() == double.keys() == {1, 2, 3, 4, 5}
    for image_id in single:
        torch.testing.assert_close(single[image_id]['scores'], double[image_id]['scores'], rtol=1e-4, atol=1e-5)


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
    script = REPO / 'tools' / 'dist_train.sh'
    output = run('bash', script, config, 2, '--work-dir', tmp_path / 'work', '--cfg-options', 'batch_size=1')
    assert 'batch 1 x 2 rank(s) x 32 iteration(s)' in output and 'Epoch(train) [2][3/3]' in output
    saved = torch.load(tmp_path / 'work' / 'epoch_2.pth', weights_only=False)['state_dict']
    assert all(value.isfinite().all() for value in saved.values())


@pytest.mark.parametrize(('script', 'arguments'), [('dist_train.sh', ['c.py']), ('dist_test.sh', ['c.py', 'x.pth'])])
def test_scripts_without_their_arguments_say_how_they_are_used(script, arguments):
    assert 'usage: bash tools/dist_' in run('bash', REPO / 'tools' / script, *arguments, code=2)
    assert "PROCESSES must be a whole number of at least 1, got 'two'" in run(
        'bash', REPO / 'tools' / script, *arguments, 'two', code=2
    )


def test_an_error_in_two_processes_is_said_once(tmp_path):
    script = REPO / 'tools' / 'dist_train.sh'
    config = REPO / 'configs' / 'yolov5' / 'yolov5_n_320_bccd.py'
    output = run('bash', script, config, 2, '--cfg-options', 'batchsize=3', code=2)
    assert output.count("did you mean 'batch_size'?") == 1 and 'Traceback' not in output
    assert re.search(r'stopped: process 0 on \S+ ended with code 2; its message is above$', output.strip())
