"""Detect on images from Python."""

import colorsys
from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from mmcv.cnn import fuse_conv_bn
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmengine.runner import CheckpointLoader
from mmengine.structures import InstanceData
from torch import nn

from mmyolo_ext.apis.config import load_config
from mmyolo_ext.apis.config_nodes import leaf_datasets
from mmyolo_ext.apis.start import check_checkpoint
from mmyolo_ext.checkpoint.matching import fit
from mmyolo_ext.checkpoint.mmengine_loader import install_reader
from mmyolo_ext.checkpoint.safe_load import check_finite
from mmyolo_ext.image_io import read_image
from mmyolo_ext.registry import DATASETS, MODELS

READABLE_SIDE = 480  # px: on smaller images labels would hide what they name, so those are drawn enlarged
GOLDEN_ANGLE = 0.381966  # of a full turn: hues of successive classes stay far apart for any number of classes


class Detections(NamedTuple):
    """Detections on one image, best first: boxes (n, 4) xyxy in px of that image, scores (n,) and labels (n,)."""

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class Detector:
    """A trained detector.

    Any config with a test pipeline works, ours or mmdet's. The classes are those of the checkpoint, else those of the
    test dataset of the config.

    Args:
        config: Path, or a config read by ``load_config``.
        checkpoint: File written by training.
        device: ``'cpu'``, ``'cuda:0'``; None takes a GPU if there is one.
        half: Compute in float16 by autocast, on a CPU in bfloat16.
        fuse: Fold batch norms into the convolutions before them; boxes change by rounding only.

    Raises:
        ValueError: The config or the checkpoint is missing or broken, or they do not fit each other.

    Examples:
        >>> detector = Detector('configs/yolov5/yolov5_n_320_bccd.py', 'work_dirs/yolov5_n_320_bccd/epoch_100.pth')
        >>> for found in detector(['a.jpg', 'b.jpg'], score_thr=0.3):
        ...     print([detector.classes[label] for label in found.labels])
    """

    def __init__(
        self,
        config: str | Path | Config,
        checkpoint: str | Path,
        device: str | None = None,
        *,
        half: bool = False,
        fuse: bool = False,
    ) -> None:
        cfg = deepcopy(config) if isinstance(config, Config) else load_config(config, with_recipe=False)
        init_default_scope(cfg.get('default_scope', 'mmdet'))
        dataset = next(leaf_datasets(cfg.test_dataloader.dataset))
        self.model, saved_meta = _build(cfg.model, str(checkpoint))
        self.model.to(device or ('cuda:0' if torch.cuda.is_available() else 'cpu')).eval()
        if fuse:
            self.model = fuse_conv_bn(self.model)
        kind = next(self.model.parameters()).device.type
        self._precision = partial(torch.autocast, kind, enabled=half)
        self.classes = _class_names(saved_meta, dataset)
        steps = [step for step in dataset.pipeline if 'LoadAnnotations' not in str(step['type'])]
        self._from_file = Compose(steps)
        self._from_array = Compose([{'type': 'mmdet.LoadImageFromNDArray'}, *steps[1:]])

    def __call__(
        self, images: Sequence[str | Path | np.ndarray], score_thr: float = 0.25, batch_size: int = 1
    ) -> Iterator[Detections]:
        """Yield the detections of each image in turn.

        Args:
            images: Paths, or arrays (H, W, 3) BGR uint8.
            score_thr: Omit boxes with a lower score.
            batch_size: Number of images per forward pass.

        Raises:
            ValueError: An image cannot be read; the message names it.
        """
        for start in range(0, len(images), batch_size):
            samples = [self._prepare(image) for image in images[start : start + batch_size]]
            batch = {key: [sample[key] for sample in samples] for key in samples[0]}
            with torch.no_grad(), self._precision():
                results = self.model.test_step(batch)
            for result in results:
                yield _to_numpy(result.pred_instances, score_thr)

    def _prepare(self, image: str | Path | np.ndarray) -> dict:
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(f'an image must be (H, W, 3) uint8 in BGR, got {image.shape} {image.dtype}')
            return self._from_array({'img': image, 'img_id': 0})
        if not Path(image).is_file():
            raise ValueError(f'there is no image {image}')
        sample = self._from_file({'img_path': str(image), 'img_id': 0})
        if sample is None:
            raise ValueError(f'the image {image} cannot be read')
        return sample


def _build(model_cfg: dict, path: str) -> tuple[nn.Module, dict]:
    """Return the model with every weight from the checkpoint, and the dataset_meta of the checkpoint."""
    install_reader()
    check_checkpoint(path)
    saved = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    model = revert_sync_batchnorm(MODELS.build(model_cfg))
    report, _ = fit(model, saved, start_anew=False)
    if report.missing or report.reshaped:
        raise ValueError(f'the checkpoint {path} does not fit the config: {report}')
    model.load_state_dict(saved.get('state_dict', saved), strict=False)
    check_finite(model.state_dict(), path)
    return model, (saved.get('meta') or {}).get('dataset_meta') or {}


def _class_names(saved_meta: dict, dataset: dict) -> tuple[str, ...]:
    classes = {key.lower(): value for key, value in saved_meta.items()}.get('classes') or class_names_of(dataset)
    if not classes:
        raise ValueError("neither the checkpoint nor the config names the classes: set class_names=('cat', 'dog')")
    return tuple(classes)


def class_names_of(dataset: dict) -> tuple[str, ...] | None:
    """Return the class names in the ``metainfo`` of a dataset config, else those of its type; None without any."""
    with DATASETS.switch_scope_and_registry(None) as registry:  # as building does, which finds names of mmdet
        own = getattr(registry.get(dataset['type']), 'METAINFO', {}).get('classes')
    classes = (dataset.get('metainfo') or {}).get('classes') or own
    return (classes,) if isinstance(classes, str) else tuple(classes) if classes else None


def _to_numpy(instances: InstanceData, score_thr: float) -> Detections:
    instances = instances[instances.scores >= score_thr]
    order = instances.scores.argsort(descending=True, stable=True)
    fields = (instances.bboxes, instances.scores, instances.labels)
    return Detections(*(field[order].cpu().numpy() for field in fields))


def class_colour(label: int) -> tuple[int, int, int]:
    """Return the BGR colour of a class, 0..255."""
    red, green, blue = colorsys.hsv_to_rgb((0.58 + label * GOLDEN_ANGLE) % 1, 0.85, 0.95)
    return int(255 * blue), int(255 * green), int(255 * red)


def draw(file: Path, found: Detections, classes: tuple[str, ...], target: Path) -> None:
    """Draw boxes, classes and scores on the image of ``file``, best on top, and write it to ``target``.

    An image whose longer side is at most half of ``READABLE_SIDE`` is enlarged by a whole number first.
    """
    image, _ = read_image(str(file))
    zoom = max(READABLE_SIDE // max(image.shape[:2]), 1)
    image = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    unit = max(round(min(image.shape[:2]) / 320), 1)  # width of a line, px
    for box, score, label in reversed(list(zip(*found, strict=True))):
        colour = class_colour(label)
        left, top, right, bottom = (int(round(zoom * float(side))) for side in box)
        cv2.rectangle(image, (left, top), (right, bottom), colour, unit)
        _write(image, f'{classes[label]} {score:.2f}', (left, top), colour, unit)
    cv2.imencode(target.suffix, image)[1].tofile(target)


def _write(image: np.ndarray, text: str, corner: tuple[int, int], colour: tuple[int, int, int], unit: int) -> None:
    """Write ``text`` on a patch of ``colour`` above ``corner``, or below it at the top of the image."""
    scale = 0.4 * unit
    (width, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, unit)
    left = min(max(corner[0], 0), max(image.shape[1] - width, 0))
    bottom = corner[1] if corner[1] >= height + base else corner[1] + height + base
    cv2.rectangle(image, (left, bottom - height - base), (left + width, bottom), colour, cv2.FILLED)
    ink = (0, 0, 0) if sum(colour) > 380 else (255, 255, 255)
    cv2.putText(image, text, (left, bottom - base), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, unit, cv2.LINE_AA)
