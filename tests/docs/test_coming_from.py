"""The pages for users of Ultralytics and MMYOLO: the names they give exist, and their script converts labels."""

import json
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine import registry as root

import mmyolo_ext.registry  # noqa: F401
from mmyolo_ext.apis import load_config

REPO = Path(__file__).parents[2]
PAGES = {name: (REPO / f'docs/coming_from/{name}.md').read_text() for name in ('ultralytics', 'mmyolo')}
KEYS_PAGE = (REPO / 'docs/reference/config_keys.md').read_text()
ROOTS = ('model', 'optim_wrapper', 'param_scheduler', 'train_dataloader', 'default_hooks', 'randomness', 'env_cfg')
# keys that the config leaves at the default of the component
DEFAULTS = {
    'model.frozen_parts',
    'model.backbone.frozen_stages',
    'model.bbox_head.label_smoothing',
    'model.bbox_head.obj_level_weights',
    'model.bbox_head.loss_cls.pos_weight',
    'model.bbox_head.loss_obj.pos_weight',
    'model.test_cfg.nms.class_agnostic',
    'optim_wrapper.paramwise_cfg',
}


def own_cells() -> str:
    """The text of the pages without the first cells of the tables, which are names of others."""
    own = '\n'.join(re.sub(r'^\|[^|]*\|', '|', page, flags=re.MULTILINE) for page in PAGES.values())
    return own + KEYS_PAGE


def test_the_keys_are_those_of_the_configs():
    cfg = load_config(REPO / 'configs/yolov5/yolov5_n_640_coco.py')
    keys = set(re.findall(rf'`((?:{"|".join(ROOTS)})(?:\.\w+)+)', own_cells()))
    assert len(keys) > 40
    missing = set()
    for key in keys - DEFAULTS:
        node = cfg._cfg_dict
        for name in key.split('.'):
            try:
                node = node[int(name)] if name.isdigit() else node[name]
            except (KeyError, IndexError, TypeError):
                missing.add(key)
                break
    assert missing == set()


def test_the_class_names_are_registered():
    names = set(re.findall(r'mmyolo_ext\.([A-Za-z]\w+)', PAGES['mmyolo'] + PAGES['ultralytics'])) - {'apis', 'cli'}
    assert len(names) > 20
    registries = [value for value in vars(root).values() if isinstance(value, root.Registry)]
    assert {name for name in names if not any(one.get(f'mmyolo_ext.{name}') for one in registries)} == set()


def test_the_script_converts_yolo_labels(tmp_path, monkeypatch):
    blocks = re.findall(r'```python\n(.*?)```', PAGES['ultralytics'], re.DOTALL)
    (script,) = (block for block in blocks if 'cv2' in block)
    images, labels = tmp_path / 'images/train', tmp_path / 'labels/train'
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for name in ('a.png', 'b.png'):
        cv2.imwrite(str(images / name), np.zeros((100, 200, 3), np.uint8))
    (labels / 'a.txt').write_text('1 0.5 0.5 0.25 0.4\n0 0.1 0.2 0.1 0.2\n')
    monkeypatch.setattr(sys, 'argv', ['yolo2coco.py', str(images), str(tmp_path / 'train.json'), 'cat', 'dog'])
    exec(script, {})
    content = json.loads((tmp_path / 'train.json').read_text())
    assert content['images'] == [
        {'id': 1, 'file_name': 'a.png', 'width': 200, 'height': 100},
        {'id': 2, 'file_name': 'b.png', 'width': 200, 'height': 100},  # without a label file: no boxes
    ]
    assert content['categories'] == [{'id': 1, 'name': 'cat'}, {'id': 2, 'name': 'dog'}]
    first, second = content['annotations']
    # x = (0.5 - 0.25 / 2) * 200 = 75, y = (0.5 - 0.4 / 2) * 100 = 30, w = 50, h = 40
    assert first['bbox'] == pytest.approx([75, 30, 50, 40]) and first['category_id'] == 2 and first['image_id'] == 1
    assert second['bbox'] == pytest.approx([10, 10, 20, 20]) and second['category_id'] == 1
