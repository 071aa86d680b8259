"""Objects keep their number over the frames of a video of moving digits."""

import json
import sys

import cv2
import numpy as np
import pytest

from mmyolo_ext.apis.results import Detections
from mmyolo_ext.apis.tracking import track
from mmyolo_ext.cli import predict
from mmyolo_ext.datasets.digit_scenes import CLASSES

pytest.importorskip('trackers', reason='the package trackers is not installed: pip install trackers')
SIDE, FRAMES, SIZE = 240, 120, 24  # px, frames, px
# digit, first and last frame, start and speed (x, y) in px and px per frame; rows and columns cross
PATHS = [
    (3, 0, 120, (10, 20), (1.5, 0)),
    (3, 0, 120, (200, 60), (-1.4, 0)),
    (7, 10, 100, (20, 200), (1, -1.2)),
    (1, 30, 120, (110, 0), (0, 1.6)),
    (9, 60, 120, (30, 150), (2.5, 0)),
]


def boxes_at(frame):
    """Return rows (x1, y1, x2, y2, digit, number of the path) of the digits in a frame."""
    rows = []
    for number, (digit, first, last, (x, y), (dx, dy)) in enumerate(PATHS):
        if first <= frame < last:
            left, top = x + dx * (frame - first), y + dy * (frame - first)
            rows.append((left, top, left + SIZE, top + SIZE, digit, number))
    return np.array(rows)


def draw(frame):
    image = np.full((SIDE, SIDE, 3), 30, np.uint8)
    for left, _, _, bottom, digit, _ in boxes_at(frame):
        cv2.putText(image, str(int(digit)), (int(left) + 3, int(bottom) - 3), 0, 0.7, (255, 255, 255), 2)
    return image


class Finder:
    """A detector that knows where the digits are: it misses some, and scores others low, as one of PyTorch does."""

    names = CLASSES

    def __init__(self, *_, **__):
        self.rng = np.random.default_rng(0)

    def __call__(self, sources, score_thr):
        from mmyolo_ext.apis.inputs import inputs

        for one in inputs(sources):
            rows = boxes_at(one.frame)
            scores = self.rng.choice([0.9, 0.8, 0.15, 0.05], len(rows), p=[0.5, 0.35, 0.1, 0.05])
            order = np.argsort(-scores, kind='stable')
            order = order[scores[order] >= score_thr]
            boxes = (rows[:, :4] + self.rng.normal(0, 0.7, (len(rows), 4)))[order].astype(np.float32)
            labels = rows[order, 4].astype(int)
            yield Detections(boxes, scores[order], labels, CLASSES, (SIDE, SIDE), one.image, one.frame, one.time)


@pytest.fixture
def film(tmp_path):
    file = tmp_path / 'digits.avi'
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*'MJPG'), 25, (SIDE, SIDE))
    for frame in range(FRAMES):
        writer.write(draw(frame))
    writer.release()
    return file


def true_path(box, frame):
    """Return the number of the path whose box has the centre next to that of ``box``."""
    rows = boxes_at(frame)
    distance = np.hypot(*(rows[:, :2] + SIZE / 2 - (np.array(box[:2]) + box[2:]) / 2).T)
    return int(rows[distance.argmin(), 5])


def test_ids_are_kept_and_counts_right(film, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(predict, 'Detector', Finder)
    monkeypatch.setattr(predict, 'import_torch_model', lambda: None)
    monkeypatch.setattr(sys, 'argv', ['predict'])
    out = tmp_path / 'out'
    predict.main(['x.onnx', str(film), '--track', '--out-dir', str(out), '--formats', 'json,counts,yolo,csv,coco'])
    paths, untracked, seen = {}, 0, 0
    for record in json.loads((out / 'predictions.json').read_text()):
        for box in record['boxes']:
            seen += 1
            untracked += box['id'] is None
            if box['id']:
                paths.setdefault(box['id'], set()).add(true_path(box['box'], record['frame']))
    # one number per path for its whole length, also where paths cross
    assert sorted(next(iter(found)) for found in paths.values()) == [0, 1, 2, 3, 4]
    assert all(len(found) == 1 for found in paths.values()), paths
    # 120 + 120 + 90 + 90 + 60 = 480 digits, of which 5 % are below 0.1; a digit has its number in its second frame
    assert 440 < seen < 480 and untracked <= 15
    counts = json.loads((out / 'counts.json').read_text())[str(film)]
    assert counts['objects'] == {'1': 1, '3': 2, '7': 1, '9': 1}
    assert 'digits.avi: 120 frames, ' in (text := capsys.readouterr().out) and '5 objects (1 1, 2 3, 1 7, 1 9)' in text
    assert {line.split()[6] for line in (out / 'labels' / 'digits_000050.txt').read_text().splitlines()} <= set('1234')
    coco = json.loads((out / 'coco.json').read_text())
    assert {one['track_id'] for one in coco['annotations']} - {0} == {1, 2, 3, 4, 5}
    assert cv2.VideoCapture(str(out / 'digits.mp4')).get(cv2.CAP_PROP_FRAME_COUNT) == FRAMES


def test_numbers_start_anew_with_each_video(film):
    found = list(track(Finder()([film, film], 0.1)))
    assert len(found) == 2 * FRAMES
    for part in (found[:FRAMES], found[FRAMES:]):
        assert set(np.concatenate([one.ids for one in part])) - {0} == {1, 2, 3, 4, 5}
    # what is below the threshold stays only with a number
    assert all((one.scores >= 0.25)[one.ids == 0].all() for one in found)
    assert any((one.scores < 0.25).any() for one in found)


def test_images_pass_untracked():
    alone = Detections(np.ones((2, 4)), np.array([0.5, 0.2]), np.array([0, 1]), 'ab', (9, 9))
    (one,) = track([alone])
    assert one.ids is None and one.scores.tolist() == [0.5]
