"""One training by the command line: its report, log, files and checkpoint state the same numbers and settings."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from tiny_coco import make_tiny_coco

from mmyolo_ext.cli.train import main
from mmyolo_ext.evaluation import CocoMetric

SHIFTS = (3, 1, 2)  # px, of the predictions of each validation: the second is the best


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """The work dir of a training whose validations find each object, some pixels beside its place."""
    folder = tmp_path_factory.mktemp('run')
    data, shifts, compute = make_tiny_coco(folder / 'pets'), iter(SHIFTS), CocoMetric.compute_metrics

    def compute_shifted(metric: CocoMetric, results: list) -> dict[str, float]:
        shift, dataset = next(shifts), metric._coco_api.dataset
        for _, found in results:
            own = [one for one in dataset['annotations'] if one['image_id'] == found['img_id']]
            xywh = np.array([one['bbox'] for one in own], float).reshape(-1, 4)
            found['bboxes'] = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1) + shift
            found['labels'] = np.array([one['category_id'] - 1 for one in own], int)
            found['scores'] = np.linspace(0.5, 0.9, len(own))
        return compute(metric, results)

    options = ['--epochs', '3', '--work-dir', str(folder / 'out'), '--cfg-options', 'input_size=64']
    options += ['optim_wrapper.optimizer.weight_decay=0.0125']
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CocoMetric, 'compute_metrics', compute_shifted)
        main(['yolov5_n', str(data), *options])
    return folder / 'out'


def test_every_output_states_the_same_ap(run):
    numbers = json.loads((run / 'report/report.json').read_text())
    rows = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
    scores = [row['coco/bbox_mAP'] for row in rows if row['split'] == 'val']
    assert scores.index(max(scores)) == 1 and 0 < min(scores) < max(scores) < 1
    assert numbers['ap'] == pytest.approx(scores[1], abs=6e-4)  # mmdet's scores have three decimals
    assert numbers['facts']['best epoch'] == '2 of 3'
    assert Path(numbers['facts']['checkpoint']).name == 'best_coco_bbox_mAP_epoch_2.pth'
    assert (run / 'best_coco_bbox_mAP_epoch_2.pth').is_file()
    status = json.loads((run / 'status.json').read_text())
    found = [(status[name]['epoch'], status[name]['coco/bbox_mAP']) for name in ('best', 'validation')]
    assert found == [(2, scores[1]), (3, scores[2])]
    (scalars,) = run.glob('*/vis_data/scalars.json')
    logged = [json.loads(line).get('coco/bbox_mAP') for line in scalars.read_text().splitlines()]
    assert [value for value in logged if value is not None] == scores
    (log,) = run.glob('*/*.log')
    printed = [float(text) for text in re.findall(r'coco/bbox_mAP: ([\d.]+)', log.read_text())]
    assert printed == scores
    page = (run / 'report/index.html').read_text()
    assert f'<span>AP</span><b>{numbers["ap"]:.3f}</b>' in page
    # all boxes are found at IoU 0.5 after a shift of 1 px, so precision and recall are 1
    assert numbers['ap50'] == pytest.approx(1) and numbers['operating_point']['f1'] == pytest.approx(1)


def test_settings_of_the_user_are_marked(run):
    page = (run / 'report/index.html').read_text()
    table = page[page.index('Overridden values') : page.index('Full config')]
    for name, value in (('max_epochs', 3), ('input_size', 64), ('optim_wrapper.optimizer.weight_decay', 0.0125)):
        assert f'<tr><td>{name}</td><td>{value}</td></tr>' in table
    marked = re.findall(r'<mark>(.*?)</mark>', page[page.index('Full config') :])
    assert any('weight_decay=0.0125' in line for line in marked) and any('max_epochs=3' in line for line in marked)
