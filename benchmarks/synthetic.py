"""Images like those of BCCD, for machines without it: discs of three classes on a bright background.

::

    python benchmarks/synthetic.py FOLDER [--images 292]

writes ``annotations/trainval.json``, ``annotations/test.json`` and ``JPEGImages``, as the configs for BCCD read them.
Use them to measure times only.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

CLASSES, COLOURS = ('RBC', 'WBC', 'Platelets'), ((150, 150, 220), (160, 80, 120), (190, 120, 160))
HEIGHT, WIDTH = 480, 640
MEAN_CELLS, SHARES, RADII = 13, (0.85, 0.08, 0.07), ((35, 60), (50, 90), (12, 22))  # px
TESTED = 72


def draw(rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[int, int, int, int]]]:
    """An image (480, 640, 3) BGR uint8, and of each disc its class, centre and radius."""
    image = rng.normal((215, 220, 225), 6, (HEIGHT, WIDTH, 3)).clip(0, 255).astype(np.uint8)
    discs = []
    for label in rng.choice(len(CLASSES), max(1, rng.poisson(MEAN_CELLS)), p=SHARES).tolist():
        radius = int(rng.integers(*RADII[label]))
        x, y = int(rng.integers(radius, WIDTH - radius)), int(rng.integers(radius, HEIGHT - radius))
        cv2.circle(image, (x, y), radius, COLOURS[label], -1, cv2.LINE_AA)
        discs.append((label, x, y, radius))
    return image, discs


def write(folder: Path, split: str, count: int, rng: np.random.Generator) -> None:
    """One split: its images, and its annotations in COCO's form."""
    images, annotations = [], []
    for index in range(count):
        name = f'{split}_{index:04d}.jpg'
        image, discs = draw(rng)
        cv2.imwrite(str(folder / 'JPEGImages' / name), image)
        images.append({'id': index, 'file_name': name, 'height': HEIGHT, 'width': WIDTH})
        for label, x, y, radius in discs:
            box = {'bbox': [x - radius, y - radius, 2 * radius, 2 * radius], 'area': 4 * radius**2, 'iscrowd': 0}
            annotations.append({'id': len(annotations) + 1, 'image_id': index, 'category_id': label + 1, **box})
    categories = [{'id': label + 1, 'name': name} for label, name in enumerate(CLASSES)]
    text = json.dumps({'images': images, 'annotations': annotations, 'categories': categories})
    (folder / 'annotations' / f'{split}.json').write_text(text, encoding='utf-8')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path)
    parser.add_argument('--images', type=int, default=292, help='to train on (default: %(default)s, as in BCCD)')
    options = parser.parse_args()
    for name in ('annotations', 'JPEGImages'):
        (options.folder / name).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for split, count in (('trainval', options.images), ('test', min(TESTED, options.images))):
        write(options.folder, split, count, rng)


if __name__ == '__main__':
    main()
