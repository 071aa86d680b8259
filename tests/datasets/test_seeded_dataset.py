"""Samples depend on (seed, epoch, index) alone: the same bytes for any number of workers and ranks."""

import pickle
import random

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.dataset import sampler as mmengine_sampler
from torch.utils.data import DataLoader, Dataset

from mmyolo_ext.datasets import SeededDataset
from mmyolo_ext.datasets.seeded_dataset import kept_generators, seed_generators
from mmyolo_ext.datasets.transforms import Mosaic
from mmyolo_ext.registry import DATASETS

SIZE = 32


@pytest.fixture(autouse=True)
def one_opencv_thread():
    """A forked worker does not inherit OpenCV's threads; MMEngine too turns them off."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    yield
    cv2.setNumThreads(threads)


def mix(dataset, *pipeline, **changes):
    return {'type': 'mmdet.MultiImageMixDataset', 'dataset': dataset, 'pipeline': list(pipeline), **changes}


MOSAIC = {'type': 'mmyolo_ext.Mosaic', 'size': SIZE, 'prob': 0.7}
AFFINE = {'type': 'mmyolo_ext.RandomAffine', 'size': SIZE, 'degrees': 10}
FUSED = {'type': 'mmyolo_ext.MosaicAffine', 'size': SIZE, 'prob': 0.7, 'degrees': 10}
REST = (
    {'type': 'mmyolo_ext.HSVJitter'},
    {'type': 'mmdet.RandomFlip', 'prob': 0.5},
    {'type': 'mmdet.PackDetInputs', 'meta_keys': ('img_id', 'flip')},
)


def fast_mix(dataset, *pipeline):
    return {**mix(dataset, *pipeline), 'type': 'mmyolo_ext.MixDataset'}


@pytest.fixture(params=['in steps', 'fused', 'fused, in a file'])
def full(coco_config, tmp_path, request):
    """The whole training pipeline, mixup around mosaic: in single steps, or fused, with images kept."""
    mixup = {'type': 'mmyolo_ext.MixUp', 'prob': 0.5}
    if request.param == 'in steps':
        return mix(mix(coco_config(), MOSAIC, AFFINE), mixup, *REST)
    cached = {
        'type': 'mmyolo_ext.CachedDataset', 'size': SIZE,
        'dataset': coco_config(pipeline=[{'type': 'mmyolo_ext.LoadImage'}]),
        'folder': str(tmp_path) if request.param.endswith('file') else None,
    }  # fmt: skip
    flip = {'type': 'mmyolo_ext.HorizontalFlip', 'prob': 0.5}
    pack = {'type': 'mmyolo_ext.PackInputs', 'meta_keys': ('img_id', 'flip')}
    return fast_mix(fast_mix(cached, FUSED), mixup, REST[0], flip, pack)


def build(config, epoch=0, seed=0):
    dataset = DATASETS.build({'type': 'mmyolo_ext.SeededDataset', 'dataset': config})
    dataset.full_init()
    dataset.set_epoch(epoch, seed)
    return dataset


def content(sample):
    """Every byte of a packed sample."""
    data = sample['data_samples']
    parts = [sample['inputs'], data.gt_instances.bboxes.tensor, data.gt_instances.labels]
    parts += [data.ignored_instances.bboxes.tensor, torch.tensor([data.img_id, data.flip])]
    return b''.join(part.numpy().tobytes() for part in parts)


def load(dataset, workers, epochs=2, seed=0, context=None):
    """The samples of some epochs in order, from a loader whose workers live on."""
    loader = DataLoader(
        dataset, batch_size=2, num_workers=workers, persistent_workers=workers > 0, collate_fn=list,
        multiprocessing_context=context,
    )  # fmt: skip
    samples = []
    for epoch in range(epochs):
        dataset.set_epoch(epoch, seed)
        samples.append([content(sample) for batch in loader for sample in batch])
    return samples


def test_workers_see_the_same_bytes(full):
    alone = load(build(full), 0)
    assert [len(set(epoch)) for epoch in alone] == [12, 12]
    assert not set(alone[0]) & set(alone[1])
    assert load(build(full), 1) == alone
    assert load(build(full), 3) == alone


@pytest.mark.slow
@pytest.mark.parametrize('full', ['fused, in a file'], indirect=True)
def test_spawned_workers_see_the_same_bytes(full):
    assert load(build(full), 1, context='spawn') == load(build(full), 0)


def test_ranks_see_the_same_bytes(full, monkeypatch):
    dataset = build(full, epoch=1, seed=3)
    alone = [content(dataset[i]) for i in range(len(dataset))]
    seen = {}
    for rank in range(2):
        monkeypatch.setattr(mmengine_sampler, 'get_dist_info', lambda rank=rank: (rank, 2))
        part = build(full, epoch=1, seed=3)
        sampler = DefaultSampler(part, shuffle=True, seed=3)
        sampler.set_epoch(1)
        seen |= {i: content(part[i]) for i in sampler}
    assert [seen[i] for i in range(12)] == alone


def test_an_epoch_reached_straight_or_by_resuming(full):
    straight = load(build(full), 0, epochs=4, seed=5)
    resumed = build(full, epoch=3, seed=5)
    assert [content(resumed[i]) for i in range(12)] == straight[3]
    # Nor does the order of reading matter, nor what was drawn before.
    np.random.seed(99)
    assert [content(resumed[i]) for i in reversed(range(12))] == straight[3][::-1]
    assert content(resumed[-1]) == straight[3][11]


def test_seed_epoch_and_index_all_count():
    """What a image that draws one number draws."""

    class Drawing(Dataset):
        def __len__(self):
            return 5

        def __getitem__(self, index):
            return np.random.rand()

    dataset, drawn = SeededDataset(Drawing()), set()
    for seed in range(3):
        for epoch in range(4):
            dataset.set_epoch(epoch, seed)
            drawn |= {dataset[index] for index in range(5)} | set(dataset.__getitems__(range(5)))
    assert len(drawn) == 3 * 4 * 5


def test_seeds_differ(full):
    dataset, samples = build(full), []
    for seed in (0, 1):
        dataset.set_epoch(0, seed)
        samples.append({content(dataset[i]) for i in range(12)})
    assert not samples[0] & samples[1]


def test_a_sample_leaves_the_callers_draws_alone(full):
    dataset = build(full)
    np.random.seed(1)
    expected = np.random.rand(2).tolist()
    np.random.seed(1)
    first = np.random.rand()
    dataset[0]
    assert [first, np.random.rand()] == expected


def only_mosaic(coco_config, **changes):
    """A mosaic makes 64 x 64, its absence a side of 32."""
    return mix(coco_config(), {**MOSAIC, 'prob': 1.0, **changes}, {'type': 'mmdet.PackDetInputs', 'meta_keys': ()})


@pytest.mark.parametrize('workers', [0, 2])
def test_closing_reaches_living_workers(coco_config, workers):
    dataset = build(only_mosaic(coco_config))
    loader = DataLoader(dataset, batch_size=3, num_workers=workers, persistent_workers=workers > 0, collate_fn=list)

    def longest_sides():
        return {max(sample['inputs'].shape) for batch in loader for sample in batch}

    assert longest_sides() == {64} and not dataset.mosaic_closed
    dataset.close_mosaic()
    assert longest_sides() == {32} and dataset.mosaic_closed
    dataset.close_mosaic()  # closed is closed
    assert longest_sides() == {32}


@pytest.mark.parametrize('kind', ['mmyolo_ext.Mosaic', Mosaic], ids=['scope', 'class'])
def test_closing_whatever_the_spelling(coco_config, kind):
    dataset = build(only_mosaic(coco_config, type=kind))
    assert dataset[0]['inputs'].shape == (3, 64, 64)
    dataset.close_mosaic()
    assert max(dataset[0]['inputs'].shape) == 32


def test_closing_mixes_of_the_host_and_keeps_other_skips(coco_config):
    dataset = build(
        mix(
            coco_config(),
            {'type': 'mmdet.Mosaic', 'img_scale': (SIZE, SIZE)},
            {'type': 'mmdet.Resize', 'scale': (8, 8)},
            {'type': 'mmdet.PackDetInputs', 'meta_keys': ()},
            skip_type_keys=['mmdet.Resize'],
        )
    )
    assert dataset[0]['inputs'].shape == (3, 64, 64)
    dataset.close_mosaic()
    assert max(dataset[0]['inputs'].shape) == 32


@pytest.mark.parametrize('full', ['in steps'], indirect=True)
def test_closing_nested_mixes(full):
    dataset = build(full)
    dataset.close_mosaic()
    calls = []
    for part in (dataset.dataset, dataset.dataset.dataset):
        transform = part.pipeline[0]
        transform.transform = lambda results: calls.append(1) or results
    for i in range(12):
        assert dataset[i]['inputs'].shape == (3, SIZE, SIZE)
    assert not calls


def test_closing_a_fused_mosaic_keeps_its_affine(coco_config):
    """The rest of the same transform goes on: all images fill one size, and none shows another."""
    steps = {**FUSED, 'prob': 1.0}, {'type': 'mmyolo_ext.PackInputs', 'meta_keys': ()}
    dataset = build(fast_mix(coco_config(), *steps))
    mixed = {dataset[i]['inputs'].shape for i in range(12)}
    dataset.close_mosaic()
    asked = []
    dataset.dataset.dataset.__class__ = type(
        'Counting',
        (type(dataset.dataset.dataset),),
        {'__getitem__': lambda s, i: asked.append(i) or s.prepare_data(i)},
    )
    assert {dataset[i]['inputs'].shape for i in range(12)} == mixed == {(3, SIZE, SIZE)}
    assert asked == list(range(12))


def test_a_batch_is_its_samples(full):
    dataset = build(full)
    expected = [content(dataset[i]) for i in (3, 0, 3, 7)]
    np.random.seed(1)
    after = np.random.rand(2)[1]
    np.random.seed(1)
    np.random.rand()
    assert [content(sample) for sample in dataset.__getitems__([3, 0, 3, 7])] == expected
    assert np.random.rand() == after


def test_closing_through_other_wrappers(coco_config):
    repeated = {'type': 'RepeatDataset', 'times': 2, 'dataset': coco_config()}
    joined = {'type': 'mmdet.ConcatDataset', 'datasets': [coco_config(), repeated]}
    with pytest.raises(ValueError, match='no transform that mixes images'):
        build(joined).close_mosaic()


def test_closing_nothing_is_an_error(coco_config):
    dataset = build(mix(coco_config(), AFFINE, *REST))
    with pytest.raises(ValueError, match='no transform that mixes images.*custom_hooks'):
        dataset.close_mosaic()
    assert not dataset.mosaic_closed


def test_a_broken_image_is_replaced_alike(coco_config, coco_folder, tmp_path):
    """With skip_broken another sample takes its place: the same one in every run."""
    whole = (coco_folder / '3.png').read_bytes()
    try:
        (coco_folder / '3.png').write_bytes(whole[:-10])
        config = coco_config()
        with pytest.raises(ValueError, match=r'3\.png.*cut short'):
            build(mix(config, *REST))[3]
        config['pipeline'][0] = {'type': 'mmyolo_ext.LoadImage', 'skip_broken': True}
        with pytest.warns(UserWarning, match=r'3\.png'):
            runs = [load(build(mix(config, MOSAIC, AFFINE, *REST)), 0, epochs=1) for _ in range(2)]
        assert runs[0] == runs[1]
    finally:
        (coco_folder / '3.png').write_bytes(whole)


def test_the_interface(full):
    dataset = build(full, epoch=4, seed=2)
    assert isinstance(dataset, SeededDataset)
    assert len(dataset) == 12 and dataset.metainfo['classes'] == ('thing',)
    assert dataset.get_data_info(5)['img_id'] == 5
    for index in (12, -13):
        with pytest.raises(IndexError):
            dataset[index]
    copied = pickle.loads(pickle.dumps(dataset))
    assert content(copied[3]) == content(dataset[3])


def draws():
    return random.random(), np.random.rand(), torch.rand(1).item()


def start():
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)


def test_the_callers_draws_go_on():
    start()
    expected = [draws(), draws()]
    start()
    found = [draws()]
    with kept_generators():
        seed_generators(0, 1, 2)
        draws()
    assert [*found, draws()] == expected


def test_they_go_on_after_an_error():
    start()
    expected = [draws(), draws()]
    start()
    found = [draws()]
    with pytest.raises(ZeroDivisionError), kept_generators():
        seed_generators(0, 1, 2)
        draws()
        raise ZeroDivisionError
    assert [*found, draws()] == expected


def test_keys_are_hashed_not_added():
    def first_draws(*key):
        with kept_generators():
            seed_generators(*key)
            return draws()

    keys = [(s, e, i) for s in range(3) for e in range(3) for i in range(3)] + [(2**40, 0, 0), (0, 2**31, 0)]
    found = [first_draws(*key) for key in keys]
    for generator in range(3):
        assert len({draw[generator] for draw in found}) == len(keys)
    assert found == [first_draws(*key) for key in keys]
