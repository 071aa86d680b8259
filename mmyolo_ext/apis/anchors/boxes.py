"""The sizes of a config's training boxes, as the network sees them.

Letters: G boxes.
"""

from typing import NamedTuple

import numpy as np
from mmengine.config import Config

from mmyolo_ext.apis.config_nodes import kind, leaf_datasets
from mmyolo_ext.registry import DATASETS

LEAST_SIDE = 2.0  # px; the training drops boxes with a side up to it


class BoxSizes(NamedTuple):
    """Boxes of a training split.

    Attributes:
        wh: (G, 2) px of the network input.
        pictures: how many there are.
        tiny: boxes left out, with a side of at most 2 px.
        size_hw: of the network input.
    """

    wh: np.ndarray
    pictures: int
    tiny: int
    size_hw: tuple[int, int]


def box_sizes(cfg: Config) -> BoxSizes:
    """Of all data sets of the training loader; no picture is opened. Crowds do not count.

    Pictures are fitted into the input size as the test pipeline does it, which is the middle of what training shows.

    Raises:
        ValueError: no box, or a pipeline that fits pictures into no size.
    """
    size_hw = input_size_hw(cfg)
    sizes, pictures = [], 0
    for leaf in leaf_datasets(cfg.train_dataloader.dataset):
        dataset = DATASETS.build({**leaf, 'pipeline': []})
        pictures += len(dataset)
        sizes += [size for index in range(len(dataset)) for size in _sizes(dataset.get_data_info(index), size_hw)]
    if not sizes:
        raise ValueError(f'there is no box on the {pictures} training pictures of the config: nothing can be fitted')
    wh = np.array(sizes)
    large = (wh > LEAST_SIDE).all(1)
    if not large.any():
        raise ValueError(
            f'all {len(wh)} training boxes have a side of at most {LEAST_SIDE:g} px at an input of '
            f'{size_hw[1]} x {size_hw[0]} px: choose a larger input_size'
        )
    return BoxSizes(wh[large], pictures, int((~large).sum()), size_hw)


def input_size_hw(cfg: Config) -> tuple[int, int]:
    """Height and width that the test pipeline fits pictures into.

    Raises:
        ValueError: it has neither a ``Letterbox`` nor a ``Resize`` that keeps the ratio of sides.
    """
    steps = next(leaf_datasets(cfg.test_dataloader.dataset)).pipeline
    for step in steps:
        if kind(step) == 'Letterbox':
            return tuple(step['size_hw'])
        if kind(step) == 'Resize' and step.get('keep_ratio') and 'scale' in step:
            return tuple(step['scale'])[::-1]
    raise ValueError(
        'the test pipeline must fit pictures into the input by mmyolo_ext.Letterbox, or by a Resize with keep_ratio, '
        f'got {[str(step["type"]) for step in steps]}'
    )


def _sizes(info: dict, size_hw: tuple[int, int]) -> list[tuple[float, float]]:
    factor = min(size_hw[0] / info['height'], size_hw[1] / info['width'])
    boxes = [instance['bbox'] for instance in info['instances'] if not instance.get('ignore_flag')]
    return [((x2 - x1) * factor, (y2 - y1) * factor) for x1, y1, x2, y2 in boxes]
