"""Count the files and functions that one call passes through: how much a reader opens to follow it.

::

    python benchmarks/call_paths.py [--only loss]

Counted are functions of mmyolo_ext, of its tools and of mmdet, each once, with comprehensions and lambdas counted as
part of the function around them; PyTorch, mmengine and mmcv are not. A first call fills caches, the second counts.
"""

import argparse
import inspect
import json
import runpy
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import cv2
import mmdet
import numpy as np
import torch
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS, MODELS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.structures import InstanceData

import mmyolo_ext
from mmyolo_ext.apis import load_config

ROOT = Path(__file__).parents[1]
OURS, MMDET = Path(mmyolo_ext.__file__).parent, Path(mmdet.__file__).parent
COUNTED = (str(OURS), str(ROOT / 'tools'), str(MMDET))
CONFIG = ROOT / 'configs' / 'yolov5' / 'yolov5_n_640_coco.py'
BUDGET = {'loss': (14, 45), 'predict': (8, 28), 'train.py': (4, 12), 'sample': (22, 70)}  # files, functions
MMDET_HEADS = {
    'FCOS': 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    'YOLOX': 'yolox/yolox_tiny_8xb8-300e_coco.py',
    'YOLOv3': 'yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py',
    'ATSS': 'atss/atss_r50_fpn_1x_coco.py',
}
SIZE, STRIDES = 320, (8, 16, 32, 64, 128)


class RunnerBuilt(Exception):  # noqa: N818
    """The program has come to the runner."""


class CallPath:
    """Record the functions that are called inside a ``with`` block.

    Args:
        until: Raise :class:`RunnerBuilt` when a function of this name is called in mmengine's or our runner.

    Attributes:
        functions: (file, qualified name) -> number of calls.
    """

    def __init__(self, until: str | None = None) -> None:
        self.until = until
        self.functions: dict[tuple[str, str], int] = {}

    def __enter__(self) -> 'CallPath':
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, _: object) -> None:
        if event != 'call':
            return
        code = frame.f_code
        if code.co_name == self.until and code.co_filename.endswith('runner.py'):
            sys.setprofile(None)
            raise RunnerBuilt
        is_function = code.co_flags & inspect.CO_OPTIMIZED and not code.co_name.startswith('<')  # no class, no lambda
        if is_function and code.co_filename.startswith(COUNTED):
            key = code.co_filename, code.co_qualname if hasattr(code, 'co_qualname') else code.co_name
            self.functions[key] = self.functions.get(key, 0) + 1

    def summary(self) -> dict[str, int]:
        """Return the number of files, functions and calls."""
        files = {file for file, _ in self.functions}
        return {'files': len(files), 'functions': len(self.functions), 'calls': sum(self.functions.values())}


def count(call: Callable[[], Any]) -> CallPath:
    """Call twice, and record the second call."""
    call()
    with CallPath() as path:
        call()
    return path


def batch(num_classes: int) -> list[DetDataSample]:
    """Two images of three boxes."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(2):
        corners = torch.rand(3, 2, generator=generator) * SIZE / 2
        sizes = 20 + torch.rand(3, 2, generator=generator) * SIZE / 3
        size = {'img_shape': (SIZE, SIZE), 'ori_shape': (SIZE, SIZE), 'batch_input_shape': (SIZE, SIZE)}
        sample = DetDataSample(metainfo={**size, 'pad_shape': (SIZE, SIZE), 'scale_factor': (1.0, 1.0)})
        labels = torch.randint(num_classes, (3,), generator=generator)
        sample.gt_instances = InstanceData(bboxes=torch.cat([corners, corners + sizes], 1), labels=labels)
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
        samples.append(sample)
    return samples


def of_head(cfg: Config) -> dict[str, CallPath]:
    """Return the paths of ``loss`` and ``predict`` of a model's head, from maps of its neck."""
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    feats = model.eval().extract_feat(torch.rand(2, 3, SIZE, SIZE))
    samples = batch(model.bbox_head.num_classes)
    model.bbox_head.test_cfg['score_thr'] = 1e-5  # an untrained head is sure of nothing
    with torch.no_grad():
        predict = count(lambda: model.bbox_head.predict(feats, samples, rescale=True))
    model.train()
    return {'loss': count(lambda: model.bbox_head.loss(feats, samples)), 'predict': predict}


def of_train(folder: Path, config: Path) -> CallPath:
    """Return the path of ``tools/train.py`` until it builds the runner."""
    script = ROOT / 'tools' / 'train.py'
    arguments, sys.argv = sys.argv, [str(script), str(config), '--work-dir', str(folder / 'work')]
    path = CallPath(until='from_cfg')
    try:
        with path:
            runpy.run_path(str(script), run_name='__main__')
    except RunnerBuilt:
        return path
    finally:
        sys.argv = arguments
    raise RuntimeError(f'{script} built no runner')


def of_sample(folder: Path) -> CallPath:
    """Return the path from the files of a mosaic to a training sample, with images already read into the cache."""
    dataset = DATASETS.build(load_config(write_config(folder)).train_dataloader.dataset)
    return count(lambda: dataset[0])


def write_config(folder: Path) -> Path:
    """Write eight JPEG files with annotations, and a config that trains on them."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for index in range(8):
        cv2.imwrite(str(folder / f'{index}.jpg'), rng.integers(0, 255, (240, 320, 3), dtype=np.uint8))
        images.append({'id': index, 'file_name': f'{index}.jpg', 'height': 240, 'width': 320})
        box = {'bbox': [20, 30, 100, 120], 'area': 12000, 'iscrowd': 0, 'category_id': 1}
        annotations.append({'id': index, 'image_id': index, **box})
    categories = [{'id': label, 'name': name} for label, name in enumerate(CocoDataset.METAINFO['classes'], start=1)]
    coco = {'images': images, 'annotations': annotations, 'categories': categories}
    (folder / 'annotations.json').write_text(json.dumps(coco))
    split = {'data_root': str(folder), 'ann_file': 'annotations.json', 'data_prefix': {'img': ''}}
    cfg = Config.fromfile(CONFIG)
    for key in ('train_dataloader', 'val_dataloader'):
        node = cfg[key].dataset
        while 'dataset' in node:
            node = node.dataset
        node.update(split)
    cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = str(folder / 'annotations.json')
    cfg.test_dataloader = cfg.val_dataloader
    cfg.dump(folder / 'config.py')
    return folder / 'config.py'


def main() -> None:
    """Print one row for each path."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', default='', help='count only paths whose name contains this text')
    parser.add_argument('--list', action='store_true', help='list the functions of each path of ours')
    options = parser.parse_args()
    register_all_modules()
    rows: dict[str, CallPath] = {}
    if options.only in 'loss predict':
        heads = {'YOLOv5Head': load_config(CONFIG)}
        heads |= {name: Config.fromfile(MMDET / '.mim' / 'configs' / path) for name, path in MMDET_HEADS.items()}
        for name, cfg in heads.items():
            cfg.model.pop('init_cfg', None)
            cfg.model.backbone.pop('init_cfg', None)
            rows |= {f'{kind} {name}': path for kind, path in of_head(cfg).items()}
    with tempfile.TemporaryDirectory() as folder:
        if options.only in 'train.py':
            config = write_config(Path(folder))
            of_train(Path(folder), config)  # imports what it needs
            rows['train.py mmyolo_ext'] = of_train(Path(folder), config)
        if options.only in 'sample':
            rows['sample mmyolo_ext'] = of_sample(Path(folder))
    print(f'{"path":24}{"files":>7}{"functions":>11}{"calls":>7}   budget')
    for name, path in rows.items():
        found, (kind, _, owner) = path.summary(), name.partition(' ')
        budget = '{} / {}'.format(*BUDGET[kind]) if owner in ('YOLOv5Head', 'mmyolo_ext') else ''
        print(f'{name:24}{found["files"]:7}{found["functions"]:11}{found["calls"]:7}   {budget}')
        if options.list and budget:
            for file, function in sorted(path.functions):
                parents = (parent for parent in (OURS.parent, MMDET.parent) if Path(file).is_relative_to(parent))
                print(f'    {Path(file).relative_to(next(parents))}: {function}')


if __name__ == '__main__':
    main()
