"""Bars of commands on a terminal, lines elsewhere."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from terminal import on_terminal, standard_error_on_terminal
from tiny_coco import make_tiny_coco

from mmyolo_ext import progress
from mmyolo_ext.apis.results import Detections
from mmyolo_ext.cli import check, convert, predict
from mmyolo_ext.coco_json import read_coco
from mmyolo_ext.evaluation.matching import match

NESTED = """
import sys
from mmyolo_ext.progress import bar, with_bar

for name in with_bar(['a', 'b'], 'Outer [x]'):
    for _ in with_bar(iter(range(3)), 'Inner', 3):
        pass
    print('printed', name)
with bar('Parts', 2) as advance:
    advance()
    advance()
print('rich' in sys.modules)
"""


def test_bars_on_a_terminal():
    text, plain = on_terminal(sys.executable, '-c', NESTED)
    for line in (
        r'Outer \[x\] .* 1/2 ',
        r'Outer \[x\] .* 2/2 ',
        'Inner .* 3/3 ',
        'Parts .* 2/2 ',
        'printed a',
        'printed b',
    ):
        assert re.search(line, plain), plain
    assert text.count('\x1b[?25h') == text.count('\x1b[?25l') == 2  # the cursor is back; one display, not one for each
    assert plain.rstrip().endswith('True')


def test_nothing_of_it_elsewhere():
    done = subprocess.run(
        [sys.executable, '-c', NESTED], capture_output=True, text=True, env={**os.environ, 'TERM': 'x'}
    )
    assert (done.stdout, done.stderr) == ('printed a\nprinted b\nFalse\n', '')
    _, plain = on_terminal(sys.executable, '-c', NESTED, RANK='1')
    assert plain.splitlines() == ['printed a', 'printed b', 'False']


def test_a_long_job_prints_lines(monkeypatch, capsys):
    clock = iter(range(0, 1000, 4))  # 4 s an item
    monkeypatch.setattr(progress.time, 'monotonic', lambda: next(clock))
    for _ in progress.with_bar(range(7), 'Reading images'):
        pass
    assert capsys.readouterr().err.splitlines() == ['Reading images: 3 of 7', 'Reading images: 6 of 7']
    for _ in progress.with_bar(iter(range(4)), 'Frames'):
        pass
    assert capsys.readouterr().err == 'Frames: 3\n'


def test_a_failure_ends_the_bar(monkeypatch):
    monkeypatch.setattr(progress, 'is_terminal', lambda stream: True)
    with pytest.raises(ValueError, match='broken'), progress.bar('Parts', 2):
        assert len(progress.ON_SCREEN) == 1
        raise ValueError('broken')
    assert progress.ON_SCREEN == []


class FakeDetector:
    """Finds nothing in an image, or in five frames of a film."""

    def __init__(self, *args, **options):
        self.names = ('red', 'blue')

    def __call__(self, images, score_thr):
        none = np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)
        for frame in range(5) if images[0].suffix == '.mp4' else (None,):
            yield Detections(*none, self.names, (16, 16), np.zeros((16, 16, 3), np.uint8), frame, frame)


def test_commands_show_bars(tmp_path, monkeypatch):
    data = make_tiny_coco(tmp_path / 'data')  # 6 and 5 images
    monkeypatch.setattr(predict, 'Detector', FakeDetector)
    film, image = tmp_path / 'film.mp4', data / 'val/000.png'
    writer = predict.open_writer(film, '', np.zeros((16, 16, 3), np.uint8))
    for _ in range(5):
        writer.write(np.zeros((16, 16, 3), np.uint8))
    writer.release()
    with standard_error_on_terminal(monkeypatch) as shown:
        convert.main([str(data), '--to', 'yolo', '--out', str(tmp_path / 'yolo')])
        with pytest.raises(SystemExit):  # with findings
            check.main([str(data)])
        predict.main(['best.onnx', str(film), str(image), '--no-draw', '--out-dir', str(tmp_path / 'out')])
        ground_truth = read_coco(str(data / 'val.json'))
        match(ground_truth, [{**box, 'score': 1.0} for box in ground_truth['annotations']])
    for line in (
        'Copying images .* 11/11 ',
        'Reading images .* 11/11 ',
        'film.mp4 .* 5/5 ',
        'Inputs .* 2/2 ',
        'Matching .* 4/4 ',
    ):
        assert re.search(line, shown[0]), shown[0]
    assert progress.ON_SCREEN == []
