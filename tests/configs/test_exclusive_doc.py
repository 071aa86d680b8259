"""docs/exclusive_classes.md: its examples train as they stand there."""

import json
import re
import sys

import pytest
import torch
from bccd_step import CLASSES, REPO, batch_of, load_for_bccd, step_on_bccd

DOC = (REPO / 'docs/exclusive_classes.md').read_text()
BLOCKS = re.findall(r'^```python\n(.*?)^```', DOC, re.DOTALL | re.MULTILINE)
CONFIGS = [block for block in BLOCKS if block.startswith('_base_')]
(PARTS,) = (block for block in BLOCKS if block.startswith('# my_soft_labels.py'))


def write(folder, block: str):
    (folder / 'mine.py').write_text(block.replace("'configs/", f"'{REPO}/configs/"))
    return folder / 'mine.py'


@pytest.fixture
def soft_parts(tmp_path, monkeypatch):
    """The module of the example, where Python finds it; its parts leave the registries afterwards."""
    from mmdet.registry import DATASETS, TRANSFORMS

    (tmp_path / 'my_soft_labels.py').write_text(PARTS)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop('my_soft_labels', None)
    DATASETS.module_dict.pop('SoftCoco', None)
    TRANSFORMS.module_dict.pop('PackSoftLabels', None)


def test_all_examples_are_found():
    assert len(BLOCKS) == DOC.count('```python') == len(CONFIGS) + 1 == 4


@pytest.mark.parametrize('block', CONFIGS[:2], ids=['softmax', 'class-agnostic'])
def test_an_example_takes_a_step(block, bccd_coco, tmp_path):
    head = step_on_bccd(write(tmp_path, block), bccd_coco).bbox_head
    assert not head.use_sigmoid and not head.takes_several_labels(head.test_cfg)
    assert head.test_cfg['nms'].get('class_agnostic', False) == ('class_agnostic' in block)


def test_soft_labels_come_from_the_annotations(soft_parts, bccd_coco, tmp_path):
    content = json.loads((bccd_coco / 'train.json').read_text())
    for number, annotation in enumerate(content['annotations']):
        # different for each box, so that one cannot stand for another
        annotation['soft_label'] = [0.9 - number / 1000, 0.1, number / 1000]
    (bccd_coco / 'train_soft.json').write_text(json.dumps(content))
    path, options = write(tmp_path, CONFIGS[2]), {'train_ann': 'train_soft.json'}
    loader = load_for_bccd(path, bccd_coco, options=options).train_dataloader
    shares = {tuple(a['bbox'][2:]): a['soft_label'] for a in content['annotations']}
    for sample in batch_of(loader)['data_samples']:
        truth = sample.gt_instances
        assert len(truth) > 0 and truth.soft_labels.shape == (len(truth), len(CLASSES))
        sides = truth.bboxes.tensor[:, 2:] - truth.bboxes.tensor[:, :2]
        for (width, height), row in zip(sides / torch.tensor(sample.scale_factor), truth.soft_labels, strict=True):
            box = min(shares, key=lambda wh: abs(wh[0] - width) + abs(wh[1] - height))
            same_size = [a['soft_label'] for a in content['annotations'] if tuple(a['bbox'][2:]) == box]
            assert any(row.tolist() == pytest.approx(share) for share in same_size)
    step_on_bccd(path, bccd_coco, options=options)
