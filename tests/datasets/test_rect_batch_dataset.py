"""Shapes of validation batches, worked out by hand."""

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import BaseDataset

from mmyolo_ext.datasets import RectBatchDataset
from mmyolo_ext.datasets.transforms.functional import rectangle
from mmyolo_ext.engine.rect_batches import fit_rect_batches

# Height x width: aspects 0.75, 1.33, 0.5, 1, 0.75.
SIDES_HW = [(480, 640), (640, 480), (300, 600), (500, 500), (240, 320)]


class Sides(BaseDataset):
    """Images of given sides, without files."""

    def __init__(self, sides_hw=SIDES_HW, pipeline=(), **kwargs):
        self.sides_hw = sides_hw
        super().__init__(pipeline=list(pipeline), test_mode=True, **kwargs)

    def load_data_list(self):
        return [
            {'img_id': i, 'img_path': f'{i}.png', 'height': h, 'width': w} for i, (h, w) in enumerate(self.sides_hw)
        ]


def paint(results):
    return {**results, 'img': np.zeros((results['height'], results['width'], 3), np.uint8)}


def test_order_and_shapes():
    dataset = RectBatchDataset(Sides(), batch_size=2, size=320)
    # Sorted: 2 (0.5), 0 and 4 (0.75, in their order), 3 (1), 1 (1.33).
    assert [dataset[i]['img_id'] for i in range(5)] == [2, 0, 4, 3, 1]
    assert [dataset[i]['sample_idx'] for i in range(5)] == list(range(5))
    # Batch 1: 160 x 320 and 240 x 320 -> 240/32 + 0.5 = 8 -> 256; 320/32 + 0.5 = 10.5 -> 352.
    # Batch 2: 240 x 320 and 320 x 320 -> 352 x 352. Batch 3: 320 x 240 -> 352 x 256.
    expected = [(256, 352), (256, 352), (352, 352), (352, 352), (352, 256)]
    assert [dataset[i]['batch_shape_hw'] for i in range(5)] == expected
    assert dataset[-1]['img_id'] == 1 and dataset.get_data_info(4)['batch_shape_hw'] == (352, 256)
    with pytest.raises(IndexError):
        dataset[5]


@pytest.mark.parametrize(
    ('sides_hw', 'options', 'expected'),
    [
        ([(480, 640)], {'extra': 0}, (256, 320)),  # 240/32 = 7.5 -> 8; 320/32 = 10
        ([(480, 640)], {'extra': 1}, (288, 352)),  # 8.5 -> 9; 11
        ([(480, 640)], {'stride': 64}, (320, 384)),  # 3.75 + 0.5 -> 5; 5 + 0.5 -> 6
        ([(480, 640)], {'size_hw': (192, 320)}, (224, 288)),  # 192 x 256: 6.5 -> 7; 8.5 -> 9
        ([(100, 200)], {}, (192, 352)),  # 160 x 320: 5.5 -> 6
        ([(100, 200)], {'allow_upscale': False}, (128, 224)),  # 3.125 + 0.5 -> 4; 6.25 + 0.5 -> 7
        # In floats 147 * (320 / 147) lies above 320.
        ([(147, 147)], {'extra': 0}, (320, 320)),
        ([(49, 7), (7, 49)], {'extra': 0}, (320, 320)),
    ],
)
def test_rectangles(sides_hw, options, expected):
    arguments = {'size_hw': (320, 320), 'stride': 32, 'extra': 0.5, **options}
    assert rectangle(np.array(sides_hw, float), **arguments) == expected


def test_every_image_fits_unshrunk():
    """Letterbox in the batch's canvas resizes a image exactly as in its size alone."""
    rng = np.random.RandomState(0)
    sides = [tuple(int(s) for s in rng.randint(20, 800, 2)) for _ in range(60)]
    pipeline = [paint, {'type': 'mmyolo_ext.Letterbox', 'size_hw': 320, 'centred': True}]
    dataset = RectBatchDataset(Sides(sides, pipeline), batch_size=8, size=320)
    for start in range(0, 60, 8):
        shapes = {dataset[i]['img_shape'] for i in range(start, min(start + 8, 60))}
        assert len(shapes) == 1 and all(side % 32 == 0 for side in shapes.pop())
    for i in range(60):
        results = dataset[i]
        top, bottom, left, right = results['pad_param']
        resized = results['img_shape'][0] - top - bottom, results['img_shape'][1] - left - right
        assert max(resized) == 320 and min(top, bottom, left, right) >= 0


def test_the_shape_depends_on_the_sample_alone():
    dataset = RectBatchDataset(Sides(), batch_size=2, size=320)
    backwards = [dataset[i]['batch_shape_hw'] for i in reversed(range(5))]
    assert backwards == [RectBatchDataset(Sides(), 2, 320)[i]['batch_shape_hw'] for i in range(5)][::-1]


def test_around_coco(coco_config):
    config = coco_config(test_mode=True, pipeline=[{'type': 'mmyolo_ext.LoadImage'},
                                                   {'type': 'mmyolo_ext.Letterbox', 'size_hw': 64}])  # fmt: skip
    dataset = RectBatchDataset(config, batch_size=4, size=64)
    assert len(dataset) == 12 and dataset.metainfo['classes'] == ('thing',)
    # Sides 48 x 64, then 40 x 40, then 64 x 48: 1.5 + 0.5 -> 64, 2.5 -> 96.
    assert [dataset[i]['img_shape'] for i in (0, 4, 8)] == [(64, 96), (96, 96), (96, 64)]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'batch_size': 0}, 'batch_size'),
        ({'batch_size': 2, 'stride': 0}, 'stride'),
        ({'batch_size': 2, 'extra': -1}, 'extra'),
        ({'batch_size': 2, 'size': 'large'}, 'size'),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        RectBatchDataset(Sides(), **{'size': 320, **arguments})


def test_bad_data_sets():
    with pytest.raises(ValueError, match=r'height and width in the annotation of 0\.png'):
        RectBatchDataset(Sides([(0, 5)]), batch_size=2, size=320)
    with pytest.raises(ValueError, match=r'returned None for 0\.png'):
        RectBatchDataset(Sides([(5, 5)], [lambda results: None]), batch_size=2, size=320)[0]


def test_a_rectangle_is_shared_by_the_images_that_all_ranks_validate_together():
    steps = [{'type': f'mmyolo_ext.{name}'} for name in ('LoadImage', 'LoadAnnotations', 'PackInputs')]
    steps.insert(2, {'type': 'mmyolo_ext.Letterbox', 'size_hw': (64, 96)})
    inner = {'type': 'MixDataset', 'datasets': [{'pipeline': steps}]}
    rect = {'type': 'mmyolo_ext.RectBatchDataset', 'batch_size': 1, 'pipeline': [], 'dataset': inner}
    cfg = Config({'val_dataloader': {'batch_size': 4, 'dataset': {'type': 'Outer', 'dataset': rect}}})
    fit_rect_batches(cfg, world_size=3)
    fitted = cfg.val_dataloader.dataset.dataset
    assert fitted.batch_size == 12
    assert [step['type'][11:] for step in fitted.pipeline] == ['LoadImageFromFile', 'Resize', 'PackInputs']
    assert fitted.pipeline[1].scale == (96, 64)
