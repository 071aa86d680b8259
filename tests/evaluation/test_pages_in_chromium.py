"""Headless Chromium shows the pages of a run and of a comparison from disk, and asks for nothing else."""

import base64
from pathlib import Path

import cv2
import numpy as np
import pytest
from chromium import Chromium, assert_shown_offline, needs_chromium
from report_cases import make_case

from mmyolo_ext.evaluation.report import write_report
from mmyolo_ext.evaluation.report.compare import Compared, write_comparison
from mmyolo_ext.evaluation.report.figures import Figures

pytestmark = needs_chromium
COLOUR = (200, 0, 180)


@pytest.fixture(scope='module')
def chromium():
    with Chromium() as browser:
        yield browser


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> Path:
    """A folder with images of one colour, a darker line across each, and the report of a run on them."""
    folder = tmp_path_factory.mktemp('pages')
    gt, detections = make_case(1)
    for image in gt['images']:
        pixels = np.full((240, 320, 3), COLOUR, np.uint8)
        pixels[100:104] //= 2
        assert cv2.imwrite(str(folder / image['file_name']), pixels)
    facts = {'split': 'test', 'title': 'Run'}
    log = [{'step': step, 'epoch': step, 'loss': 3 / step, 'coco/bbox_mAP': step / 9} for step in (1, 2, 3)]
    more = {'image_root': folder, 'train_ground_truth': gt, 'facts': facts, 'log': log}
    write_report(folder / 'a/report', ground_truth=gt, detections=detections, **more)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figures, 'draw', lambda *_: '')  # its charts are not looked at
        write_report(folder / 'b/report', ground_truth=gt, detections=detections[::2], **more)
    return folder


def shown_pixels(shot: np.ndarray) -> int:
    return int((np.abs(shot.astype(int) - COLOUR).max(-1) < 12).sum())


def test_the_report_of_a_run(chromium, run):
    assert_shown_offline(chromium, run / 'a/report/index.html')
    shot = chromium.screenshot()
    spreads = chromium.spreads('.plots svg', shot)
    assert len(spreads) > 10 and min(spreads) > 10 and shown_pixels(shot) > 1_000_000


def test_a_comparison(chromium, run):
    log = [{'epoch': epoch, 'coco/bbox_mAP': epoch / 9, 'loss': 1 / epoch} for epoch in (1, 2, 3)]
    page = write_comparison(run / 'out', [Compared(name, run / name, log) for name in 'ab'])
    assert_shown_offline(chromium, page)
    shot = chromium.screenshot()
    assert min(chromium.spreads('.plots svg', shot)) > 10 and shown_pixels(shot) > 100_000


def test_what_would_be_a_fault_is_seen(chromium, tmp_path):
    blank = base64.b64encode(cv2.imencode('.png', np.full((20, 30, 3), (90, 0, 30), np.uint8))[1]).decode()
    page = tmp_path / 'page.html'
    page.write_text(
        f'<img src="http://127.0.0.1:1/a.png"><img src="data:image/png;base64,{blank}"><div class="im"></div>'
        '<script>console.error("no"); missing()</script>'
    )
    chromium.open(page)
    assert sorted(chromium.images().tolist()) == [[0, 0], [0, 0], [30, 0]]
    assert {page.as_uri(), 'http://127.0.0.1:1/a.png'} < set(chromium.requests())
    kinds = [next(iter({'entry', 'args', 'exceptionDetails'} & set(one))) for one in chromium.complaints()]
    assert set(kinds) == {'entry', 'args', 'exceptionDetails'}
