"""From a config and a checkpoint to an exported file that has been checked."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmyolo_ext.apis.inference import Detector
from mmyolo_ext.apis.shortcuts import leaf_datasets
from mmyolo_ext.export import parity, runtime
from mmyolo_ext.export.formats import Options, open_exported, write
from mmyolo_ext.export.graph import RawGraph
from mmyolo_ext.registry import DATASETS, TRANSFORMS

LETTERBOX = 'Letterbox'


class Export(NamedTuple):
    """What has been written, and how near it is to PyTorch."""

    files: tuple[Path, ...]
    difference: parity.Difference
    bound: parity.Bound


def export_detector(
    cfg: Config,
    checkpoint: str,
    out: Path,
    options: Options,
    size_hw: tuple[int, int] | None = None,
    picture: str | Path | None = None,
) -> Export:
    """Export, run the file on a picture, compare with PyTorch.

    The file takes its place only when it has passed: one that has not lies beside it, its name begun with ``failed_``.

    Args:
        cfg: read by ``load_config``.
        checkpoint: of a training.
        out: file to write.
        options: format and variants.
        size_hw: of the input; by default that of the config's ``Letterbox``.
        picture: by default the first of the config's test data.

    Raises:
        ValueError: what cannot be exported, or a difference above the bound.
    """
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    rule, own_size_hw = letterbox_of(cfg)
    image = runtime.read_picture(picture or first_picture(cfg))
    detector = Detector(cfg, checkpoint, 'cpu')
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent) as folder:
        file = Path(folder) / out.name
        write(detector.model, file, options, detector.classes, rule, size_hw or own_size_hw)
        run, rules = open_exported(file, options.format)
        bound = parity.HALF if options.half else parity.EXACT
        batches = list(views(image, rules))
        difference = parity.check(RawGraph(detector.model), run, batches, rules, bound)
        passed = difference.within(bound)
        del run  # some runtimes keep the file open
        files = [_move(part, out.parent / f'{"" if passed else "failed_"}{part.name}') for part in _parts(folder)]
    if not passed:
        raise ValueError(
            f'the exported file differs from PyTorch by {difference}, above the bound of {bound.boxes_px} px and '
            f'{bound.scores}; it is kept as {files[0]}'
        )
    return Export(tuple(files), difference, bound)


def letterbox_of(cfg: Config) -> tuple[dict, tuple[int, int]]:
    """How the config's test pipeline puts pictures into the input, and the size (height, width) it fits them into.

    Raises:
        ValueError: a pipeline without ``mmyolo_ext.Letterbox``.
    """
    pipeline = next(leaf_datasets(cfg.test_dataloader.dataset)).pipeline
    steps = [step for step in pipeline if str(step['type']).endswith(LETTERBOX)]
    if len(steps) != 1:
        raise ValueError(
            'the test pipeline must resize by one mmyolo_ext.Letterbox, which runtimes repeat, got '
            f'{[str(step["type"]) for step in pipeline]}'
        )
    step = TRANSFORMS.build(steps[0])
    keys = ('pad_val', 'centred', 'allow_upscale', 'interpolation')
    return {key: getattr(step, key) for key in keys}, tuple(step.size_hw)


def first_picture(cfg: Config) -> str:
    """Path of a picture of the config's test data.

    Raises:
        ValueError: the data are not there.
    """
    try:
        dataset = DATASETS.build(next(leaf_datasets(cfg.test_dataloader.dataset)))
        return dataset.get_data_info(0)['img_path']
    except (ValueError, OSError, IndexError) as error:
        raise ValueError(
            f'the check needs a picture, and the test data of the config cannot be read ({error}): give one by '
            '--image FILE'
        ) from error


def views(image: np.ndarray, rules: dict) -> Iterator[np.ndarray]:
    """A picture as the network takes it (1, 3, H, W); if sizes are open, also two of them on a wider canvas."""
    height, width = rules['size_hw']
    canvases = [((height, width), [image])]
    if rules['dynamic']:
        canvases.append(((height, width + max(rules['strides'])), [image, np.ascontiguousarray(image[:, ::-1])]))
    for canvas_hw, images in canvases:
        placed = [runtime.letterbox(one, rules['size_hw'], canvas_hw, rules['letterbox'])[0] for one in images]
        yield runtime.normalise(placed, rules)


def _parts(folder: str) -> list[Path]:
    """The files in a folder, the one to open first: ``a.xml`` before ``a.bin``, ``a.engine`` before its JSON."""
    return sorted(Path(folder).iterdir(), key=lambda part: (len(part.name), part.suffix != '.xml'))


def _move(source: Path, target: Path) -> Path:
    shutil.move(source, target)
    return target
