"""From labels to boxes of an ONNX file in four commands, without writing a config."""

import json
from pathlib import Path

import pytest
from data_formats import make_yolo_roboflow
from forked import run_python

pytestmark = pytest.mark.slow


def command(folder: Path, *words: object) -> str:
    done = run_python('-m', 'mmyolo_ext', *words, cwd=folder)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def train(folder: Path, data: Path) -> Path:
    small = ('--epochs', 1, '--batch-size', 2, '--img-scale', 64, '--cfg-options', 'train_dataloader.num_workers=0')
    command(folder, 'train', 'yolov5_n', data, *small, 'train_dataloader.persistent_workers=False')
    (checkpoint,) = folder.glob('work_dirs/*/best_*.pth')
    return checkpoint


def report(work_dir: Path) -> dict:
    """Return the numbers of the report that a run has left."""
    assert (work_dir / 'report/index.html').stat().st_size < 5e6
    return json.loads((work_dir / 'report/report.json').read_text())


def test_from_a_data_yaml_to_boxes_in_onnx(tmp_path: Path) -> None:
    data = make_yolo_roboflow(tmp_path / 'bees')
    checkpoint = train(tmp_path, data)
    assert checkpoint.parent.name == 'yolov5_n_bees'
    of_training = report(checkpoint.parent)
    assert of_training['facts']['split'] == 'validation' and of_training['facts']['best epoch'] == '1 of 1'
    assert 'AP50' in command(tmp_path, 'test', checkpoint)
    of_test = report(checkpoint.parent)
    assert json.loads((checkpoint.parent / 'report_validation/report.json').read_text()) == of_training
    assert of_test['facts']['split'] == 'test' and of_test['ap'] == pytest.approx(of_training['ap'], abs=1e-6)
    command(tmp_path, 'export', checkpoint, '--dynamic', '--image', tmp_path / 'bees/val/images/5.png')
    (exported,) = tmp_path.glob('work_dirs/**/*.onnx')
    for model in (checkpoint, exported):
        command(tmp_path, 'predict', model, 'bees/val/images', '--score-thr', 0.001, '--out-dir', model.suffix[1:])
    found = [json.loads((tmp_path / name / 'predictions.json').read_text()) for name in ('pth', 'onnx')]
    assert [Path(image['file']).name for image in found[0]] == ['5.png', '6.png']
    for one, other in zip(*found, strict=True):
        best = [max(box['score'] for box in image['boxes']) for image in (one, other)]
        assert one['file'] == other['file'] and best[0] == pytest.approx(best[1], abs=1e-3)
