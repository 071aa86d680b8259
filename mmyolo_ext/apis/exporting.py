"""Export a detector from its config and checkpoint, check the file, and evaluate it on the test data."""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from mmyolo_ext.apis.config_nodes import leaf_datasets
from mmyolo_ext.apis.inference import Detector
from mmyolo_ext.engine.rect_batches import fit_rect_batches
from mmyolo_ext.export import parity, runtime
from mmyolo_ext.export.dense_heads import TESTED
from mmyolo_ext.export.formats import Options, open_exported, write
from mmyolo_ext.export.graph import DenseHeadGraph, raw_graph
from mmyolo_ext.export.runtime import INTERPOLATIONS
from mmyolo_ext.progress import bar, with_bar
from mmyolo_ext.registry import DATASETS, TRANSFORMS

SIDE_DIVISOR = 32  # of an input whose size the config leaves open


class Export(NamedTuple):
    """The files of an export, their largest difference to PyTorch, and the bound that it keeps."""

    files: tuple[Path, ...]
    difference: parity.Difference
    bound: parity.Bound


def export_detector(
    cfg: Config,
    checkpoint: str,
    out: Path,
    options: Options,
    size_hw: tuple[int, int] | None = None,
    image: str | Path | None = None,
) -> Export:
    """Export a detector, run the file on an image, and compare it with PyTorch.

    A file that differs by more than the bound is kept beside ``out``, with a name that starts with ``failed_``.

    Args:
        cfg: Config read by ``load_config``.
        checkpoint: Checkpoint of a training.
        out: File to write.
        options: Format and variants.
        size_hw: Height and width of the input, px; by default those of the config's ``Letterbox``.
        image: Image for the check; by default the first of the config's test data.

    Raises:
        ValueError: If the detector cannot be exported, or if the difference is above the bound.
    """
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    letterbox, own_size_hw = letterbox_of(cfg)
    size_hw = size_hw or own_size_hw
    pixels = runtime.read_image(image or first_image(cfg))
    detector = Detector(cfg, checkpoint, 'cpu', nms_iou=None)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent) as folder, bar(f'Export to {out.name}', 3) as advance:
        file = Path(folder) / out.name
        write(detector.model, file, options, detector.classes, letterbox, size_hw)
        advance()
        run, rules = open_exported(file, options.format)
        bound = parity.HALF if options.half else parity.EXACT
        reference, batches = raw_graph(detector.model), list(check_batches(pixels, rules))
        if isinstance(reference, DenseHeadGraph):
            check_head(reference, batches[0], rules)
        advance()
        difference = parity.check(reference, run, batches, rules, bound)
        advance()
        passed = difference.within(bound)
        del run  # some runtimes keep the file open
        parts = sorted(Path(folder).iterdir(), key=lambda part: (part != file, part.name))  # the file to open first
        targets = [out.parent / f'{"" if passed else "failed_"}{part.name}' for part in parts]
        for part, target in zip(parts, targets, strict=True):
            shutil.move(part, target)
    if not passed:
        raise ValueError(
            f'the exported file differs from PyTorch by {difference}, above the bound of {bound.boxes_px} px and '
            f'{bound.scores}; it is kept as {targets[0]}'
        )
    return Export(tuple(targets), difference, bound)


def check_head(reference: DenseHeadGraph, batch: np.ndarray, rules: dict) -> None:
    """Compare the graph of a head of mmdet, still in PyTorch, with the predictions of the head itself.

    Raises:
        ValueError: If they differ: such a head cannot be exported.
    """
    found = parity.check_decoding(reference, batch, rules, parity.EXACT)
    if not found.within(parity.EXACT):
        raise ValueError(
            f'{type(reference.head).__name__} predicts in a way that an export does not repeat: {found}; the heads of '
            f'{", ".join(TESTED)} can be exported'
        )


def letterbox_of(cfg: Config) -> tuple[dict, tuple[int, int]]:
    """Return how the test pipeline fits images into the input, and the size (height, width) of the input.

    The pipelines of mmdet, ``Resize`` and perhaps ``Pad``, are letterboxes too. Where they set no size, the input has
    that of the longest landscape image.

    Raises:
        ValueError: If the pipeline has neither one ``mmyolo_ext.Letterbox`` nor one ``Resize`` that keeps the ratio.
    """
    pipeline = next(leaf_datasets(cfg.test_dataloader.dataset)).pipeline
    steps = [step for step in pipeline if str(step['type']).endswith('Letterbox')]
    if len(steps) == 1:
        step = TRANSFORMS.build(steps[0])
        keys = ('pad_val', 'centred', 'allow_upscale', 'interpolation')
        return {key: getattr(step, key) for key in keys}, tuple(step.size_hw)
    resizes, pads = (
        [step for step in pipeline if str(step['type']).split('.')[-1] == name] for name in ('Resize', 'Pad')
    )
    resize = TRANSFORMS.build(resizes[0]) if len(resizes) == 1 and not steps and len(pads) < 2 else None
    if not getattr(resize, 'keep_ratio', False) or resize.scale is None or resize.interpolation not in INTERPOLATIONS:
        raise ValueError(
            'the test pipeline must have one mmyolo_ext.Letterbox, or one Resize with scale and keep_ratio, which '
            f'runtimes repeat, got {[str(step["type"]) for step in pipeline]}'
        )
    pad = TRANSFORMS.build(pads[0]) if pads else None
    longest, shortest = max(resize.scale), min(resize.scale)
    size_hw = tuple(math.ceil(side / SIDE_DIVISOR) * SIDE_DIVISOR for side in (shortest, longest))
    if pad and pad.size:
        size_hw = tuple(pad.size[::-1])
    letterbox = {'centred': False, 'allow_upscale': True, 'interpolation': resize.interpolation}
    pad_val = np.ravel(pad.pad_val.get('img', 0) if pad else _padding_of(cfg.model.get('data_preprocessor') or {}))
    return {'pad_val': pad_val.tolist() if len(set(pad_val)) > 1 else pad_val[0].item(), **letterbox}, size_hw


def _padding_of(preprocessor: dict) -> np.ndarray:
    """Return the pixel, or its channels in BGR, that is ``pad_value`` after normalisation."""
    mean, std = (np.asarray(preprocessor.get(key) or [value] * 3, float) for key, value in (('mean', 0), ('std', 1)))
    channels = mean + preprocessor.get('pad_value', 0) * std
    return channels[::-1] if preprocessor.get('bgr_to_rgb') else channels


def first_image(cfg: Config) -> str:
    """Return the path of the first image of the config's test data.

    Raises:
        ValueError: If the test data cannot be read.
    """
    try:
        dataset = DATASETS.build(next(leaf_datasets(cfg.test_dataloader.dataset)))
        return dataset.get_data_info(0)['img_path']
    except (ValueError, OSError, IndexError) as error:
        raise ValueError(
            f'the check needs an image, but the test data of the config cannot be read ({error}): give one by '
            '--image FILE'
        ) from error


def check_batches(image: np.ndarray, rules: dict) -> Iterator[np.ndarray]:
    """Yield an image as network input (1, 3, H, W); for a dynamic file also a wider batch of two."""
    height, width = rules['size_hw']
    canvases = [((height, width), [image])]
    if rules['dynamic']:
        canvases.append(((height, width + max(rules['strides'])), [image, np.ascontiguousarray(image[:, ::-1])]))
    for canvas_hw, images in canvases:
        placed = [runtime.letterbox(one, rules['size_hw'], canvas_hw, rules['letterbox'])[0] for one in images]
        yield runtime.normalise(placed, rules)


def calibration_files(cfg: Config, folder: str | None, count: int) -> list[str]:
    """Return up to ``count`` image files, evenly spaced over a folder or over the training data of the config.

    Raises:
        ValueError: If the folder does not exist.
    """
    if folder and not Path(folder).is_dir():
        raise ValueError(f'there is no folder {folder}')
    if folder:
        suffixes = ('.jpg', '.jpeg', '.png', '.bmp')
        files = [str(file) for file in sorted(Path(folder).iterdir()) if file.suffix.lower() in suffixes]
    else:
        init_default_scope(cfg.get('default_scope', 'mmdet'))
        dataset = DATASETS.build(next(leaf_datasets(cfg.train_dataloader.dataset)))
        files = [dataset.get_data_info(index)['img_path'] for index in range(len(dataset))]
    if not files:
        raise ValueError(f'calibration needs images, got none in {folder or "the training data"}')
    count = min(count, len(files))
    return [files[index * len(files) // count] for index in range(count)]


def network_inputs(files: list[str], detector: runtime.ExportedDetector) -> Iterator[np.ndarray]:
    """Yield each image as network input (1, 3, H, W) float32."""
    for file in files:
        image = runtime.read_image(file)
        canvas, _, _ = runtime.letterbox(image, detector.size_hw, detector.size_hw, detector.rules['letterbox'])
        yield runtime.normalise([canvas], detector.rules)


def evaluate_exported(detector: runtime.ExportedDetector, cfg: Config) -> dict[str, float]:
    """Evaluate an exported file on the test data, as ``tools/test.py`` evaluates a checkpoint.

    A dynamic file runs on the rectangles of the config's ``RectBatchDataset``, another one on its own size.

    Raises:
        ValueError: If the classes of the file differ from those of the data.
    """
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    fit_rect_batches(cfg)
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    if detector.names != tuple(dataset.metainfo['classes']):
        raise ValueError(f'the file has the classes {detector.names}, the data {tuple(dataset.metainfo["classes"])}')
    metrics = cfg.test_evaluator if isinstance(cfg.test_evaluator, (list, tuple)) else [cfg.test_evaluator]
    evaluator = Evaluator(list(metrics))
    evaluator.dataset_meta = dataset.metainfo
    step = cfg.test_dataloader.batch_size
    for start in with_bar(range(0, len(dataset), step), 'Evaluation'):
        infos = [dataset.get_data_info(index) for index in range(start, min(start + step, len(dataset)))]
        images = [runtime.read_image(info['img_path']) for info in infos]
        canvas_hw = infos[0].get('batch_shape_hw') if detector.rules['dynamic'] else None
        samples = []
        for info, image, found in zip(infos, images, detector(images, 0.0, canvas_hw), strict=True):
            boxes, scores, labels = (torch.from_numpy(field.copy()) for field in found)
            predicted = InstanceData(bboxes=boxes, scores=scores, labels=labels)
            samples.append({'img_id': info['img_id'], 'ori_shape': image.shape[:2], 'pred_instances': predicted})
        evaluator.process(data_samples=samples, data_batch=None)
    return evaluator.evaluate(len(dataset))
