"""docs/guides/exclusive_classes.md: its examples train as they stand there."""

import json
import re

import pytest
from bccd_step import CLASSES, REPO, batch_of, load_for_bccd, step_on_bccd

DOC = (REPO / 'docs/guides/exclusive_classes.md').read_text()
BLOCKS = re.findall(r'^```python\n(.*?)^```', DOC, re.DOTALL | re.MULTILINE)
CONFIGS = [block for block in BLOCKS if block.startswith('_base_')]


def write(folder, block: str):
    (folder / 'mine.py').write_text(block.replace("'configs/", f"'{REPO}/configs/"))
    return folder / 'mine.py'


def test_all_examples_are_found():
    assert len(BLOCKS) == DOC.count('```python') == len(CONFIGS) == 3


@pytest.mark.parametrize('block', CONFIGS[:2], ids=['softmax', 'class-agnostic'])
def test_an_example_takes_a_step(block, bccd_coco, tmp_path):
    head = step_on_bccd(write(tmp_path, block), bccd_coco).bbox_head
    assert not head.use_sigmoid and not head.takes_several_labels(head.test_cfg)
    assert head.test_cfg['nms'].get('class_agnostic', False) == ('class_agnostic' in block)


def test_soft_labels_come_from_the_annotations(bccd_coco, tmp_path):
    content = json.loads((bccd_coco / 'train.json').read_text())
    for number, annotation in enumerate(content['annotations']):
        # different for each box, so that one cannot stand for another
        annotation['soft_label'] = [0.9 - number / 1000, 0.1, number / 1000]
    (bccd_coco / 'train_soft.json').write_text(json.dumps(content))
    names = {category['id']: category['name'] for category in content['categories']}
    labels = [CLASSES.index(names[annotation['category_id']]) for annotation in content['annotations']]
    path, options = write(tmp_path, CONFIGS[2]), {'train_ann': 'train_soft.json'}
    loader = load_for_bccd(path, bccd_coco, options=options).train_dataloader
    for sample in batch_of(loader)['data_samples']:
        truth = sample.gt_instances
        assert len(truth) > 0 and truth.soft_labels.shape == (len(truth), len(CLASSES))
        for row, label in zip(truth.soft_labels.tolist(), truth.labels.tolist(), strict=True):
            number = round(row[2] * 1000)
            assert row == pytest.approx([0.9 - number / 1000, 0.1, number / 1000]) and labels[number] == label
    step_on_bccd(path, bccd_coco, options=options)
