"""docs/guides/data.md: its examples train as they stand there, and do what the page claims."""

import math
import re
from collections import Counter

import numpy as np
import pytest
import torch
from bccd_step import REPO, load_for_bccd, step_on_bccd
from mmengine.logging import MessageHub
from mmengine.registry import DATASETS, MODELS
from torch.utils.data import DataLoader

from mmyolo_ext.apis.config_nodes import walk
from mmyolo_ext.datasets import stack_inputs

DOC = (REPO / 'docs/guides/data.md').read_text()
BLOCKS = re.findall(r'^```python\n(.*?)^```', DOC, re.DOTALL | re.MULTILINE)
NAMES = ('MixUp', 'BoxCopyPaste', 'ClassBalancedDataset', 'BatchSyncRandomResize')


@pytest.fixture
def written(tmp_path):
    """The path of the example that shows a part."""

    def write(name):
        (block,) = (block for block in BLOCKS if name in block)
        (tmp_path / 'mine.py').write_text(block.replace("'configs/", f"'{REPO}/configs/"))
        return tmp_path / 'mine.py'

    return write


def test_all_examples_are_found():
    configs = [block for block in BLOCKS if '_base_' in block and 'data =' not in block]
    assert len(configs) == len(NAMES) and all(any(name in block for block in configs) for name in NAMES)


@pytest.mark.parametrize('name', NAMES)
def test_an_example_takes_a_step(name, written, bccd_coco):
    path = written(name)
    cfg = load_for_bccd(path, bccd_coco)
    assert name in {str(node.get('type')).rsplit('.')[-1] for node in walk(cfg._cfg_dict)}
    step_on_bccd(path, bccd_coco)


def loaded(config, epoch, workers):
    """What each sample of an epoch holds, in order."""
    dataset = DATASETS.build(config)
    dataset.set_epoch(epoch, 0)
    loader = DataLoader(dataset, batch_size=4, num_workers=workers, collate_fn=stack_inputs)
    return [
        (image.numpy().tobytes(), sample.gt_instances.bboxes.tensor.tolist(), sample.gt_instances.labels.tolist())
        for batch in loader
        for image, sample in zip(batch['inputs'], batch['data_samples'], strict=True)
    ]


@pytest.mark.parametrize('name', NAMES[:3])
def test_the_same_samples_from_any_number_of_workers(name, written, bccd_coco):
    config = load_for_bccd(written(name), bccd_coco, side=64).train_dataloader.dataset
    alone = loaded(config, 1, 0)
    assert loaded(config, 1, 2) == alone != loaded(config, 0, 0)


def test_balanced_images_are_repeated_by_the_share_of_their_classes(written, bccd_coco):
    dataset = DATASETS.build(load_for_bccd(written('ClassBalancedDataset'), bccd_coco).train_dataloader.dataset)
    balanced = dataset.dataset.dataset
    cached = balanced.dataset
    sets = [set(cached.get_cat_ids(index)) for index in range(len(cached))]
    for index, labels in enumerate(sets):
        assert labels == {instance['bbox_label'] for instance in cached.get_data_info(index)['instances']}
    shares = {label: sum(label in one for one in sets) / len(sets) for label in range(3)}
    # the paper's r(I) = max over the classes of the image of max(1, sqrt(t / f(c))), t = 0.9, rounded up
    times = [max(math.ceil(max(1.0, math.sqrt(0.9 / shares[label]))) for label in one) for one in sets]
    assert len(dataset) == sum(times) > len(cached)
    assert Counter(balanced.get_data_info(k)['img_id'] for k in range(len(dataset))) == {
        cached.get_data_info(index)['img_id']: count for index, count in enumerate(times)
    }
    repeats = [k for k in range(len(dataset)) if balanced.get_data_info(k)['img_id'] == balanced[0]['img_id']]
    samples = [dataset[k]['inputs'] for k in repeats]
    assert len({sample.numpy().tobytes() for sample in samples}) == len(repeats)  # each drawn anew


def test_batches_come_in_several_sizes(written, bccd_coco):
    """Image, boxes and what the head reads change together, in whole strides; losses stay finite."""
    cfg = load_for_bccd(written('BatchSyncRandomResize'), bccd_coco, side=320)
    cfg.model.data_preprocessor.batch_augments[0].interval = 1
    torch.manual_seed(0)
    model, dataset = MODELS.build(cfg.model), DATASETS.build(cfg.train_dataloader.dataset)
    sides = set()
    for iteration in range(8):
        MessageHub.get_current_instance().update_info('iter', iteration)
        batch = stack_inputs(dataset.__getitems__([0, 1]))
        assert batch['inputs'].dtype == torch.uint8 and batch['inputs'].shape == (2, 3, 320, 320)
        before = [sample.gt_instances.bboxes.tensor.clone() for sample in batch['data_samples']]
        data = model.data_preprocessor(batch, True)
        height, width = data['inputs'].shape[-2:]
        assert height == width and height % 32 == 0 and 256 <= height <= 384
        for sample, boxes in zip(data['data_samples'], before, strict=True):
            assert sample.batch_input_shape == (height, width)
            np.testing.assert_allclose(sample.gt_instances.bboxes, boxes * height / 320, rtol=1e-6)
        losses = model(**data, mode='loss')
        assert all(torch.as_tensor(value).isfinite().all() for value in losses.values())
        sides.add(height)
    assert len(sides) > 2
