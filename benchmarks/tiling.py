"""AP of a training on tiles beside one on whole images, and of a head with stride 4 beside one without.

Images of 4000 x 3000 px are composed of 36 images of BCCD each: 8 for training, 2 for validation. Both trainings have
one network, input size, number of samples and number of steps; that on whole images repeats each image as often as it
has tiles. The trainings of the heads take the single images at a small input size::

    OMP_NUM_THREADS=1 python benchmarks/tiling.py BCCD_AS_COCO OUT --only tiles whole
    OMP_NUM_THREADS=1 python benchmarks/tiling.py BCCD_AS_COCO OUT --only p3 p2

``BCCD_AS_COCO`` has ``annotations/trainval.json``, ``annotations/test.json`` and ``JPEGImages``, see
docs/guides/data.md.
"""

import argparse
import json
import time
from pathlib import Path

import cv2
import numpy as np

CONFIGS = Path(__file__).parents[1] / 'configs'
SIZE_WH, ROWS, COLUMNS = (4000, 3000), 6, 6
TILE, OVERLAP, TILES = 640, 0.2, 48
RUNS = ('tiles', 'whole', 'p3', 'p2')


def compose(coco: dict, images: Path, folder: Path, copies: int = 1) -> dict:
    """Write images of 4000 x 3000 px, each of 36 of 640 x 480 with 24 px of grey between, and return their COCO JSON.

    Args:
        coco: Annotations of the single images; those that do not fill an image are left out.
        images: Their folder.
        folder: Where the large images go.
        copies: How often each large image is listed.
    """
    content = {'images': [], 'annotations': [], 'categories': coco['categories']}
    per_image = ROWS * COLUMNS
    for start in range(0, len(coco['images']) // per_image * per_image, per_image):
        canvas, placed = np.full((*SIZE_WH[::-1], 3), 200, np.uint8), []
        for k, image in enumerate(coco['images'][start : start + per_image]):
            x, y = k % COLUMNS * 664, k // COLUMNS * 504
            canvas[y : y + 480, x : x + 640] = cv2.imread(str(images / image['file_name']))[:480, :640]
            for one in coco['annotations']:
                if one['image_id'] == image['id']:
                    left, top, width, height = one['bbox']
                    placed.append({**one, 'bbox': [left + x, top + y, width, height]})
        name = f'{start // per_image}.png'
        cv2.imwrite(str(folder / name), canvas)
        for _ in range(copies):
            number = len(content['images']) + 1
            size = {'width': SIZE_WH[0], 'height': SIZE_WH[1]}
            content['images'].append({'id': number, 'file_name': name, **size})
            for one in placed:
                moved = {'id': len(content['annotations']) + 1, 'image_id': number}
                content['annotations'].append({**one, **moved})
    return content


def write_config(run: str, coco: Path, out: Path, epochs: int) -> Path:
    """Write the config of a training and its data, and return the path of the config."""
    folder = out / run
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["check = 'off'", f'max_epochs = {epochs}', 'batch_size = 8', f'train_cfg = dict(val_interval={epochs})']
    root, images, size = coco, 'JPEGImages/', 160
    anns = [f'annotations/{split}.json' for split in ('trainval', 'test')]
    if run in ('tiles', 'whole'):
        root, images, size, anns = folder, '', 320, []
        for split in ('trainval', 'test'):
            (folder / split).mkdir(exist_ok=True)
            content = json.loads((coco / 'annotations' / f'{split}.json').read_text())
            copies = TILES if (run, split) == ('whole', 'trainval') else 1
            content = compose(content, coco / 'JPEGImages', folder / split, copies)
            for image in content['images']:
                image['file_name'] = f'{split}/{image["file_name"]}'
            anns.append(f'{split}.json')
            (folder / anns[-1]).write_text(json.dumps(content))
        # an image has 470 boxes: more detections than COCO's 100
        lines.append('val_evaluator = test_evaluator = dict(proposal_nums=(100, 300, 3000))')
        lines.append(f'tile = dict(size={TILE}, overlap={OVERLAP})' if run == 'tiles' else '')
    if run == 'p2':
        lines.append((CONFIGS / '_base_' / 'models' / 'yolov5_p2.py').read_text().partition('\n\n')[2])
    names = {'data_root': f'{root}/', 'train_ann': anns[0], 'val_ann': anns[1], 'train_img': images, 'val_img': images}
    lines += [f'{name} = {value!r}' for name, value in names.items()]
    lines += [
        f'input_size = {size}',
        'train_dataloader = dict(num_workers=1)',
        'default_hooks = dict(accumulate=dict(nominal_batch_size=8), close_mosaic=dict(num_last_epochs=4))',
        f"work_dir = '{folder / 'work'}'",
    ]
    path = folder / f'{run}.py'
    path.write_text(f"_base_ = '{CONFIGS / 'yolov5' / 'yolov5_n_320_bccd.py'}'\n" + '\n'.join(lines) + '\n')
    return path


def main() -> None:
    """Train and print the AP of each run."""
    from mmyolo_ext import train

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('coco', type=Path)
    parser.add_argument('out', type=Path)
    parser.add_argument('--only', nargs='+', choices=RUNS, default=RUNS)
    parser.add_argument('--epochs', type=int, default=16)
    args = parser.parse_args()
    for run in args.only:
        start = time.time()
        result = train(write_config(run, args.coco.resolve(), args.out.resolve(), args.epochs), recipe=None)
        scores = {name: result.metrics.get(f'coco/bbox_{name}') for name in ('mAP', 'mAP_50', 'mAP_s', 'mAP_m')}
        print('RESULT', run, json.dumps(scores), f'{time.time() - start:.0f} s', flush=True)


if __name__ == '__main__':
    main()
