"""A COCO data set of a few images with coloured squares, and a user's config for it, to run the tools on."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

REPO = Path(__file__).parents[1]
CLASSES = ('red', 'blue')
COLOURS = ((40, 40, 220), (220, 60, 40))  # BGR
SHAPES_HW = ((64, 64), (48, 64), (64, 40))


def make_tiny_coco(root: Path, train: int = 6, val: int = 5, background: Sequence[int] = (2, 5)) -> Path:
    """Write ``root/{train,val}/*.png`` and ``root/{train,val}.json``; the images of ``background`` have no box."""
    rng = np.random.RandomState(0)
    for split, count in (('train', train), ('val', val)):
        (root / split).mkdir(parents=True)
        coco = {'images': [], 'annotations': [], 'categories': []}
        coco['categories'] = [{'id': label + 1, 'name': name} for label, name in enumerate(CLASSES)]
        for number in range(count):
            _add_image(coco, root / split, number, SHAPES_HW[number % 3], rng, number not in background)
        (root / f'{split}.json').write_text(json.dumps(coco))
    return root


def _add_image(
    coco: dict, folder: Path, number: int, shape_hw: tuple, rng: np.random.RandomState, boxes: bool
) -> None:
    image = rng.randint(90, 140, (*shape_hw, 3)).astype(np.uint8)
    image_id = number + 1
    for label in range(2) if boxes else ():
        side = int(rng.randint(14, 24))
        x, y = (int(rng.randint(0, limit - side)) for limit in shape_hw[::-1])
        image[y : y + side, x : x + side] = COLOURS[label]
        coco['annotations'].append(
            {
                'id': len(coco['annotations']) + 1,
                'image_id': image_id,
                'category_id': label + 1,
                'bbox': [x, y, side, side],
                'area': side * side,
                'iscrowd': 0,
            }
        )
    name = f'{number:03}.png'
    cv2.imwrite(str(folder / name), image)
    coco['images'].append({'id': image_id, 'file_name': name, 'height': shape_hw[0], 'width': shape_hw[1]})


def tiny_options(root: Path, size: int = 64) -> dict:
    """The shortcuts that point any of our configs to the data set in ``root``."""
    return {
        'class_names': CLASSES,
        'data_root': f'{root}/',
        'train_ann': 'train.json',
        'train_img': 'train/',
        'val_ann': 'val.json',
        'val_img': 'val/',
        'input_size': size,
        'batch_size': 2,
        'max_epochs': 2,
    }


def write_user_config(path: Path, root: Path, base: str = 'yolov5/yolov5_n_640_coco.py', extra: str = '') -> Path:
    """A config as the README tells users to write, with a network small enough for tests."""
    lines = [f"_base_ = '{REPO / 'configs' / base}'"]
    lines += [f'{key} = {value!r}' for key, value in tiny_options(root).items()]
    lines += [
        'train_dataloader = dict(num_workers=0, persistent_workers=False)',
        'val_dataloader = dict(num_workers=0, persistent_workers=False)',
        'test_dataloader = dict(num_workers=0, persistent_workers=False)',
        'model = dict(backbone=dict(widen_factor=0.125), neck=dict(widen_factor=0.125))',
        # drawing takes longer than such a training; tests/cli/test_four_commands.py and test_tools.py draw
        'default_hooks = dict(report=None, curves=None)',
        "log_level = 'WARNING'",
        extra,
    ]
    path.write_text('\n'.join(lines) + '\n')
    return path
