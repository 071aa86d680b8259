"""Detect on images and videos from Python. Importing this file imports no torch: an ONNX file needs none."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmyolo_ext.apis.inputs import Input, inputs, is_one_image
from mmyolo_ext.apis.results import Detections
from mmyolo_ext.export.runtime import ExportedDetector, read_image
from mmyolo_ext.tiling import check_merge, check_tiling, merge, tiles

if TYPE_CHECKING:
    from mmengine.config import Config

CHECKPOINTS = ('.pth', '.pt')
EXPORTS = ('.onnx', '.xml', '.param', '.pte', '.tflite')
NMS_IOU = 0.45  # validation keeps more boxes, which its metric rewards and people do not
TILES_PER_PASS = 8


class Detector:
    """A trained detector, ours or mmdet's, or an exported file.

    Args:
        model: A checkpoint (``.pth``) with its config inside, which is parsed and never executed; an export
            (``.onnx``, ``.xml`` of OpenVINO, ``.param`` of ncnn, ``.pte`` of ExecuTorch, ``.tflite`` of LiteRT); or,
            with ``checkpoint``, a config: file, name such as ``yolov5_n``, or what ``load_config`` returns.
        checkpoint: File written by training.
        device: ``'cpu'``, ``'cuda:0'``; None takes a GPU if there is one.
        half: Compute in float16 by autocast, on a CPU in bfloat16.
        fuse: Fold batch norms into the convolutions before them; boxes change by rounding only.
        nms_iou: Of two boxes of a class that overlap by more, the worse is dropped. None, and a lower value in the
            config, leave the config's. An export with NMS in its graph keeps its own.
        allow_download: Open addresses (``https://``, ``rtsp://``) that are given as images.
        tile: Cut images into tiles of this side in px, for objects that are small in large images, and merge the boxes
            across their borders (see :func:`mmyolo_ext.tiling.merge`). None detects on the whole image.
        overlap: Least share of their side that neighbouring tiles have in common: more than objects are long.
        merge_by: How the boxes of tiles are merged: ``'nms'``, or ``'wbf'`` for weighted box fusion.

    Attributes:
        names: Classes: those of the checkpoint, else those of the test dataset of the config.

    Raises:
        ValueError: A file is missing, broken or hostile, or config and checkpoint do not fit each other.

    Examples:
        >>> detector = Detector('work_dirs/yolov5_n_320_bccd/best_coco_bbox_mAP_epoch_90.pth')
        >>> detector('a.jpg').save('seen.jpg')
        >>> for found in detector('film.mp4', score_thr=0.3):
        ...     print(found.frame, [found.names[label] for label in found.labels])
    """

    def __init__(
        self,
        model: 'str | Path | Config',
        checkpoint: str | Path | None = None,
        device: str | None = None,
        *,
        half: bool = False,
        fuse: bool = False,
        nms_iou: float | None = NMS_IOU,
        allow_download: bool = False,
        tile: int | None = None,
        overlap: float = 0.2,
        merge_by: str = 'nms',
    ) -> None:
        if tile is not None:
            check_tiling(tile, overlap)
            check_merge(merge_by)
        self._tile, self._overlap, self._merge_by = tile, overlap, merge_by
        self._nms_iou = 1.0 if nms_iou is None else nms_iou
        suffix = Path(model).suffix.lower() if isinstance(model, (str, Path)) else ''
        self._allow_download = allow_download
        if suffix in EXPORTS:
            if checkpoint or half or fuse or device not in (None, 'cpu'):
                raise ValueError(f'{model} is an export, which takes no checkpoint, device, half or fuse')
            if not Path(model).is_file():
                raise ValueError(f'there is no model {model}')
            self._torch, self.model = None, ExportedDetector(model)
            self.names, rules = self.model.names, self.model.rules
            rules['nms_iou'] = min(rules['nms_iou'], 1 if nms_iou is None else nms_iou)
            return
        if checkpoint is None and suffix not in CHECKPOINTS:
            raise ValueError(
                f'{model} needs a checkpoint as the second argument; by itself, a model is a checkpoint (.pth) or an '
                f'export ({", ".join(EXPORTS)})'
            )
        from mmyolo_ext.apis.torch_model import TorchModel

        config, weights = (None, model) if checkpoint is None else (model, checkpoint)
        self._torch = TorchModel(config, str(weights), device, half, fuse, nms_iou)
        self.model, self.names = self._torch.model, self._torch.classes

    @property
    def classes(self) -> tuple[str, ...]:
        """The same as ``names``."""
        return self.names

    def __call__(self, images: Any, score_thr: float = 0.25, batch_size: int = 1) -> Detections | Iterator[Detections]:
        """Detect on one image, or yield the detections of each of several images or frames in turn.

        Args:
            images: One image: path, address, array (H, W, 3) BGR uint8, or PIL image. Several: a folder (searched
                recursively), a pattern such as ``'data/*.jpg'``, a video, the index of a camera, the address of a
                stream, or a list or iterator of any of these.
            score_thr: Omit boxes with a lower score.
            batch_size: Number of images per forward pass; with ``tile``, of tiles, but at least 8.

        Returns:
            :class:`Detections` for one image, otherwise an iterator of them, which holds one batch at a time.

        Raises:
            ValueError: An image cannot be read; the message names it.
        """
        if batch_size < 1:
            raise ValueError(f'batch_size must be at least 1, got {batch_size}')
        found = self._stream(inputs(images, self._allow_download), score_thr, batch_size)
        return next(found) if is_one_image(images) else found

    def _stream(self, source: Iterable[Input], score_thr: float, batch_size: int) -> Iterator[Detections]:
        source = iter(source)
        while batch := list(islice(source, batch_size)):
            images = [one.image for one in batch]
            if self._tile is None:
                results = self._detect(images, score_thr)
            else:
                results = (self._on_tiles(image, score_thr, max(batch_size, TILES_PER_PASS)) for image in images)
            for one, (*arrays, image_hw) in zip(batch, results, strict=True):
                yield Detections(*arrays, self.names, image_hw, one.image, one.frame, one.time)

    def _on_tiles(self, image: str | Path | np.ndarray, score_thr: float, batch_size: int) -> tuple:
        pixels = read_image(image)
        image_hw = pixels.shape[:2]
        places = tiles(*image_hw, self._tile, self._overlap)
        parts = [np.ascontiguousarray(pixels[y : y + h, x : x + w]) for x, y, w, h in places]
        batches = (parts[start : start + batch_size] for start in range(0, len(parts), batch_size))
        found = [arrays for batch in batches for *arrays, _ in self._detect(batch, score_thr)]
        return *merge(found, places, image_hw, self._nms_iou, self._merge_by), image_hw

    def _detect(self, images: list, score_thr: float) -> Iterator[tuple]:
        return self._torch(images, score_thr) if self._torch else self._exported(images, score_thr)

    def _exported(self, images: list, score_thr: float) -> Iterator[tuple]:
        pixels = [read_image(image) for image in images]
        for image, found in zip(pixels, self.model(pixels, score_thr), strict=True):
            yield *found, image.shape[:2]
