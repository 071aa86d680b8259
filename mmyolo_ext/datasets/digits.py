"""A detection dataset of real handwritten digits that needs no download.

scikit-learn ships 1,797 handwritten digits (UCI "Optical Recognition of Handwritten Digits", 8 x 8 pixels, 17 grey
levels). Each scene has a few of them, enlarged smoothly, on a drawn background; the box of a digit is tight around
its ink. 24 illegible scans are left out; the others are divided between the splits, so that no scan is in two of
them. ``val`` is for choosing the best checkpoint, ``test`` for its final score.

``python -m mmyolo_ext.datasets.digits OUT`` writes::

    OUT/{train,val,test}/000000.jpg ...   OUT/annotations/{train,val,test}.json (COCO)   OUT/manifest.json

A scene depends on (seed, split, index) alone; the same arguments give the same bytes.
"""

import argparse
import json
import os
import shutil
import time
from pathlib import Path

import cv2
import numpy as np

from mmyolo_ext.datasets.digit_scenes import CLASSES, MAX_SIDE, make_scene

FORMAT = 2  # increased when the same arguments give other images
SPLITS = ('train', 'val', 'test')
HELD_OUT_SHARE = 0.1  # of the scans of each class, for each of val and test


def load_scans() -> tuple[np.ndarray, np.ndarray]:
    """Return the scans (1797, 8, 8), ink 0..1, and their labels (1797,).

    Raises:
        ValueError: If scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError(
            'the digits are part of scikit-learn, which is not installed: '
            "pip install scikit-learn, or 'mmyolo_ext[demo]'"
        ) from error
    bunch = load_digits()
    return (bunch.images / 16).astype(np.float32), bunch.target.astype(int)


def legible(scans: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return whether each scan is legible, (S,) bool: most of its five nearest scans have the same label."""
    flat = scans.reshape(len(scans), -1).astype(np.float64)
    squares = (flat**2).sum(1)
    distance = squares[:, None] + squares - 2 * flat @ flat.T
    np.fill_diagonal(distance, np.inf)
    nearest = np.argsort(distance, axis=1, kind='stable')[:, :5]
    return (labels[nearest] == labels[:, None]).sum(1) >= 3


def split_scans(scans: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, list[np.ndarray]]:
    """Divide the legible scans: return for each split the disjoint scan indices of each class."""
    usable = legible(scans, labels)
    rng = np.random.default_rng([seed, len(SPLITS)])
    parts = {split: [] for split in SPLITS}
    for label in range(len(CLASSES)):
        chosen = rng.permutation(np.flatnonzero((labels == label) & usable))
        held_out = round(HELD_OUT_SHARE * len(chosen))
        cuts = np.split(chosen, [held_out, 2 * held_out])
        for split, scans_of_class in zip(('val', 'test', 'train'), cuts, strict=True):
            parts[split].append(np.sort(scans_of_class))
    return parts


def scene_rng(seed: int, split: str, index: int) -> np.random.Generator:
    """Return the random generator of one scene."""
    return np.random.default_rng([seed, SPLITS.index(split), index])


def write_split(folder: Path, split: str, count: int, size: int, seed: int) -> dict:
    """Write the images and the COCO file of one split; return the COCO dictionary."""
    scans, labels = load_scans()
    pool = split_scans(scans, labels, seed)[split]
    coco = {'images': [], 'annotations': [], 'categories': [{'id': i, 'name': name} for i, name in enumerate(CLASSES)]}
    (folder / split).mkdir(parents=True)
    (folder / 'annotations').mkdir(exist_ok=True)
    for index in range(count):
        image, digits, _, quality = make_scene(scene_rng(seed, split, index), scans, pool, size)
        name = f'{index:06d}.jpg'
        encoded = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        (folder / split / name).write_bytes(encoded.tobytes())
        coco['images'].append({'id': index, 'file_name': name, 'width': size, 'height': size})
        for digit in digits:
            x1, y1, x2, y2 = digit['box']
            coco['annotations'].append(
                {
                    'id': len(coco['annotations']) + 1,  # COCO's evaluation reads a match with id 0 as no match
                    'image_id': index,
                    'category_id': digit['label'],
                    'scan': digit['scan'],
                    'bbox': [x1, y1, x2 - x1, y2 - y1],
                    'area': (x2 - x1) * (y2 - y1),
                    'iscrowd': 0,
                }
            )
    (folder / 'annotations' / f'{split}.json').write_text(json.dumps(coco))
    return coco


def make_digits(
    out: str | Path, train: int = 1000, val: int = 100, test: int = 200, size: int = 128, seed: int = 0
) -> bool:
    """Write the dataset to ``out``, unless it exists; return whether it was written.

    Args:
        out: Folder, replaced if it has a digits dataset of other arguments.
        train: Number of training scenes.
        val: Number of validation scenes.
        test: Number of test scenes.
        size: Side of a scene in px.
        seed: Integer from 0 on.

    Raises:
        ValueError: If an argument is out of range, or ``out`` has other content.
    """
    scenes = {'train': train, 'val': val, 'test': test}
    if min(scenes.values()) < 1 or size < 2 * MAX_SIDE or seed < 0:
        raise ValueError(
            f'train, val and test must be at least 1, size at least {2 * MAX_SIDE} and seed at least 0, '
            f'got train={train}, val={val}, test={test}, size={size}, seed={seed}'
        )
    out = Path(out).resolve()
    wanted = {'format': FORMAT, **scenes, 'size': size, 'seed': seed}
    manifest = out / 'manifest.json'
    if manifest.is_file():
        if json.loads(manifest.read_text()).get('arguments') == wanted:
            return False
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f'{out} exists and is not a digits dataset: choose another folder')
    folder = out.with_name(f'.{out.name}.new-{os.getpid()}')
    try:
        counts = {}
        for split, count in scenes.items():
            coco = write_split(folder, split, count, size, seed)
            counts[split] = {'images': len(coco['images']), 'boxes': len(coco['annotations'])}
        (folder / 'manifest.json').write_text(json.dumps({'arguments': wanted, 'counts': counts}))
        old = out.with_name(f'.{out.name}.old-{os.getpid()}')
        if out.exists():
            out.rename(old)
        folder.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return True


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog='python -m mmyolo_ext.datasets.digits', description=__doc__.split('\n')[0])
    parser.add_argument('out', help='folder to write; replaced if it has digits of other arguments')
    parser.add_argument('--train', type=int, default=1000, help='number of training scenes')
    parser.add_argument('--val', type=int, default=100, help='number of validation scenes')
    parser.add_argument('--test', type=int, default=200, help='number of test scenes')
    parser.add_argument('--size', type=int, default=128, help='side of a scene in px')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    start = time.perf_counter()
    try:
        written = make_digits(args.out, args.train, args.val, args.test, args.size, args.seed)
    except (ValueError, OSError) as error:
        raise SystemExit(f'digits: {error}') from None
    counts = json.loads((Path(args.out) / 'manifest.json').read_text())['counts']
    scenes = ', '.join(
        f'{split} {count["images"]} scenes with {count["boxes"]} digits' for split, count in counts.items()
    )
    done = f'written in {time.perf_counter() - start:.1f} s' if written else 'exists already'
    print(f'{args.out}: {scenes} ({done})')


if __name__ == '__main__':
    main()
