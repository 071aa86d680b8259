"""The comparison of runs: bootstrap, changed objects, spread, and the page, against counts by hand and by COCO."""

import json
import re
from functools import partial

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmyolo_ext.apis import load_config
from mmyolo_ext.cli.compare import _cost, main
from mmyolo_ext.evaluation.report import compare, write_report
from mmyolo_ext.evaluation.report.compare import Compared, bootstrap, changes_between, groups, write_comparison
from mmyolo_ext.evaluation.report.figures import Figures
from mmyolo_ext.evaluation.report.gallery import Shown

NAMES = ('ant', 'bee')


def case(seed: int, images: int = 12) -> tuple[dict, list[dict], list[dict]]:
    """Random ground truth, and the detections of a worse and of a better detector."""
    rng = np.random.default_rng(seed)
    annotations, sides = [], ([], [])
    for image in range(images):
        for _ in range(rng.integers(1, 5)):
            box = [*rng.integers(0, 150, 2).tolist(), *rng.integers(15, 60, 2).tolist()]
            label = int(rng.integers(2))
            annotations.append(
                {
                    **{'id': len(annotations) + 1, 'image_id': image + 1, 'category_id': label + 1, 'bbox': box},
                    **{'area': box[2] * box[3], 'iscrowd': int(len(annotations) % 9 == 8)},
                }
            )
            for side, shift, share in ((sides[0], 8, 0.6), (sides[1], 3, 0.9)):
                if rng.random() < share:
                    moved = (np.array(box) + rng.integers(-shift, shift + 1, 4)).clip(1).tolist()
                    score = float(rng.random())
                    side.append({'image_id': image + 1, 'category_id': label + 1, 'bbox': moved, 'score': score})
    entries = [{'id': n + 1, 'file_name': f'{n}.png', 'width': 220, 'height': 220} for n in range(images)]
    categories = [{'id': n + 1, 'name': name} for n, name in enumerate(NAMES)]
    return {'images': entries, 'annotations': annotations, 'categories': categories}, *sides


def coco_ap(ground_truth: dict, detections: list[dict], image_ids=None) -> float:
    truth = COCO()
    truth.dataset = ground_truth
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(detections), 'bbox')
    if image_ids is not None:
        evaluation.params.imgIds = image_ids
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[0]


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp('runs')
    ground_truth, worse, better = case(0)
    for name, detections, seed in (('a', worse, 0), ('b', better, 1), ('c', better, 2)):
        facts = {'split': 'validation', 'seed': seed, 'model': name}
        write_report(tmp_path / name / 'report', ground_truth=ground_truth, detections=detections, facts=facts)
    return tmp_path, ground_truth, worse, better


def test_the_difference_is_that_of_coco_and_the_interval_holds_it(runs):
    folder, ground_truth, worse, better = runs
    first, other = Compared('a', folder / 'a'), Compared('b', folder / 'b')
    difference, (low, high), samples = bootstrap(first, other, samples=200)
    assert difference == pytest.approx(coco_ap(ground_truth, better) - coco_ap(ground_truth, worse), abs=1e-9)
    assert samples == 200 and 0 < low < difference < high
    assert bootstrap(first, first, samples=60)[:2] == (0, (0, 0))


def test_the_best_hundred_detections_of_an_image_and_class_count(tmp_path):
    ground_truth, worse, better = case(3)
    rng = np.random.default_rng(1)
    for detections, score in ((worse, 0.5), (better, 0.01)):  # those of worse displace its good ones
        for _ in range(130):
            box = [*rng.integers(0, 150, 2).tolist(), 20, 20]
            detections.append({'image_id': 2, 'category_id': 1, 'bbox': box, 'score': score + float(rng.random()) / 2})
    for name, detections in (('a', worse), ('b', better)):
        write_report(tmp_path / name / 'report', ground_truth=ground_truth, detections=detections)
    difference, _, _ = bootstrap(Compared('a', tmp_path / 'a'), Compared('b', tmp_path / 'b'), samples=50)
    assert difference == pytest.approx(coco_ap(ground_truth, better) - coco_ap(ground_truth, worse), abs=1e-9)


def test_a_resampled_ap_is_that_of_the_repeated_images(runs):
    from mmyolo_ext.evaluation.matching import match
    from mmyolo_ext.evaluation.report.compare import IOUS, _mean_aps

    _, ground_truth, worse, _ = runs
    weights = np.array([2, 0, 1, 3, 0, 0, 1, 1, 2, 0, 1, 1], float)
    repeated = {**ground_truth, 'images': [], 'annotations': []}
    detections = []
    for place, count in enumerate(weights.astype(int)):
        for copy in range(count):
            image = 1000 * (copy + 1) + place
            repeated['images'].append({**ground_truth['images'][place], 'id': image})
            for one in ground_truth['annotations']:
                if one['image_id'] == place + 1:
                    number = len(repeated['annotations']) + 1
                    repeated['annotations'].append({**one, 'image_id': image, 'id': number})
            detections += [{**one, 'image_id': image} for one in worse if one['image_id'] == place + 1]
    matchings = [match(ground_truth, worse, iou) for iou in IOUS]
    # copies of a detection have equal scores: their order changes the precision between them alone
    assert _mean_aps(matchings, weights[None])[0] == pytest.approx(coco_ap(repeated, detections), abs=0.01)


def test_changed_objects_by_hand(tmp_path):
    objects = [[30 * n, 0, 20, 20] for n in range(10)]
    ground_truth = {
        'images': [{'id': 1, 'file_name': 'a.png', 'width': 300, 'height': 50}],
        'categories': [{'id': 1, 'name': 'ant'}],
        'annotations': [
            {'id': n + 1, 'image_id': 1, 'category_id': 1, 'bbox': box, 'area': 400, 'iscrowd': 0}
            for n, box in enumerate(objects)
        ],
    }
    for name, found in (('a', (0, 3, 4, 5)), ('b', (1, 2, 3, 4, 5))):
        seen = [{'image_id': 1, 'category_id': 1, 'bbox': objects[n], 'score': 0.9} for n in found]
        write_report(tmp_path / name / 'report', ground_truth=ground_truth, detections=seen)
    answer = changes_between(Compared('a', tmp_path / 'a'), Compared('b', tmp_path / 'b'))
    assert [answer[name] for name in ('fixed', 'broken', 'found_by_both', 'found_by_none')] == [2, 1, 3, 4]
    assert answer['objects'].tolist() == [-1, 1, 1, *[0] * 7]


def test_the_page(runs, capsys):
    folder, *_ = runs
    for name, seed in (('a', 0), ('b', 1), ('c', 2)):
        own = f'lr = {0.1 if name == "a" else 0.2}\nseed = {seed}\noverridden = [dict(path="x", value={seed})]\n'
        (folder / name / 'mine.py').write_text(own)
    main([str(folder / name) for name in 'abc'] + ['--out', str(folder / 'out')])
    assert str(folder / 'out' / 'index.html') in capsys.readouterr().out
    text = (folder / 'out' / 'index.html').read_text()
    assert 'mean ± standard deviation of 2 runs of one config' in text and 'beyond what the choice' in text
    assert '-lr = 0.1' in text and 'http://' not in text.replace('http://www.w3.org', '') and 'https://' not in text
    numbers = json.loads((folder / 'out' / 'comparison.json').read_text())
    assert numbers['changes']['b'] == numbers['changes']['c'] and numbers['runs']['c']['seed'] == 2


def test_the_room_for_images_is_shared_by_all_runs(tmp_path, monkeypatch):
    ground_truth, *_ = case(0)
    noise = np.random.default_rng(0).integers(0, 256, (220, 220, 3), np.uint8)
    monkeypatch.setattr(Figures, 'draw', lambda *_: '')
    monkeypatch.setattr(compare, 'bootstrap', lambda *_: (0.0, (0.0, 0.0), 1))
    for image in ground_truth['images']:
        assert cv2.imwrite(str(tmp_path / image['file_name']), noise)
    for name in 'abcde':  # each finds the objects of other images than the one before
        seen = [{**one, 'score': 0.9} for one in ground_truth['annotations'] if one['image_id'] % 5 == ord(name) % 5]
        write_report(tmp_path / name / 'report', ground_truth=ground_truth, detections=seen, image_root=tmp_path)
    sizes = []
    for room in (10_000_000, 120_000):
        monkeypatch.setattr(compare, 'Shown', partial(Shown, left=room))
        text = write_comparison(tmp_path / 'out', [Compared(name, tmp_path / name) for name in 'abcde']).read_text()
        sizes.append(sum(map(len, re.findall('base64,([^)]*)', text))))
        assert text.count('data:image/jpeg') == len(set(re.findall('class="im (i[0-9]+)"', text)))
    one = sizes[0] / 12  # all images are alike
    assert sizes[0] > 300_000 and sizes[1] <= 120_000 + one


def test_the_cost_of_a_model_and_of_one_that_cannot_be_built(tmp_path, capsys):
    cost = _cost(load_config('yolov5_n', {'input_size': 64}), with_latency=True)
    assert cost['parameters'] == 1_872_157  # docs/reference: YOLOv5n with 80 classes
    # 4.5 GFLOPs at 640 px, published for YOLOv5n, shrink with the area
    assert cost['GFLOPs'] == pytest.approx(4.5 / 100, rel=0.03) and cost['input (height x width)'] == '64 x 64'
    (latency,) = (value for name, value in cost.items() if name.startswith('latency on '))
    assert 0 < latency < 10_000
    (tmp_path / 'mine.py').write_text("model = dict(type='Unknown')\n")
    assert _cost(Config.fromfile(tmp_path / 'mine.py'), with_latency=False) == {}
    assert f'the cost of {tmp_path}/mine.py is left out: ' in capsys.readouterr().err


def test_runs_of_one_config_differ_in_seed_alone(runs):
    folder, *_ = runs
    texts = ('lr = 1\nseed = 0', 'lr = 1\nseed = 1', 'lr = 2\nseed = 0', '', '')
    all_runs = [Compared(str(n), folder / 'a', config=text) for n, text in enumerate(texts)]
    assert [[run.name for run in group] for group in groups(all_runs)] == [['0', '1'], ['2'], ['3'], ['4']]


def test_runs_that_cannot_be_compared(runs, capsys):
    folder, ground_truth, worse, _ = runs
    with pytest.raises(SystemExit):
        main([str(folder / 'a')])
    assert 'a comparison needs at least two runs, got 1' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(folder / 'a'), str(folder / 'nothing')])
    assert 'holds no report' in capsys.readouterr().err
    fewer = {**ground_truth, 'annotations': ground_truth['annotations'][1:]}
    write_report(folder / 'd' / 'report', ground_truth=fewer, detections=worse)
    main([str(folder / 'a'), str(folder / 'd'), '--out', str(folder / 'out')])
    assert 'evaluated on other images or objects' in (folder / 'out' / 'index.html').read_text()
