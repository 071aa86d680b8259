"""Ctrl-C and SIGTERM in commands other than training: exit code, last line, and no half of a file."""

import csv
import json
import os
import shutil
import signal
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from tiny_coco import make_tiny_coco

from mmyolo_ext.apis import exporting
from mmyolo_ext.apis.results import Detections
from mmyolo_ext.cli import check, convert, predict, quantize
from mmyolo_ext.cli.common import tool
from mmyolo_ext.datasets import image_facts
from mmyolo_ext.export.formats import Options

SIGNALS = [(signal.SIGINT, 130, 'Interrupted'), (signal.SIGTERM, 143, 'Stopped by SIGTERM')]
both = pytest.mark.parametrize(('number', 'code', 'line'), SIGNALS)


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    return make_tiny_coco(tmp_path_factory.mktemp('interrupted') / 'data')


def files_of(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob('*'))


class FakeDetector:
    """Finds one box in each image; this process gets a signal in front of image ``at``."""

    number, at = 0, 3

    def __init__(self, *args, **options):
        self.names = ('red', 'blue')

    def __call__(self, images, score_thr):
        for index in range(5):
            if index == self.at:
                os.kill(os.getpid(), self.number)
            image = np.zeros((8, 8, 3), np.uint8)
            found = np.array([[1.0, 1, 5, 5]]), np.array([0.9]), np.array([0])
            yield Detections(*found, self.names, (8, 8), image, index, index / 5)


@both
@pytest.mark.parametrize('model', ['best.pth', 'best.onnx'])  # the second one without torch and the decorator
def test_prediction_leaves_whole_files(model, number, code, line, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(predict, 'Detector', FakeDetector)
    monkeypatch.setattr(FakeDetector, 'number', number)
    before = signal.getsignal(signal.SIGTERM)
    words = [model, str(data / 'val/000.png'), '--formats', 'json,coco,csv', '--out-dir', str(tmp_path)]
    with pytest.raises(SystemExit) as end:
        predict.main(words)
    assert end.value.code == code and signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().err.strip() == f'{line}; what was found so far is in {tmp_path}'
    assert [image['frame'] for image in json.loads((tmp_path / 'predictions.json').read_text())] == [0, 1, 2]
    coco = json.loads((tmp_path / 'coco.json').read_text())
    assert (
        [entry['image_id'] for entry in coco['annotations']] == [image['id'] for image in coco['images']] == [1, 2, 3]
    )
    assert len(list(csv.reader((tmp_path / 'predictions.csv').open()))) == 4
    film = cv2.VideoCapture(str(tmp_path / '000.mp4'))
    assert [film.read()[0] for _ in range(4)] == [True, True, True, False]


def test_ctrl_c_ends_a_camera_not_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(predict, 'Detector', FakeDetector)
    monkeypatch.setattr(FakeDetector, 'number', signal.SIGINT)
    predict.main(['best.onnx', '0', '--out-dir', str(tmp_path)])
    assert '0: 3 frames, 3 boxes' in capsys.readouterr().out
    monkeypatch.setattr(FakeDetector, 'at', 0)  # before its first frame: nothing would be left
    with pytest.raises(SystemExit) as end:
        predict.main(['best.onnx', '0', '--out-dir', str(tmp_path)])
    assert end.value.code == 130


@both
def test_no_part_of_a_data_set_stays(number, code, line, data, tmp_path, monkeypatch, capsys):
    copied = []

    def copy(source, target):
        if len(copied) == 4:
            os.kill(os.getpid(), number)
        copied.append(target)
        Path(target).write_bytes(Path(source).read_bytes())

    monkeypatch.setattr(shutil, 'copyfile', copy)
    commands = [
        (convert.main, ['--to', 'yolo', '--out', str(tmp_path / 'new')]),
        (convert.main, ['--to', 'coco', '--out', str(tmp_path / 'empty')]),
        (check.main, ['--fix', str(tmp_path / 'new')]),
    ]
    (tmp_path / 'empty').mkdir()
    for main, options in commands:
        copied.clear()
        with pytest.raises(SystemExit) as end:
            main([str(data), *options])
        assert end.value.code == code and len(copied) == 4
        assert capsys.readouterr().err.strip().splitlines()[-1] == f'{line}; no file was written'
        assert files_of(tmp_path) == ['empty']
    (tmp_path / 'empty/mine').touch()  # and what was there before is not removed
    with pytest.raises(SystemExit):
        convert.main([str(data), '--to', 'coco', '--out', str(tmp_path / 'empty')])
    assert files_of(tmp_path) == ['empty', 'empty/mine']


@both
def test_a_check_stops_at_once(number, code, line, data, monkeypatch, capsys):
    read = []

    def inspect(path):
        read.append(path)
        time.sleep(0.01)

    def with_bar(items, *_):
        for index, item in enumerate(items):
            yield item
            if index == 5:
                os.kill(os.getpid(), number)

    monkeypatch.setattr(image_facts, 'inspect', inspect)
    monkeypatch.setattr(image_facts, 'with_bar', with_bar)
    with pytest.raises(SystemExit) as end:
        tool(lambda: image_facts.inspect_images([f'{index}.jpg' for index in range(500)]))()
    assert end.value.code == code and capsys.readouterr().err.strip() == line and len(read) < 100


@both
def test_no_part_of_an_export_stays(number, code, line, data, tmp_path, monkeypatch, capsys):
    def write(*args):
        file = next(arg for arg in args if isinstance(arg, Path))
        file.write_bytes(b'half')
        os.kill(os.getpid(), number)

    monkeypatch.setattr(exporting, 'write', write)
    monkeypatch.setattr(exporting, 'Detector', lambda *args, **options: SimpleNamespace(model=None, classes=()))
    monkeypatch.setattr(exporting, 'letterbox_of', lambda cfg: ({}, (64, 64)))
    export = tool(partial(exporting.export_detector, image=data / 'val/000.png'), left='no file was written')
    with pytest.raises(SystemExit) as end:
        export({}, 'a.pth', tmp_path / 'a.onnx', Options())
    assert end.value.code == code and capsys.readouterr().err.strip() == f'{line}; no file was written'
    monkeypatch.setattr(quantize, 'ExportedDetector', lambda file: None)
    monkeypatch.setattr(quantize, 'load_config', lambda *args, **options: None)
    monkeypatch.setattr(quantize, 'quantize', write)
    with pytest.raises(SystemExit) as end:
        quantize.main([str(tmp_path / 'a.onnx'), 'mine.py', '--folder', str(data / 'val')])
    assert end.value.code == code and capsys.readouterr().err.strip() == f'{line}; no file was written'
    assert files_of(tmp_path) == []
