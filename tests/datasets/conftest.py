"""Images with painted rectangles, small COCO folders, and the boxes read back from the pixels."""

import copy
import json
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures.bbox import HorizontalBoxes

BACKGROUND = 30


class Painter:
    """Makes samples whose boxes can be found again in their pixels."""

    @staticmethod
    def sample(height, width, boxes=(), colours=None, labels=None, ignore=None):
        """A results dict: grey image, box k filled with colours[k] (a grey level)."""
        image = np.full((height, width, 3), BACKGROUND, np.uint8)
        colours = colours or [200] * len(boxes)
        for (x1, y1, x2, y2), colour in zip(boxes, colours, strict=True):
            image[y1:y2, x1:x2] = colour
        return {
            'img': image,
            'img_shape': (height, width),
            'ori_shape': (height, width),
            'gt_bboxes': HorizontalBoxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
            'gt_bboxes_labels': np.array(labels if labels is not None else range(len(boxes)), np.int64),
            'gt_ignore_flags': np.array(ignore if ignore is not None else [False] * len(boxes), bool),
        }

    @staticmethod
    def find(image, colour, tolerance=8):
        """(x1, y1, x2, y2) edges around the pixels of a grey level, or None."""
        rows, columns = np.nonzero(np.abs(image[..., 0].astype(int) - colour) <= tolerance)
        if len(rows) == 0:
            return None
        return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1

    @staticmethod
    def mix(samples):
        """The first sample with the others as its partners, as MultiImageMixDataset hands them over."""
        return {**copy.deepcopy(samples[0]), 'mix_results': copy.deepcopy(samples[1:])}


@pytest.fixture(scope='session')
def painter():
    return Painter


@pytest.fixture
def quartet(painter):
    """Four images of several shapes with one or two boxes each, all of different grey levels, and the levels."""
    colours = [60, 75, 90, 140, 160, 180, 200]
    shapes = [(96, 128), (72, 128), (96, 60), (90, 110)]
    boxes = [[(10, 20, 60, 70), (80, 40, 120, 90)], [(30, 10, 90, 60)], [(8, 8, 50, 88)], [(5, 5, 50, 45),
             (60, 50, 104, 84), (58, 10, 100, 30)]]  # fmt: skip
    samples, first = [], 0
    for (height, width), own in zip(shapes, boxes, strict=True):
        labels = list(range(first, first + len(own)))
        flags = [label % 2 == 1 for label in labels]
        samples.append(painter.sample(height, width, own, [colours[k] for k in labels], labels, flags))
        first += len(own)
    return samples, colours


@pytest.fixture
def write_coco(tmp_path):
    """Writes a COCO file, ``changes`` over a valid one of two images and two boxes; returns its path."""

    def write(text=None, name='train.json', **changes) -> Path:
        content = {
            'images': [
                {'id': 1, 'file_name': '1.png', 'width': 40, 'height': 30},
                {'id': 2, 'file_name': '2.png', 'width': 40, 'height': 30},
            ],
            'annotations': [
                {'id': 1, 'image_id': 1, 'category_id': 7, 'bbox': [1, 2, 10, 20], 'area': 200, 'iscrowd': 0},
                {'id': 2, 'image_id': 1, 'category_id': 9, 'bbox': [5, 5, 10, 10], 'area': 100, 'iscrowd': 0},
            ],
            'categories': [{'id': 7, 'name': 'cat'}, {'id': 9, 'name': 'dog'}],
        }
        content.update(changes)
        path = tmp_path / name
        path.write_text(json.dumps(content) if text is None else text)
        return path

    return write


@pytest.fixture(scope='session')
def coco_folder(tmp_path_factory):
    """Twelve noisy PNGs of three sizes, each with up to three boxes, the first with none; 'train.json' beside."""
    folder, rng = tmp_path_factory.mktemp('coco'), np.random.RandomState(0)
    images, annotations = [], []
    for index in range(12):
        height, width = [(48, 64), (64, 48), (40, 40)][index % 3]
        cv2.imwrite(str(folder / f'{index}.png'), rng.randint(0, 256, (height, width, 3), dtype=np.uint8))
        images.append({'id': index, 'file_name': f'{index}.png', 'width': width, 'height': height})
        for _ in range(min(index, 3)):
            x, y, w, h = (int(v) for v in (*rng.randint(0, 20, 2), *rng.randint(8, 20, 2)))
            annotations.append(
                {'id': len(annotations), 'image_id': index, 'category_id': 1, 'bbox': [x, y, w, h], 'iscrowd': 0}
            )
    content = {'images': images, 'annotations': annotations, 'categories': [{'id': 1, 'name': 'thing'}]}
    (folder / 'train.json').write_text(json.dumps(content))
    return folder


@pytest.fixture
def coco_config(coco_folder):
    """Config of the data set of ``coco_folder``; keywords override."""

    def config(size=32, **changes):
        return {
            'type': 'mmyolo_ext.CheckedCocoDataset',
            'ann_file': str(coco_folder / 'train.json'),
            'data_prefix': {'img': str(coco_folder)},
            'metainfo': {'classes': ('thing',)},
            'pipeline': [
                {'type': 'mmyolo_ext.LoadImage'},
                {'type': 'mmdet.LoadAnnotations', 'with_bbox': True},
                {'type': 'mmdet.Resize', 'scale': (size, size), 'keep_ratio': True},
            ],
            **changes,
        }

    return config


BCCD_CLASSES = ('RBC', 'WBC', 'Platelets')


@pytest.fixture(scope='session')
def bccd_config(bccd_dir, tmp_path_factory):
    """Config of a split of BCCD, its XML written as COCO JSON."""
    folder = tmp_path_factory.mktemp('bccd')

    def config(split, **changes):
        images, annotations = [], []
        for name in (bccd_dir / 'ImageSets' / 'Main' / f'{split}.txt').read_text().split():
            root = ElementTree.parse(bccd_dir / 'Annotations' / f'{name}.xml').getroot()
            images.append({'id': len(images), 'file_name': f'{name}.jpg', 'width': 640, 'height': 480})
            for node in root.iter('object'):
                # VOC counts pixels from 1, both ends included.
                x1, y1, x2, y2 = (int(node.find(f'bndbox/{k}').text) for k in ('xmin', 'ymin', 'xmax', 'ymax'))
                w, h = x2 - x1 + 1, y2 - y1 + 1
                annotations.append(
                    {'id': len(annotations), 'image_id': len(images) - 1, 'bbox': [x1 - 1, y1 - 1, w, h],
                     'category_id': BCCD_CLASSES.index(node.find('name').text), 'area': w * h, 'iscrowd': 0}
                )  # fmt: skip
        categories = [{'id': i, 'name': name} for i, name in enumerate(BCCD_CLASSES)]
        path = folder / f'{split}.json'
        path.write_text(json.dumps({'images': images, 'annotations': annotations, 'categories': categories}))
        return {
            'type': 'mmyolo_ext.CheckedCocoDataset', 'ann_file': str(path), 'metainfo': {'classes': BCCD_CLASSES},
            'data_prefix': {'img': str(bccd_dir / 'JPEGImages')}, **changes,
        }  # fmt: skip

    return config
