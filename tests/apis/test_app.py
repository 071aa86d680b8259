"""The web page: thresholds after the network as in it, and the page itself in a browser."""

import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from tiny_coco import CLASSES, make_tiny_coco, write_user_config

from mmyolo_ext.apis import app, load_config, results
from mmyolo_ext.apis.exporting import export_detector
from mmyolo_ext.apis.inference import Detector
from mmyolo_ext.apis.results import Detections
from mmyolo_ext.cli.app import is_loopback, main
from mmyolo_ext.evaluation.report.write import write_report
from mmyolo_ext.export import runtime
from mmyolo_ext.export.formats import Options


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """The folder of a run: an untrained network whose scores are raised, its export, and a report of its images."""
    folder = tmp_path_factory.mktemp('app')
    data = make_tiny_coco(folder / 'data')
    cfg = load_config(write_user_config(folder / 'mine.py', data))
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    for conv, fires in zip(model.bbox_head.convs_pred, (True, False, False), strict=True):
        torch.nn.init.normal_(conv.weight, 0.0, 0.3)
        with torch.no_grad():
            rows = conv.bias.view(3, -1)  # anchor; x, y, w, h, objectness, classes
            rows[:, 2:4], rows[:, 4], rows[:, 5:] = -1, 1 if fires else -20, 0.5
    meta = {'cfg': cfg.pretty_text, 'dataset_meta': {'classes': CLASSES}}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, folder / 'best_1.pth')
    export_detector(cfg, str(folder / 'best_1.pth'), folder / 'model.onnx', Options())
    return folder


def some_report(run):
    """Three images with two objects each; of the second both are missed, the third has one false detection more."""
    images = [{'id': number, 'file_name': f'00{number}.png', 'width': 64, 'height': 64} for number in range(3)]
    boxes = ([5, 5, 20, 20], [35, 30, 20, 25])
    truth = {
        'images': images,
        'categories': [{'id': 1, 'name': CLASSES[0]}],
        'annotations': [
            {
                'id': 2 * image + at,
                'image_id': image,
                'category_id': 1,
                'bbox': box,
                'area': box[2] * box[3],
                'iscrowd': 0,
            }
            for image in range(3)
            for at, box in enumerate(boxes)
        ],
    }
    found = [(0, boxes[0]), (0, boxes[1]), (2, boxes[0]), (2, boxes[1]), (2, [5, 40, 20, 20])]
    detections = [{'image_id': image, 'category_id': 1, 'bbox': box, 'score': 0.9} for image, box in found]
    write_report(
        run / 'report',
        ground_truth=truth,
        detections=detections,
        class_names=CLASSES[:1],
        facts={},
        log=None,
        config=None,
        image_root=run / 'data' / 'val',
        train_ground_truth=None,
    )


@pytest.mark.parametrize('name', ['best_1.pth', 'model.onnx'])
@pytest.mark.parametrize(('confidence', 'nms_iou'), [(0.25, 0.45), (0.1, 0.6), (0.46, 0.2)])
def test_thresholds_after_the_network_give_the_boxes_of_a_detector(run, monkeypatch, name, confidence, nms_iou):
    # the page suppresses boxes clipped to the image, a network whole ones: without clipping, they agree
    monkeypatch.setattr(runtime, 'to_image', lambda found, *_: found)
    model, direct = app.Model(run / name, 'cpu'), Detector(run / name, nms_iou=nms_iou)
    for image in sorted((run / 'data' / 'val').glob('*.png')):
        found, wanted = app.chosen(model.find(image), confidence, nms_iou, False), direct(image, confidence)
        ours, theirs = (
            {(int(label), *np.round(box).tolist()) for box, _, label in zip(*one, strict=True)}
            for one in (found, wanted)
        )
        if name == 'model.onnx':
            assert ours == theirs and len(found.scores) == len(wanted.scores)
        assert len(theirs) > 5 and len(ours & theirs) >= 0.8 * max(len(ours), len(theirs)), (len(ours), len(theirs))
    assert model.runs == 5


@pytest.mark.parametrize('name', ['best_1.pth', 'model.onnx'])
def test_tiles_are_merged_as_in_prediction(run, name):
    model, direct = app.Model(run / name, 'cpu'), Detector(run / name, tile=32, overlap=0.2)
    image = run / 'data' / 'val' / '000.png'
    whole = model.find(image)
    found, wanted = app.chosen(model.find(image, 32), 0.3, 0.45, False, 3000), direct(image, 0.3)
    rows = [
        {(int(label), *np.round(box).tolist()) for box, _, label in zip(*one, strict=True)} for one in (found, wanted)
    ]
    assert len(rows[1]) > 5 and len(rows[0] & rows[1]) >= 0.8 * max(map(len, rows)), rows
    again = model.find(image)  # the tiles and their NMS are gone
    for one, other in zip(whole, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_video_on_tiles(run):
    image = cv2.imread(str(run / 'data' / 'val' / '000.png'))
    film = run / 'tiles.avi'
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter_fourcc(*'FFV1'), 5, (64, 64))
    for frame in (image, image[::-1].copy()):
        writer.write(frame)
    writer.release()
    model = app.Model(run / 'model.onnx')
    seen, counts = app.detect_video(model, str(film), 32, (0.3, 0.45, False), False, lambda *_, **__: None)
    wanted = [len(found.scores) for found in Detector(run / 'model.onnx', tile=32)(str(film), 0.3)]
    assert sum(counts['boxes'].values()) == sum(wanted) > 10, (counts, wanted)
    assert cv2.VideoCapture(seen).get(cv2.CAP_PROP_FRAME_COUNT) == model.runs == 2


def test_heat_map(run):
    image = run / 'data' / 'val' / '000.png'
    model = app.Model(run / 'best_1.pth', 'cpu')
    before = model.find(image)
    assert model.heat_map(image, 0.05).shape == (3 * 64, 3 * 64, 3)  # three detections, three levels
    assert len(model.find(image).scores) == len(before.scores)
    with pytest.raises(ValueError, match='lower score_thr'):
        model.heat_map(image, 0.999)
    with pytest.raises(ValueError, match=r'needs a checkpoint \(.pth\), got model.onnx'):
        app.Model(run / 'model.onnx').heat_map(image, 0.05)


def test_a_prediction_of_several_classes_counts_once():
    boxes = np.float32([[0, 0, 9, 9], [0, 0, 9, 9], [20, 20, 30, 30], [0, 0, 9, 8]])
    found = Detections(boxes, np.float32([0.9, 0.8, 0.7, 0.3]), np.array([0, 1, 0, 0]), 'ab', (40, 40))
    assert app.chosen(found, 0.5, 0.5, False).scores.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert app.chosen(found, 0.5, 0.5, True).scores.tolist() == pytest.approx([0.9, 0.7])
    # IoU of the first and the last box is 8 / 9
    assert len(app.chosen(found, 0.1, 0.9, False).scores) == 4 and len(app.chosen(found, 0.1, 0.88, False).scores) == 3


def test_images_with_most_errors_come_first(run, monkeypatch):
    some_report(run)
    worst = app.worst_images(run / 'report')
    assert [text for text, _ in worst] == [
        '001.png: 2 missed, 0 false',
        '002.png: 0 missed, 1 false',
        '000.png: 0 missed, 0 false',
    ]
    assert worst[0][1].boxes_xyxy.tolist() == [[5, 5, 25, 25], [35, 30, 55, 55]]
    written = []
    monkeypatch.setattr(results, '_write', lambda image, text, *_: written.append(text))
    assert worst[0][1].plot().any() and written == [CLASSES[0]] * 2  # ground truth has no score


def test_what_is_no_model(tmp_path, capsys, monkeypatch):
    with pytest.raises(ValueError, match='a model is a file .* or the folder of a run'):
        app.Model(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main([])
    assert 'there is no work_dirs/*/best_*.pth here' in capsys.readouterr().err
    assert is_loopback('127.0.0.1') and is_loopback('localhost') and is_loopback('::1') and not is_loopback('0.0.0.0')


@pytest.mark.slow
def test_in_a_browser(run, tmp_path):
    pytest.importorskip('gradio', reason='the package gradio is not installed: pip install gradio')
    playwright = pytest.importorskip('playwright.sync_api', reason='the package playwright is not installed')
    chromium = shutil.which('chromium')
    if not chromium:
        pytest.skip('chromium is not installed')
    some_report(run)
    models = [app.Model(run, 'cpu'), app.Model(run / 'model.onnx')]
    address = app.launch(app.build(models), '127.0.0.1', None, 1, wait=False)
    image = run / 'data' / 'val' / '000.png'
    (tmp_path / 'broken.jpg').write_text('no image')
    (tmp_path / 'large.png').write_bytes(bytes(2 * 2**20))
    film = tmp_path / 'film.avi'
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter_fourcc(*'MJPG'), 5, (64, 64))
    for _ in range(3):
        writer.write(cv2.imread(str(image)))
    writer.release()
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=chromium, args=['--no-sandbox'])
        page = browser.new_page(viewport={'width': 1400, 'height': 1100})
        requests, errors = [], []
        page.on('request', lambda request: requests.append(request.url))
        page.on('pageerror', lambda error: errors.append(str(error)))
        page.on('console', lambda line: errors.append(line.text) if line.type == 'error' else None)
        page.goto(address)
        page.set_input_files('input[type=file] >> nth=0', str(image))
        page.wait_for_selector('#json-1 >> text=Download JSON', timeout=60_000)
        page.wait_for_function("/^[0-9]+ boxes/.test(document.querySelector('#json-1').innerText)")
        before = [int(page.inner_text(f'#json-{number}').split()[0]) for number in (0, 1)]
        assert before[0] == before[1] > 3 and [model.runs for model in models] == [1, 1]  # two models side by side
        assert page.evaluate("document.querySelector('#result-0 img').naturalWidth") == 448  # 7 x 64
        page.get_by_role('button', name='Heat map of model A').click()
        page.wait_for_selector('#heat img', timeout=60_000)
        assert page.evaluate("document.querySelector('#heat img').naturalWidth") == 3 * 64  # a column per level
        threshold = page.locator('input[type=number]').first
        threshold.fill('0.46')
        threshold.press('Enter')
        text = "document.querySelector('#json-0').innerText"
        page.wait_for_function(f"/^[0-9]+ boxes/.test({text}) && !{text}.startsWith('{before[0]} ')")
        after = int(page.inner_text('#json-0').split()[0])
        assert 0 < after < before[0] and [model.runs for model in models] == [1, 1]  # the networks did not run again
        with page.expect_download() as download:
            page.click('#json-0 >> text=Download JSON')
        assert len(json.loads(download.value.path().read_text())['boxes']) == after
        page.get_by_label('Detect on').click()
        page.get_by_role('option', name='tiles of 320 px').click()  # one tile: as many boxes, from another run
        page.wait_for_function(f"{text}.startsWith('{after} ')", timeout=60_000)
        # the validation set, most errors first
        page.get_by_label('Image of the validation set').click()
        page.get_by_role('option').first.click()
        page.wait_for_selector('#truth img', timeout=60_000)
        page.screenshot(path=str(tmp_path / 'page.png'), full_page=True)
        assert errors == []
        for name, message in (('broken.jpg', 'broken.jpg'), ('large.png', 'maximum allowed size')):
            page.locator('button[aria-label="Clear"], button[aria-label="Remove this file"]').first.click()
            page.set_input_files('input[type=file] >> nth=0', str(tmp_path / name))
            page.wait_for_selector(f'.toast-body >> text={message}', timeout=60_000)
        page.get_by_role('tab', name='Video').click()
        page.set_input_files('input[type=file] >> visible=false >> nth=-1', str(film))
        page.get_by_label('Detect on').last.click()
        page.get_by_role('option', name='tiles of 320 px').click()
        page.get_by_role('button', name='Detect', exact=True).click()
        page.wait_for_selector('video', timeout=60_000)
        page.wait_for_function("document.querySelector('video').videoWidth == 448", timeout=60_000)
        page.get_by_role('tab', name='Report').click()
        page.wait_for_selector('iframe.report', timeout=60_000)
        report = page.frame_locator('iframe.report')
        report.get_by_text('Operating point').first.wait_for(timeout=60_000)
        assert report.locator('img, svg').count() > 3
        page.screenshot(path=str(tmp_path / 'report.png'))
        assert [url for url in requests if not url.startswith((address, 'data:', 'blob:', 'about:'))] == []
        browser.close()
