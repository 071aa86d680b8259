"""Trainings of two processes, started as users start them, that are killed, restarted and end alike."""

import json
import os
import re
import sys

import pytest
from launching import PATHS, assert_same, kill, run, weights
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from shifted_metric import shifted
from tiny_coco import REPO, write_user_config

pytestmark = pytest.mark.slow


def test_two_ranks_write_one_report_of_all_images(undisturbed):
    folder, _ = undisturbed
    content = json.loads((folder / 'data/val.json').read_text())
    expected = [
        {'image_id': image['id'], 'category_id': label + 1, 'score': score}
        | {'bbox': [xyxy[0], xyxy[1], xyxy[2] - xyxy[0], xyxy[3] - xyxy[1]]}
        for image in content['images']
        for xyxy, score, label in shifted(content, image['id'])
    ]
    truth = COCO(str(folder / 'data/val.json'))
    evaluation = COCOeval(truth, truth.loadRes(expected), 'bbox')
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ap = evaluation.stats[0]
    (log,) = (folder / 'work').glob('*/*.log')
    logged = [float(text) for text in re.findall(r'coco/bbox_mAP: ([\d.]+)', log.read_text())]
    numbers = json.loads((folder / 'work/report/report.json').read_text())
    detections = json.loads((folder / 'work/report/detections.json').read_text())
    assert logged == [pytest.approx(ap, abs=6e-4)] and 0.1 < ap < 0.9  # the log has three decimals
    assert numbers['ap'] == pytest.approx(ap, abs=1e-9) and numbers['facts']['processes'] == 2
    # 5 images on 2 ranks: one is evaluated twice and counts once
    assert sorted(one['image_id'] for one in detections) == sorted(one['image_id'] for one in expected)
    assert log.read_text().count('Report: ') == 1 and not list((folder / 'work').glob('report_*'))


def test_a_killed_rank_is_restarted_and_the_training_ends_as_if_undisturbed(undisturbed, tmp_path):
    folder, expected = undisturbed
    config = write_user_config(tmp_path / 'mine.py', folder / 'data', extra=kill(tmp_path, iteration=5, rank=1))
    script = REPO / 'tools' / 'dist_train.sh'
    output = run(['bash', script, config, 2, '--work-dir', tmp_path / 'work'], PYTHONPATH=PATHS, MAX_RESTARTS=1)
    assert re.search(r'restart 1 of 1: process 1 on \S+ was killed by SIGKILL', output)
    # At least the first epoch was not repeated.
    assert re.search(r'Resumed from \S+: 1 epochs, [345] iterations', output)
    assert_same(weights(tmp_path / 'work'), expected)


# Starts the tasks here, with the variables that slurm sets on a node; of a test it only prints the command.
SRUN = f"""#!{sys.executable}
import os, subprocess, sys

print('srun', *sys.argv[1:], flush=True)
tasks = int(next(word for word in sys.argv if word.startswith('--ntasks=')).partition('=')[2])
command = sys.argv[next(index for index, word in enumerate(sys.argv) if index and not word.startswith('--')) :]
if any('test' in os.path.basename(word) for word in command):
    sys.exit(0)
slurm = {{'SLURM_NTASKS': tasks, 'SLURM_NODELIST': 'localhost', 'SLURM_JOB_ID': os.getpid()}}
started = []
for task in range(tasks):
    own = {{**slurm, 'SLURM_PROCID': task, 'SLURM_LOCALID': task}}
    started.append(subprocess.Popen(command, env={{**os.environ, **{{name: str(own[name]) for name in own}}}}))
sys.exit(max(process.wait() for process in started))
"""


def test_slurm_trains_as_torchrun_does(undisturbed, tmp_path):
    folder, expected = undisturbed
    srun = tmp_path / 'bin' / 'srun'
    srun.parent.mkdir()
    srun.write_text(SRUN)
    srun.chmod(0o755)
    variables = {
        'PYTHONPATH': PATHS,
        'PATH': f'{srun.parent}:{os.environ["PATH"]}',
        'GPUS': 2,
        'GRES': '',
        'SRUN_ARGS': '--quiet',
    }
    config, work = folder / 'mine.py', tmp_path / 'work'
    tasks = 'srun --partition=partition --job-name=job --ntasks=2 --ntasks-per-node=2 --cpus-per-task=5'
    script = REPO / 'tools' / 'slurm_train.sh'
    output = run(['bash', script, 'partition', 'job', config, work], **variables)
    assert tasks in output
    assert_same(weights(work), expected)
    script, checkpoint = REPO / 'tools' / 'slurm_test.sh', work / 'epoch_2.pth'
    output = run(['bash', script, 'partition', 'job', config, checkpoint], **variables)
    assert re.search(rf'{tasks} .*/test\.py {config} {checkpoint} .*--launcher[= ]slurm', output)
