"""docs/extend/transform.md: the transforms of the page train as written."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.registry import DATASETS, MODELS
from tiny_coco import make_tiny_coco, tiny_options

from mmyolo_ext.apis import load_config
from mmyolo_ext.datasets import stack_inputs
from mmyolo_ext.registry import TRANSFORMS

REPO = Path(__file__).parents[2]
BLOCKS = re.findall(
    r'^```python\n(.*?)^```', (REPO / 'docs/extend/transform.md').read_text(), re.DOTALL | re.MULTILINE
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's folder with the files of the page; the config is ``mine.py``."""
    for block in BLOCKS:
        name = re.match(r'# (\w+\.py)\n', block)
        text = block.replace("'configs/", f"'{REPO}/configs/")
        (tmp_path / (name[1] if name else 'mine.py')).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ('my_transforms', 'my_mixes'):
        sys.modules.pop(name, None)
    for name in ('RandomErase', 'SwapSky'):
        TRANSFORMS.module_dict.pop(name, None)


def sample(height=40, width=60):
    boxes = torch.tensor([[10.0, 15, 20, 25], [40, 20, 60, 40]])
    flags = np.zeros(2, bool)
    image = np.zeros((height, width, 3), np.uint8)
    return {
        'img': image,
        'gt_bboxes': HorizontalBoxes(boxes),
        'gt_bboxes_labels': np.arange(2),
        'gt_ignore_flags': flags,
    }


def training_set(folder):
    make_tiny_coco(folder / 'data')
    cfg = load_config(folder / 'mine.py', tiny_options(folder / 'data'))
    return cfg, DATASETS.build(cfg.train_dataloader.dataset)


def test_the_transform_trains(folder):
    cfg, dataset = training_set(folder)
    steps = [type(step).__name__ for step in dataset.dataset.pipeline]
    assert steps[:2] == ['MosaicAffine', 'RandomErase']
    batch = stack_inputs(dataset.__getitems__([0, 1]))
    model = MODELS.build(cfg.model)
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    total = sum(sum(value) if isinstance(value, list) else value for value in losses.values())
    total.backward()
    assert total.isfinite()


def test_covered_boxes_are_dropped(folder):
    __import__('my_transforms')
    erase = TRANSFORMS.build({'type': 'mmyolo_ext.RandomErase', 'prob': 1.0, 'max_side': 0.9})
    dropped = 0
    for _ in range(200):
        before = sample()
        after = erase(before)
        assert before['img'].max() == 0, 'the input stays as it is'
        grey = after['img'][..., 0] == 114
        kept = after['gt_bboxes_labels'].tolist()
        # the centres of the boxes are (15, 20) and (50, 30)
        assert kept == [label for label, (x, y) in enumerate([(15, 20), (50, 30)]) if not grey[y, x]]
        dropped += 2 - len(kept)
    assert dropped > 20


def test_the_mix_gets_a_partner(folder):
    __import__('my_mixes')
    (folder / 'mine.py').write_text((folder / 'mine.py').read_text().replace("RandomErase', prob=0.5", "SwapSky'"))
    _, dataset = training_set(folder)
    assert 'SwapSky' in [type(step).__name__ for step in dataset.dataset.pipeline]
    assert dataset[0]['inputs'].shape == (3, 64, 64)
    partner = {**sample(), 'img': np.full((40, 60, 3), 7, np.uint8)}
    mixed = TRANSFORMS.build({'type': 'mmyolo_ext.SwapSky'})({**sample(), 'mix_results': [partner]})
    assert (mixed['img'][:10] == 7).all() and not mixed['img'][10:].any()
