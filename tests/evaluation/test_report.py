"""The report page: complete, offline, small, and with numbers that agree."""

import csv
import json
import re
from pathlib import Path
from shutil import which

import cv2
import numpy as np
import pytest
from chromium import Chromium, assert_shown_offline
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.runner import Runner
from report_cases import SlowCount, make_case

from mmyolo_ext.apis import load_config
from mmyolo_ext.cli import report as command
from mmyolo_ext.cli import voc2coco
from mmyolo_ext.evaluation.errors import find_errors
from mmyolo_ext.evaluation.matching import average_precision, calibration, confuse, curve, match
from mmyolo_ext.evaluation.report import figures as charts
from mmyolo_ext.evaluation.report import read_report, write_report

REPO = Path(__file__).parents[2]
LOG = [
    {'step': 1, 'epoch': 1, 'loss': 3.0, 'loss_bbox': 1.0, 'loss_cls': 2.0, 'lr': 0.1, 'time': 0.5, 'data_time': 0.1},
    {'step': 2, 'epoch': 1, 'loss': 2.0, 'loss_bbox': 0.5, 'loss_cls': 1.5, 'lr': 0.05, 'time': 0.5, 'data_time': 0.2},
    {'step': 1, 'coco/bbox_mAP': 0.2, 'coco/bbox_mAP_50': 0.4},
]


def assert_offline(text: str) -> None:
    """Check that no address of another place is on the page, and each link leads to a place on it."""
    addresses = re.findall(r'(?:src|href|action|data)="([^"]*)"|url\(([^)]*)\)|@import', text)
    for address in (first or second for first, second in addresses):
        assert address.startswith(('#', 'data:')), address
    assert '<script' not in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)
    assert len(text.encode()) < 5_000_000


@pytest.fixture
def case(tmp_path: Path) -> tuple[dict, list[dict], Path]:
    """Images in a folder; one of them is missing."""
    gt, detections = make_case(1)
    for image in gt['images'][1:]:
        pixels = np.full((240, 320, 3), 40 * (image['id'] % 5), np.uint8)
        assert cv2.imwrite(str(tmp_path / image['file_name']), pixels)
    return gt, detections, tmp_path


def test_a_page_and_files_with_the_same_numbers(case, tmp_path):
    gt, detections, images = case
    config = Config({'img_scale': (320, 240), 'optim': {'lr': 0.1}})
    facts = {'model': 'a <b>', 'split': 'test', 'overridden': {'optim.lr': 0.1}, 'versions': {'torch': '2.0'}}
    facts |= {'reproduce': 'mmyolo-ext train a', 'batch_size': 4}
    more = {'log': LOG, 'config': config, 'image_root': images, 'train_ground_truth': gt, 'data_section': '<i>5</i>'}
    page = write_report(tmp_path / 'run/report', ground_truth=gt, detections=detections, facts=facts, **more)
    text = page.read_text(encoding='utf-8')
    assert_offline(text)
    assert 'a &lt;b&gt;' in text and 'a <b>' not in text
    assert '<i>5</i>' in text and '<mark>' in text
    assert text.count('data:image/jpeg') == len(gt['images']) - 1  # once each, though shown many times
    sections = ('summary', 'curves', 'classes', 'matrix', 'errors', 'data', 'config')
    assert re.findall('<section id="(.*?)"', text) == list(sections)
    for name in ('losses', 'ap', 'pr', 'f1', 'reliability', 'matrix', 'errors', 'costs', 'box_sizes'):
        image = cv2.imread(str(page.parent / f'{name}.png'))
        assert image.std() > 5, name

    truth, found, numbers = read_report(tmp_path / 'run')
    assert found == detections
    assert all(Path(entry['file_name']).is_absolute() for entry in truth['images'])
    point = numbers['operating_point']
    slow = SlowCount(gt, detections, point['confidence'])
    types, _ = slow.errors()
    assert numbers['matrix']['counts'] == slow.matrix().tolist()
    assert {name: row['count'] for name, row in numbers['errors'].items()} == {
        name: len(entries) for name, entries in types.items()
    }
    assert (point['true_positives'], point['false_positives']) == (len(slow.true), len(slow.false))
    assert numbers['ap50'] == pytest.approx(SlowCount(gt, detections).plain_ap())
    for row, category in zip(numbers['per_class'], gt['categories'], strict=True):
        boxes = [box for box in slow.boxes if box['category_id'] == category['id']]
        assert row['recall'] == pytest.approx(sum(box['id'] in slow.owner for box in boxes) / len(boxes))
        large = [box for box in boxes if box['area'] >= 96**2]
        hits = sum(box['id'] in slow.owner for box in large)
        assert row['recall_large'] == (pytest.approx(hits / len(large)) if large else None)
    with (page.parent / 'matrix.csv').open() as file:
        assert [row[1:] for row in csv.reader(file)][1:] == [[str(n) for n in row] for row in slow.matrix()]
    # the worst image of the missed boxes comes first
    missed = [box['image_id'] for box in slow.boxes if box['id'] in types['missed']]
    worst = max(gt['images'], key=lambda image: missed.count(image['id']))['file_name']
    assert re.search('id="error-missed">.*?<figcaption>(.*?)<', text)[1] == worst


def test_the_command_writes_it_again(case, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(charts.Figures, 'draw', lambda *_: '')
    gt, detections, images = case
    folder = tmp_path / 'run/report'
    write_report(folder, ground_truth=gt, detections=detections, image_root=images, train_ground_truth=gt)
    before, data = json.loads((folder / 'report.json').read_text()), (folder / 'data.html').read_text()
    (folder / 'index.html').unlink()
    command.main([str(tmp_path / 'run'), '--precision', '0.36'])
    after = json.loads((folder / 'report.json').read_text())
    assert capsys.readouterr().out.strip() == str(folder / 'index.html')
    assert after['operating_point']['precision'] >= 0.36 > before['operating_point']['precision']
    assert after['ap'] == before['ap']
    assert (folder / 'data.html').read_text() == data
    assert 'keeps a precision of 0.36' in (folder / 'index.html').read_text()
    for name, content in (('found', detections), ('gt', gt)):
        (images / f'{name}.json').write_text(json.dumps(content))
    files = ['--detections', str(images / 'found.json'), '--ground-truth', str(images / 'gt.json')]
    command.main([str(tmp_path / 'other'), *files])
    assert read_report(tmp_path / 'other')[2]['ap'] == before['ap']
    for words, text in (
        ([str(tmp_path / 'none')], 'holds no report'),
        ([str(tmp_path / 'run'), '--precision', '2'], 'at most 1, got 2.0'),
        ([str(tmp_path / 'run'), *files[:2]], 'belong together'),
    ):
        with pytest.raises(SystemExit):
            command.main(words)
        assert text in capsys.readouterr().err


def test_nothing_found(tmp_path):
    gt, _ = make_case(0)
    page = write_report(tmp_path, ground_truth=gt, detections=[], class_names=['owl', 'cat'])
    assert_offline(page.read_text(encoding='utf-8'))
    assert [row['name'] for row in read_report(tmp_path)[2]['per_class']] == ['owl', 'cat']
    with pytest.raises(ValueError, match=r"classes \['bat'\] are not among"):
        write_report(tmp_path, ground_truth=gt, detections=[], class_names=['bat'])


def test_the_page_is_small_though_images_are_many_and_full(tmp_path, monkeypatch):
    gt, detections = make_case(0, images=150, boxes=160, found=170, classes=12)
    pixels = np.random.RandomState(0).randint(0, 255, (240, 320, 3), np.uint8)  # noise: the largest JPEG files
    for image in gt['images']:
        assert cv2.imwrite(str(tmp_path / image['file_name']), pixels)
    monkeypatch.setattr(charts.Figures, 'draw', lambda *_: '')
    text = write_report(tmp_path, ground_truth=gt, detections=detections, image_root=tmp_path).read_text()
    assert 2_000_000 < len(text) < 3_500_000
    assert all(f'id="error-{name}"' in text for name in ('classification', 'localization'))


@pytest.mark.slow
def test_the_numbers_of_bccd_agree(bccd_dir, golden_dir, tmp_path):
    voc2coco.main([str(bccd_dir), str(tmp_path), '--classes', 'RBC', 'WBC', 'Platelets', '--one-based'])
    (tmp_path / 'JPEGImages').symlink_to((bccd_dir / 'JPEGImages').resolve())
    options = {'data_root': f'{tmp_path}/', 'val_ann': 'test.json', 'work_dir': str(tmp_path / 'run')}
    options |= {'test_dataloader.num_workers': 0, 'test_dataloader.persistent_workers': False}
    cfg = load_config(REPO / 'configs/yolov5/yolov5_n_320_bccd.py', options)
    cfg.load_from = str(golden_dir / 'yolov5n_bccd.pt')
    scores = Runner.from_cfg(cfg).test()
    gt, detections, numbers = read_report(tmp_path / 'run')  # the run has written it
    page = tmp_path / 'run/report/index.html'
    assert_offline(page.read_text(encoding='utf-8'))
    if which('chromium'):
        with Chromium() as chromium:
            assert_shown_offline(chromium, page)
    for ours, name in (('ap', 'mAP'), ('ap50', 'mAP_50'), ('ap75', 'mAP_75'), ('ap_small', 'mAP_s')):
        assert numbers[ours] == pytest.approx(scores[f'coco/bbox_{name}'], abs=6e-4)  # mmdet's have three decimals
    point, matching = numbers['operating_point'], match(gt, detections)
    slow = SlowCount(gt, detections, point['confidence'])
    matrix, _ = confuse(matching, point['confidence'])
    types, _ = slow.errors()
    assert matrix.tolist() == slow.matrix().tolist() == numbers['matrix']['counts']
    assert find_errors(matching, point['confidence']).counts() == {name: len(rows) for name, rows in types.items()}
    assert calibration(matching, point['confidence'])[1] == pytest.approx(slow.calibration_error())
    assert point['true_positives'] == np.trace(matrix) == len(slow.true)
    assert point['precision'] == pytest.approx(len(slow.true) / matrix[:, :-1].sum())
    assert point['recall'] == pytest.approx(len(slow.true) / matrix[:-1].sum())
    assert point['f1'] == pytest.approx(curve(matching).f1.max())
    ap50 = average_precision(matching.label, matching.partner >= 0, ~matching.ignored, matching.gt_counts)
    assert ap50.mean() == pytest.approx(numbers['ap50'])


def test_a_size_without_objects_has_no_recall():
    axes = Figure().subplots()
    charts.bars({'small': 0.25, 'medium': 0.0, 'large': float('nan')}, 'recall')(axes)
    assert [text.get_text() for text in axes.texts] == ['0.25', '0', '–']
