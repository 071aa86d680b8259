"""Several processes evaluate what one evaluates: each image once, without a disk that they share."""

import json
import os
import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric as MMDetMetric
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.evaluator import Evaluator
from torch import distributed
from torch.multiprocessing import start_processes
from torch.utils.data import DataLoader

from mmyolo_ext.engine.hooks import ReportHook
from mmyolo_ext.engine.runner import Runner
from mmyolo_ext.evaluation import CocoMetric

IMAGES = 7  # not divisible by the number of ranks
CLASSES = ('cat', 'dog')
BATCH_SIZES = (1, 2, 3)


def boxes_of(img_id: int, seed: int, count: int) -> np.ndarray:
    corner = np.random.RandomState(10 * seed + img_id).uniform(0, 60, (count, 2))
    return np.hstack([corner, corner + 30])


def write_truth(path: Path) -> None:
    annotations = [
        {'image_id': img_id, 'category_id': 1 + k % 2, 'bbox': [*box[:2].tolist(), 30, 30], 'area': 900, 'iscrowd': 0}
        for img_id in range(IMAGES)
        for k, box in enumerate(boxes_of(img_id, 0, 4))
    ]
    content = {
        'images': [{'id': i, 'width': 100, 'height': 100, 'file_name': f'{i}.jpg'} for i in range(IMAGES)],
        'categories': [{'id': 1 + i, 'name': name} for i, name in enumerate(CLASSES)],
        'annotations': [{'id': k, **annotation} for k, annotation in enumerate(annotations, 1)],
    }
    path.write_text(json.dumps(content))


def prediction(img_id: int) -> dict:
    """The boxes of an image, shifted by some pixels, with one too many."""
    boxes = np.vstack([boxes_of(img_id, 0, 4) + img_id % 4, boxes_of(img_id, 1, 1)])
    instances = {
        'bboxes': torch.from_numpy(boxes),
        'scores': torch.linspace(0.9, 0.3, 5) + img_id / 100,
        'labels': torch.tensor([0, 1, 0, 1, 0]),
    }
    return {'img_id': img_id, 'ori_shape': (100, 100), 'pred_instances': instances}


def score(metric: CocoMetric | MMDetMetric, batch_size: int, skipped: int | None = None) -> dict[str, float]:
    """As a test loop does."""
    evaluator = Runner.build_evaluator(Runner.__new__(Runner), Evaluator([metric]))
    evaluator.dataset_meta = {'classes': CLASSES}
    images = list(range(IMAGES))
    loader = DataLoader(images, batch_size, sampler=DefaultSampler(images, shuffle=False), collate_fn=list)
    for batch in loader:
        evaluator.process([prediction(img_id) for img_id in batch if img_id != skipped])
    return evaluator.evaluate(len(images))


def report(metric: CocoMetric, folder: Path) -> list[str]:
    """Write the report of the last evaluation as the hook does after a test; return what it logs."""
    lines: list[str] = []
    dataset = type('Leaf', (list,), {'get_data_info': None, 'data_prefix': {}})(range(IMAGES))
    loop = SimpleNamespace(evaluator=Evaluator([metric]), dataloader=SimpleNamespace(dataset=dataset))
    runner = {'work_dir': str(folder), 'cfg': Config(), 'model': torch.nn.Linear(2, 3), 'seed': 0, 'test_loop': loop}
    runner |= {'_train_loop': None, 'logger': SimpleNamespace(info=lines.append, warning=lines.append)}
    ReportHook().after_test(SimpleNamespace(**runner))
    return lines


def run_rank(rank: int, world_size: int, port: int, folder: str) -> None:
    own = Path(folder) / f'rank_{rank}'  # its working folder: nothing here is seen by another rank
    own.mkdir()
    os.chdir(own)
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(world_size))
    distributed.init_process_group('gloo')
    truth = str(Path(folder) / 'truth.json')
    answers = {f'ours {size}': score(CocoMetric(ann_file=truth), size) for size in BATCH_SIZES}
    metric = CocoMetric(ann_file=truth)
    score(metric, 2)
    answers['report'] = report(metric, Path(folder) / 'ranks')
    answers['mmdet'] = score(MMDetMetric(ann_file=truth, classwise=True), 2)
    for name, metric, skipped in (
        ('missing', CocoMetric(ann_file=truth), 4),
        ('failing', CocoMetric(ann_file=truth, metric_items=['mAP_0']), None),
    ):
        try:
            score(metric, 2, skipped)
        except Exception as error:  # which one is in the answer
            answers[name] = f'{type(error).__name__}: {error}'
    (Path(folder) / f'{rank}.json').write_text(json.dumps(answers))
    assert not list(own.iterdir())
    distributed.destroy_process_group()


@pytest.mark.slow
def test_ranks_score_like_one_process(tmp_path):
    world_size = 3
    write_truth(tmp_path / 'truth.json')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    # forked, so that they need not import everything again
    start_processes(run_rank, (world_size, port, str(tmp_path)), nprocs=world_size, start_method='fork')
    metric = CocoMetric(ann_file=str(tmp_path / 'truth.json'))
    alone = score(metric, 2)
    report(metric, tmp_path / 'alone')
    of_ranks, of_one = (
        json.loads((tmp_path / name / 'report/report.json').read_text()) for name in ('ranks', 'alone')
    )
    assert of_ranks.pop('facts')['processes'] == 3 and of_one.pop('facts')['processes'] == 1
    assert of_ranks == of_one and of_ranks['matrix']['counts'] and of_ranks['ap'] > 0.2
    assert 0.2 < alone['coco/bbox_mAP'] < 0.9
    for rank in range(world_size):
        answers = json.loads((tmp_path / f'{rank}.json').read_text())
        written = [f'Report: {tmp_path}/ranks/report/index.html']
        assert answers['report'] == (written if rank == 0 else [])
        for name in ('mmdet', *(f'ours {size}' for size in BATCH_SIZES)):
            assert answers[name] == alone, (rank, name)
        assert answers['missing'].startswith('ValueError: only 6 of 7 images have a result')
        assert 'Missing ids: [4]' in answers['missing']
        assert 'metric item "mAP_0" is not supported' in answers['failing']
