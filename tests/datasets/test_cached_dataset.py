"""Images decoded once: the same samples with and without the cache, in one process and in several."""

import copy
import multiprocessing
import os
import pickle

import cv2
import numpy as np
import pytest

from mmyolo_ext.registry import DATASETS

LOAD = [{'type': 'mmyolo_ext.LoadImage'}]


@pytest.fixture
def build(coco_config):
    def build(size=32, inner=None, **options):
        dataset = {**coco_config(pipeline=LOAD), **(inner or {})}
        return DATASETS.build({'type': 'mmyolo_ext.CachedDataset', 'dataset': dataset, 'size': size, **options})

    return build


def content(sample):
    arrays = [sample['img'], sample['gt_bboxes'].tensor.numpy(), sample['gt_bboxes_labels'], sample['gt_ignore_flags']]
    rest = {key: value for key, value in sample.items() if key != 'img' and not key.startswith('gt_')}
    return [array.tobytes() for array in arrays], [array.shape for array in arrays], rest


@pytest.mark.parametrize('size', [32, (24, 40), 100, None])
def test_a_cached_sample_is_the_same(build, size, tmp_path):
    plain, in_memory, on_disk = build(size, max_gb=0), build(size), build(size, folder=str(tmp_path))
    for dataset in (in_memory, on_disk):
        for _ in range(2):
            for i in range(12):
                assert content(dataset[i]) == content(plain[i])
        assert dataset._cache._valid.all()
    assert not plain._cache.kept


def test_images_are_shrunk_by_area_and_boxes_follow(build, coco_folder):
    dataset = build(32)
    for i, scale in ((1, 0.5), (2, 0.8)):  # 64 x 48 and 40 x 40 (h x w) into 32 x 32
        info, sample = dataset.get_data_info(i), dataset[i]
        original = cv2.imread(str(coco_folder / f'{i}.png'))
        height, width = int(original.shape[0] * scale), int(original.shape[1] * scale)
        np.testing.assert_array_equal(
            sample['img'], cv2.resize(original, (width, height), interpolation=cv2.INTER_AREA)
        )
        assert sample['img_shape'] == (height, width) and sample['ori_shape'] == original.shape[:2]
        assert sample['scale_factor'] == (scale, scale)
        boxes = [[scale * edge for edge in instance['bbox']] for instance in info['instances']]
        np.testing.assert_allclose(sample['gt_bboxes'].tensor, np.reshape(boxes, (-1, 4)), rtol=1e-6)
    small = build(100)[2]
    assert small['img_shape'] == (40, 40) and small['scale_factor'] == (1, 1)  # not enlarged


def test_annotations_are_those_of_load_annotations(build, coco_config):
    loaded = DATASETS.build(coco_config(pipeline=[*LOAD, {'type': 'mmdet.LoadAnnotations', 'with_bbox': True}]))
    dataset = build(None)
    for i in range(12):
        ours, theirs = dataset[i], loaded[i]
        assert ours['gt_bboxes'].tensor.tolist() == theirs['gt_bboxes'].tensor.tolist()
        assert ours['gt_bboxes'].tensor.shape == theirs['gt_bboxes'].tensor.shape
        for key in ('gt_bboxes_labels', 'gt_ignore_flags'):
            assert ours[key].dtype == theirs[key].dtype and ours[key].tolist() == theirs[key].tolist()
        for key in ('img_path', 'img_id', 'height', 'width', 'ori_shape', 'sample_idx'):
            assert ours[key] == theirs[key]


def test_a_sample_can_be_changed_without_harm(build):
    dataset = build()
    first = dataset[5]
    with pytest.raises(ValueError, match='read-only'):
        first['img'][0] = 0
    before = content(copy.deepcopy(first))
    sample = dataset[5]
    sample['gt_bboxes'].flip_((32, 32))
    sample['gt_bboxes_labels'] += 1
    sample['gt_ignore_flags'] |= True
    with pytest.raises(ValueError, match='read-only'):
        sample['img'][0] = 0
    assert content(dataset[5]) == before


def test_the_bound_is_kept_and_reported(build, caplog, tmp_path):
    # 32 x 24 (3 bytes): 2,304 each of the first two of three, 32 x 32: 3,072 of the third; 4 x 7,680 in all.
    dataset = build(32, max_gb=10000e-9)
    assert dataset._cache.kept == 4 and dataset._cache.kept_bytes == 7680 + 2304
    assert dataset._cache.all_bytes == 4 * 7680
    plain = build(32, max_gb=0)
    for _ in range(2):
        assert [content(dataset[i]) for i in range(12)] == [content(plain[i]) for i in range(12)]
    assert dataset._cache._valid.tolist() == [True] * 4


def test_the_log_reports_how_much_is_kept(build, monkeypatch):
    said = []
    monkeypatch.setattr('mmyolo_ext.datasets.cached_dataset.print_log', lambda text, **_: said.append(text))
    build(32, max_gb=10000e-9)
    build(32)
    build(32, max_gb=0)
    assert 'holds 4 of 12 decoded images, 0.00 of 0.00 GB' in said[0] and 'Raise max_gb' in said[0]
    assert said[1] == 'the cache holds 12 of 12 decoded images, 0.00 of 0.00 GB, in memory' and len(said) == 2


def fill(dataset, indices):
    for index in indices:
        dataset[index]


def test_forked_processes_share_what_each_decodes(build):
    dataset, context = build(), multiprocessing.get_context('fork')
    children = [context.Process(target=fill, args=(dataset, range(k, 12, 2))) for k in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert not dataset._cache._valid.any()
    dataset.dataset.pipeline = None  # nothing can be decoded from here on
    plain = build(max_gb=0)
    assert [content(dataset[i]) for i in range(12)] == [content(plain[i]) for i in range(12)]


def test_a_later_run_reads_the_file(build, tmp_path):
    fill(build(folder=str(tmp_path)), range(12))
    later = build(folder=str(tmp_path))
    assert len(list(tmp_path.glob('*.images'))) == 1
    later.dataset.pipeline = None
    plain = build(max_gb=0)
    assert [content(later[i]) for i in range(12)] == [content(plain[i]) for i in range(12)]
    build(16, folder=str(tmp_path))
    assert len(list(tmp_path.glob('*.images'))) == 2  # another size is another file


def test_a_changed_image_is_decoded_anew(build, coco_folder, tmp_path):
    path = coco_folder / '4.png'
    before, times = path.read_bytes(), (os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns)
    fill(build(folder=str(tmp_path)), range(12))
    try:
        cv2.imwrite(str(path), 255 - cv2.imread(str(path)))
        later = build(folder=str(tmp_path))
        assert later._cache.get(4) is None and later._cache.get(3) is not None
        assert content(later[4]) == content(build(max_gb=0)[4])
        assert later._cache.get(4) is not None
    finally:
        path.write_bytes(before)
        os.utime(path, ns=times)


@pytest.mark.parametrize('where', ['memory', 'file'])
def test_half_written_pixels_are_not_believed(build, tmp_path, where):
    options = {'folder': str(tmp_path)} if where == 'file' else {}
    dataset = build(**options)
    fill(dataset, range(12))
    cache = dataset._cache
    cache._valid[:] = False  # as another process has it
    cache._pixels(7)[:3] = 0
    assert cache.get(7) is None and cache.get(8) is not None
    assert content(dataset[7]) == content(build(max_gb=0)[7])
    cache._valid[:] = False
    assert cache.get(7) is not None  # written again


@pytest.mark.parametrize('where', ['memory', 'file'])
def test_a_pickled_cache(build, tmp_path, where):
    """As spawned workers get it: a file is opened again, memory stays behind."""
    dataset = build(**({'folder': str(tmp_path)} if where == 'file' else {}))
    fill(dataset, range(12))
    pickled = pickle.dumps(dataset)
    copied = pickle.loads(pickled)
    assert len(pickled) < 40_000  # 30,720 bytes of pixels stay where they are
    assert (copied._cache.get(3) is not None) == (where == 'file')
    assert [content(copied[i]) for i in range(12)] == [content(dataset[i]) for i in range(12)]


def test_a_disk_without_room(build, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'posix_fallocate', full)
    with pytest.raises(ValueError, match='No space left on device. Choose another folder or a smaller max_gb'):
        build(folder=str(tmp_path))


def test_a_skipped_image_is_replaced_alike(build, coco_folder):
    whole = (coco_folder / '3.png').read_bytes()
    loading = {'pipeline': [{'type': 'mmyolo_ext.LoadImage', 'skip_broken': True}]}
    try:
        (coco_folder / '3.png').write_bytes(whole[:-10])
        with pytest.warns(UserWarning, match=r'3\.png'):
            dataset, plain = build(inner=loading), build(inner=loading, max_gb=0)
            for _ in range(2):
                samples = []
                for one in (dataset, plain):
                    np.random.seed(5)
                    samples.append((content(one[3]), np.random.rand()))
                assert samples[0] == samples[1] and samples[0][0][2]['img_id'] != 3
    finally:
        (coco_folder / '3.png').write_bytes(whole)


def test_what_cannot_be_cached_is_refused(build, coco_config):
    flip = [*LOAD, {'type': 'mmdet.RandomFlip', 'prob': 0.5}]
    with pytest.raises(ValueError, match=r"got \['LoadImage', 'RandomFlip'\].*SeededDataset"):
        build(inner={'pipeline': flip})
    with pytest.raises(ValueError, match='max_gb'):
        build(max_gb=-1)


def test_sides_that_are_missing_or_wrong_are_named(build, write_coco, coco_folder):
    with pytest.raises(ValueError, match=r'1\.png is \(64, 48\) .* its annotation has \(30, 40\)'):
        inner = {'ann_file': str(write_coco()), 'metainfo': {'classes': ('cat', 'dog')}}
        inner['pipeline'] = [{'type': 'LoadImageFromFile', '_scope_': 'mmcv'}]
        build(inner=inner)[0]
