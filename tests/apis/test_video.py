"""Videos and streams: numbers and times of frames, dropped frames, connections that break, and files of results."""

import csv
import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from tiny_coco import REPO

from mmyolo_ext.apis import inputs
from mmyolo_ext.apis.outputs import FORMATS, Outputs
from mmyolo_ext.apis.results import Detections


class Stream:
    """A stream whose connections give some frames each and then break; each frame holds its number."""

    def __init__(self, connections, seconds):
        self.connections, self.seconds, self.sent, self.opened = list(connections), seconds, 0, 0

    def VideoCapture(self, _):  # noqa: N802
        self.opened += 1
        left = [self.connections.pop(0) if self.connections else 0]

        def read():
            if not left[0]:
                return False, None
            time.sleep(self.seconds)
            left[0] -= 1
            self.sent += 1
            return True, np.full((4, 4, 3), self.sent - 1, np.uint8)

        return SimpleNamespace(read=read, release=lambda: None)


def test_a_live_source_gives_the_newest_frame_and_connects_again(monkeypatch, caplog):
    stream = Stream([20, 0, 0, 20], seconds=0.004)
    monkeypatch.setattr(inputs, 'cv2', stream)
    monkeypatch.setattr(inputs, 'FIRST_WAIT', 0.001)
    found = []
    for one in inputs.inputs('rtsp://camera/door', allow_download=True):
        found.append(one)
        time.sleep(0.02)
    numbers = [one.frame for one in found]
    # the number of a frame counts the dropped ones: it is that in the image
    assert numbers == [int(one.image[0, 0, 0]) for one in found] == sorted(set(numbers))
    assert numbers[-1] == 39 and 4 < len(numbers) < 25  # one of five is read in time
    assert all(one.time < other.time for one, other in zip(found, found[1:], strict=False))
    # 4 connections that were given, and 5 tries that failed
    assert stream.opened == 4 + inputs.RECONNECTS
    assert 'rtsp://camera/door ended, and 5 tries to open it again failed' in caplog.text


def test_a_stream_that_is_not_there(monkeypatch):
    stream = Stream([], 0)
    monkeypatch.setattr(inputs, 'cv2', stream)
    with pytest.raises(ValueError, match='camera 7 cannot be opened by OpenCV'):
        next(inputs.inputs(7))
    assert stream.opened == 1


def test_the_reader_ends_with_its_consumer(monkeypatch):
    stream = Stream([10**9], seconds=0.001)
    monkeypatch.setattr(inputs, 'cv2', stream)
    frames = inputs.inputs('0')
    next(frames)
    frames.close()
    time.sleep(0.05)
    sent = stream.sent
    time.sleep(0.05)
    assert stream.sent == sent


@pytest.mark.parametrize(
    ('source', 'live'),
    [
        ('0', True),
        (3, True),
        ('rtsp://h/a', True),
        ('http://h/a.m3u8', True),
        ('https://h/a.mp4', False),
        ('https://h/a.jpg', False),
        ('http://h/video.cgi', True),
        ('a.mp4', 0),
    ],
)
def test_what_is_live(source, live):
    assert inputs.is_live(source) == live


class Camera(BaseHTTPRequestHandler):
    """Sends three JPEG images, one after another, as web cameras do, or one of them alone."""

    def do_GET(self):
        images = [
            cv2.imencode('.jpg', np.full((32, 32, 3), 80 * number, np.uint8))[1].tobytes() for number in range(3)
        ]
        self.send_response(200)
        if self.path == '/photo':
            self.send_header('Content-Type', 'image/jpeg')
            self.end_headers()
            self.wfile.write(images[1])
            return
        self.send_header('Content-Type', 'multipart/x-mixed-replace; boundary=frame')
        self.end_headers()
        for image in images:
            head = f'--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(image)}\r\n\r\n'
            self.wfile.write(head.encode() + image + b'\r\n')

    def log_message(self, *args):
        pass


def test_the_answer_says_whether_an_address_is_an_image_or_a_camera(monkeypatch):
    monkeypatch.setattr(inputs, 'FIRST_WAIT', 0.001)
    with ThreadingHTTPServer(('127.0.0.1', 0), Camera) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        photo, film = (
            list(islice(inputs.inputs(f'http://127.0.0.1:{server.server_port}/{name}', True), 1))[0]
            for name in ('photo', 'video.cgi')
        )
        server.shutdown()
    assert photo.frame is None and abs(int(photo.image[0, 0, 0]) - 80) < 3
    assert film.frame is not None and film.image.shape == (32, 32, 3)


def test_a_file_gives_all_frames_with_times_and_names_a_damaged_one(tmp_path, caplog):
    film = tmp_path / 'film.avi'
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter_fourcc(*'MJPG'), 10, (640, 480))
    for _ in range(12):
        writer.write(np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8))
    writer.release()
    found = list(inputs.inputs(film))
    assert [one.frame for one in found] == list(range(12)) and found[7].time == pytest.approx(0.7)
    assert not caplog.text
    (tmp_path / 'half.avi').write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    read = len(list(inputs.inputs(tmp_path / 'half.avi')))
    assert read < 12 and f'half.avi ends after {read} of 12 frames' in caplog.text


def test_every_format_holds_the_same_boxes(tmp_path):
    image = np.zeros((50, 100, 3), np.uint8)
    boxes = np.float32([[10, 5, 30, 25], [40, 0, 90, 50]])
    scores = np.float32([0.75, 0.5])
    film = [
        Detections(boxes, scores, np.array([1, 0]), 'ab', (50, 100), image, frame, frame / 10, np.array([3, ids]))
        for frame, ids in ((0, 0), (1, 4), (2, 4))
    ]
    film[2] = Detections(boxes, scores, np.array([0, 0]), 'ab', (50, 100), image, 2, 0.2, np.array([3, 4]))
    alone = Detections(boxes[:1], scores[:1], np.array([1]), 'ab', (50, 100), image)
    with Outputs(tmp_path, tuple('ab'), FORMATS) as outputs:
        for one in film:
            outputs.add('x/film.mp4', 'film.mp4', one)
        outputs.add('a.jpg', 'a.jpg', alone)
    records = json.loads((tmp_path / 'predictions.json').read_text())
    assert [record['file'] for record in records] == ['x/film.mp4'] * 3 + ['a.jpg']
    assert records[0]['boxes'][0] == {'box': [10, 5, 30, 25], 'score': 0.75, 'label': 1, 'class': 'b', 'id': 3}
    assert records[0]['boxes'][1]['id'] is None and 'id' not in records[3]['boxes'][0]

    coco = json.loads((tmp_path / 'coco.json').read_text())
    assert [image['id'] for image in coco['images']] == [1, 2, 3, 4]
    assert coco['images'][1] == {'id': 2, 'file_name': 'x/film.mp4', 'height': 50, 'width': 100, 'frame_id': 1}
    assert [one['id'] for one in coco['annotations']] == [1, 2, 3, 4, 5, 6, 7]
    assert coco['annotations'][3] == {
        **{'id': 4, 'image_id': 2, 'category_id': 1, 'bbox': [40, 0, 50, 50], 'score': 0.5, 'track_id': 4},
        **{'area': 2500, 'iscrowd': 0},
    }
    # the second box: centre (65, 25) of 100 x 50, sides 50 and 50
    assert (tmp_path / 'labels' / 'film_000001.txt').read_text().splitlines()[1] == (
        '0 0.650000 0.500000 0.500000 1.000000 0.500000 4'
    )
    assert (tmp_path / 'labels' / 'a.txt').read_text() == '1 0.200000 0.300000 0.200000 0.400000 0.750000\n'
    rows = list(csv.DictReader((tmp_path / 'predictions.csv').open()))
    assert len(rows) == 7 and rows[3] == {
        **{'file': 'x/film.mp4', 'frame': '1', 'time': '0.1', 'id': '4', 'label': '0', 'class': 'a'},
        **{'score': '0.5000', 'x1': '40.00', 'y1': '0.00', 'x2': '90.00', 'y2': '50.00'},
    }
    assert cv2.imread(str(tmp_path / 'crops' / 'film_000002' / '001_a.png')).shape == (50, 50, 3)
    # object 3 is b in two frames of three
    assert json.loads((tmp_path / 'counts.json').read_text()) == {
        'x/film.mp4': {'boxes': {'a': 4, 'b': 2}, 'objects': {'a': 1, 'b': 1}},
        'a.jpg': {'boxes': {'b': 1}},
    }


MEMORY = """
import sys
from pathlib import Path
import numpy as np
from mmyolo_ext.apis.inputs import inputs
from mmyolo_ext.apis.outputs import Outputs
from mmyolo_ext.apis.results import Detections

def resident():
    return int(Path('/proc/self/statm').read_text().split()[1]) * 4096 / 2**20

boxes, scores, labels = np.float32([[1, 2, 30, 40]] * 5), np.full(5, 0.5, np.float32), np.arange(5)
with Outputs(Path(sys.argv[2]), tuple('abcde'), ('json', 'coco', 'csv', 'counts')) as outputs:
    for one in inputs(sys.argv[1]):
        found = Detections(boxes, scores, labels, 'abcde', one.image.shape[:2], one.image, one.frame, one.time, labels)
        outputs.add('film', 'film.mp4', found)
        if one.frame % 50 == 0:
            found.plot()
        if one.frame == 1000:
            before = resident()
print(outputs.images, resident() - before)
"""


@pytest.mark.slow
def test_memory_is_flat_over_10_000_frames(tmp_path):
    film = tmp_path / 'film.avi'
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter_fourcc(*'MJPG'), 25, (32, 32))
    image = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    for number in range(10_000):
        writer.write(np.roll(image, number, 1))
    writer.release()
    done = subprocess.run(
        [sys.executable, '-c', MEMORY, film, tmp_path], capture_output=True, text=True, cwd=REPO, timeout=120
    )
    assert done.returncode == 0, done.stderr
    images, grown = done.stdout.split()
    assert int(images) == 10_000 and float(grown) < 10  # MB; one frame of each would be 30 MB
