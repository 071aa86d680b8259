"""A dataset of the tiles of large images, for training and for validation."""

import pickle

import numpy as np
from mmengine.dataset import BaseDataset, Compose
from mmengine.logging import print_log
from torch.utils.data import Dataset

from mmyolo_ext.datasets.transforms.annotations import stack_soft_labels
from mmyolo_ext.datasets.transforms.functional import annotated_hw, check_range
from mmyolo_ext.datasets.transforms.load_and_pack import LoadImage
from mmyolo_ext.registry import DATASETS
from mmyolo_ext.tiling import check_tiling, merge, tiles

__all__ = ['TiledDataset', 'merge', 'tiles']

RETRIES = 100


@DATASETS.register_module()
class TiledDataset(Dataset):
    """Cut each image of a dataset into overlapping tiles, which are its samples.

    A box belongs to a tile if at least ``min_visible`` of its area is in it, and is clipped to it; what is seen of
    other boxes becomes a region to be ignored, neither object nor background. ``CachedDataset``, ``MixDataset`` and
    ``RectBatchDataset`` go around it. For validation with COCO's metrics on whole images use ``TiledCocoMetric``,
    which merges the detections of the tiles.

    After :meth:`full_init`, ``report`` has ``images``, ``tiles``, ``background`` (tiles kept without a box),
    ``background_dropped``, ``boxes`` and ``ignored`` (cut boxes with less of them visible).

    Args:
        dataset: Config of a dataset, or the dataset: an mmengine ``BaseDataset`` whose pipeline begins with
            ``mmyolo_ext.LoadImage``, which cuts out the tile.
        size: Side of a tile, px of the image.
        overlap: Least share of their side that neighbouring tiles have in common.
        min_visible: See above.
        background: Share of the tiles without a box that is kept in training, drawn by ``seed``; in test mode, all
            tiles are kept.
        seed: Of this choice.
        lazy_init: Read no annotation yet; :meth:`full_init` or the first sample does.

    Raises:
        ValueError: On an argument out of its range, another loader of images, or an image without its size.
    """

    def __init__(
        self,
        dataset: dict | BaseDataset,
        size: int = 640,
        overlap: float = 0.2,
        min_visible: float = 0.4,
        background: float = 0.1,
        seed: int = 0,
        lazy_init: bool = False,
    ) -> None:
        check_tiling(size, overlap)
        if isinstance(dataset, dict):
            dataset = DATASETS.build({**dataset, 'lazy_init': True} if lazy_init else dataset)
        steps = dataset.pipeline.transforms
        if steps and not isinstance(steps[0], LoadImage):
            raise ValueError(
                f'the pipeline in TiledDataset must begin with mmyolo_ext.LoadImage, got {type(steps[0]).__name__}'
            )
        self.dataset, self.size, self.overlap, self.seed = dataset, size, overlap, seed
        self.min_visible = check_range('min_visible', min_visible, 0, 1)
        self.background = check_range('background', background, 0, 1)
        self.report: dict[str, int] = {}
        self._fully_initialized = False
        if not lazy_init:
            self.full_init()

    @property
    def metainfo(self) -> dict:
        """Metainfo of the dataset inside."""
        return self.dataset.metainfo

    @property
    def pipeline(self) -> Compose:
        """Transforms of the dataset inside."""
        return self.dataset.pipeline

    @property
    def test_mode(self) -> bool:
        """Whether every tile is kept."""
        return self.dataset.test_mode

    def full_init(self) -> None:
        """Read the annotations and list the tiles, once."""
        if self._fully_initialized:
            return
        self.dataset.full_init()
        generator = np.random.default_rng(self.seed)
        counts = dict.fromkeys(('images', 'tiles', 'background', 'background_dropped', 'boxes', 'ignored'), 0)
        content = []  # bytes of each tile: an image of hundreds of boxes is read once, and processes share one array
        for index in range(len(self.dataset)):
            info = self.dataset.get_data_info(index)
            counts['images'] += 1
            height, width = annotated_hw(info)
            for place in tiles(height, width, self.size, self.overlap):
                cut = self._instances(info, place)
                boxes = sum(not instance['ignore_flag'] for instance in cut)
                if not boxes and not self.test_mode and generator.random() >= self.background:
                    counts['background_dropped'] += 1
                    continue
                counts['tiles'] += 1
                counts['background'] += not boxes
                counts['boxes'] += boxes
                counts['ignored'] += len(cut) - boxes
                size = {'width': place[2], 'height': place[3], 'image_hw': (height, width)}
                content.append(pickle.dumps({**info, **size, 'instances': cut, 'tile_xywh': place}))
        self._content = np.frombuffer(b''.join(content), np.uint8)
        self._ends = np.cumsum([0, *map(len, content)])
        self.report, self._fully_initialized = counts, True
        text = ', '.join(f'{count} {name.replace("_", " ")}' for name, count in counts.items())
        print_log(f'tiles of {self.size} px that overlap by {self.overlap:g}: {text}', logger='current')

    def _instances(self, info: dict, place: tuple[int, int, int, int]) -> list[dict]:
        """Return the boxes that a tile shows, in its coordinates."""
        instances = info.get('instances') or []
        if not instances:
            return []
        x, y, w, h = place
        boxes = np.array([instance['bbox'] for instance in instances], np.float64)
        seen = (boxes - [x, y, x, y]).clip(0, [w, h, w, h])
        share = (seen[:, 2:] - seen[:, :2]).prod(1) / np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(1), 1e-9)
        shown = zip(instances, seen.tolist(), share.tolist(), strict=True)
        return [
            {**instance, 'bbox': box, 'ignore_flag': int(bool(instance.get('ignore_flag')) or part < self.min_visible)}
            for instance, box, part in shown
            if part > 0
        ]

    def __len__(self) -> int:
        self.full_init()
        return len(self._ends) - 1

    def get_data_info(self, index: int) -> dict:
        """Return the annotation of a tile; ``tile_xywh`` is its place, ``image_hw`` the size of the whole image."""
        index = range(len(self))[index]
        content = self._content[self._ends[index] : self._ends[index + 1]]
        return {**pickle.loads(memoryview(content)), 'sample_idx': index}

    def get_cat_ids(self, index: int) -> list[int]:
        """Return the labels of a tile, for mmengine's ``ClassBalancedDataset``."""
        instances = self.get_data_info(index)['instances']
        return [instance['bbox_label'] for instance in instances if not instance['ignore_flag']]

    def __getitem__(self, index: int) -> dict:
        for _ in range(RETRIES):
            info = self.get_data_info(index)
            rows = [instance.get('soft_label') for instance in info['instances']]
            soft_labels = stack_soft_labels(rows, [instance['bbox_label'] for instance in info['instances']])
            results = self.pipeline(info if soft_labels is None else {**info, 'gt_soft_labels': soft_labels})
            if results is not None:
                results.pop('instances', None)
                return results
            if self.test_mode:
                raise ValueError(
                    f'the test pipeline returned None for {info["img_path"]}: no image may be skipped here'
                )
            index = np.random.randint(len(self))
        raise ValueError(f'no usable tile in {RETRIES} attempts: check the images and the pipeline')
