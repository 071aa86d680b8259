"""Heat maps that show which parts of an image a detection depends on.

EigenCAM (Muhammad and Yeasin, arXiv 2008.00299) projects a feature map on its first right singular vector and needs no
detection. Grad-CAM (Selvaraju et al., arXiv 1610.02391) weights the channels by the mean gradient of a score;
LayerCAM (Jiang et al., 2021) weights each position by its own positive gradient, which keeps the place of an object.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from mmyolo_ext.apis.inference import NMS_IOU
from mmyolo_ext.apis.results import Detections
from mmyolo_ext.apis.torch_model import TorchModel

METHODS = ('layercam', 'gradcam', 'eigencam')
PARTS = ('backbone', 'neck')


@dataclass
class Explanation:
    """Heat maps of an image.

    Attributes:
        image: (H, W, 3) BGR uint8, as the network receives it.
        detections: Boxes in px of ``image``, the highest score first.
        strides: Of each level, px.
        maps: (D, L, H, W) from 0 to 1: of each detection and level; with EigenCAM D is 1.
        shares: (D, L), share of each level in the heat of a detection, 0 where the detection does not depend on it.
    """

    image: np.ndarray
    detections: Detections
    strides: tuple[int, ...]
    maps: np.ndarray
    shares: np.ndarray

    def draw(self) -> np.ndarray:
        """Return an image: one row per detection, one column per level, and their names."""
        rows = []
        for row, maps in enumerate(self.maps):
            tiles = []
            for level, heat in enumerate(maps):
                colours = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
                tile = np.ascontiguousarray((0.5 * self.image + 0.5 * colours).astype(np.uint8))
                shown = [row] if len(self.maps) == len(self.detections.labels) else range(len(self.detections.labels))
                for index in shown:
                    x1, y1, x2, y2 = (round(float(side)) for side in self.detections.boxes_xyxy[index])
                    cv2.rectangle(tile, (x1, y1), (x2, y2), (255, 255, 255), 1, cv2.LINE_AA)
                _write(tile, f'stride {self.strides[level]}: {self.shares[row, level]:.0%}', 16)
                if shown == [row] and not level:
                    label = int(self.detections.labels[row])
                    name = self.detections.names[label] if self.detections.names else str(label)
                    _write(tile, f'{name} {self.detections.scores[row]:.2f}', 34)
                tiles.append(tile)
            rows.append(np.concatenate(tiles, axis=1))
        return np.concatenate(rows, axis=0)


def _write(image: np.ndarray, text: str, y: int) -> None:
    for colour, thick in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(image, text, (4, y), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, thick, cv2.LINE_AA)


def explain(
    checkpoint: str | Path | TorchModel,
    image: str | Path | np.ndarray,
    config: str | Path | None = None,
    method: str = 'layercam',
    part: str = 'backbone',
    score_thr: float = 0.25,
    max_detections: int = 5,
    device: str | None = None,
) -> Explanation:
    """Return the heat maps of the detections of highest score.

    Any detector, ours or mmdet's, whose scores have a gradient.

    Args:
        checkpoint: As of ``Detector``, or the model.
        image: Path, or array (H, W, 3) BGR uint8.
        config: Only for checkpoints without one.
        method: ``'layercam'``, ``'gradcam'`` or ``'eigencam'``.
        part: Whose outputs are explained: ``'backbone'`` or ``'neck'``. After the neck a YOLO head reads one cell per
            detection, so that only maps before it show what else the detection depends on.
        score_thr: Omit detections with a lower score.
        max_detections: Number of detections.
        device: ``'cpu'``, ``'cuda:0'``; None takes a GPU if there is one.

    Raises:
        ValueError: If there is no detection, or an argument is out of range.
    """
    for name, value, allowed in (('method', method, METHODS), ('part', part, PARTS)):
        if value not in allowed:
            raise ValueError(f'{name} must be one of {", ".join(allowed)}, got {value!r}')
    if max_detections < 1:
        raise ValueError(f'max_detections must be 1 or more, got {max_detections}')
    detector = checkpoint
    if not isinstance(checkpoint, TorchModel):
        detector = TorchModel(config, str(checkpoint), device, False, False, NMS_IOU)
    model = detector.model
    layer = model.neck if part == 'neck' and getattr(model, 'neck', None) is not None else model.backbone
    sample = detector._prepare(image if isinstance(image, np.ndarray) else str(image))
    data = model.data_preprocessor({key: [value] for key, value in sample.items()}, False)
    features: list[Tensor] = []
    handle = layer.register_forward_hook(_keep(features))
    inputs = data['inputs']
    try:
        with _with_gradients(model):
            # boxes stay in px of the network input
            found = model.predict(inputs, data['data_samples'], rescale=False)[0].pred_instances
    finally:
        handle.remove()
    order = found.scores.argsort(descending=True)
    order = order[found.scores[order] >= score_thr][:max_detections]
    if method != 'eigencam' and not len(order):
        raise ValueError(f'there is no detection with a score of {score_thr:g} or more: lower score_thr')
    size_hw = tuple(inputs.shape[-2:])
    if method == 'eigencam':
        raw = [[eigen_cam(level[0].detach()) for level in features]]
    else:
        raw = [_of_score(found.scores[index], features, method) for index in order]
    maps, shares = _scaled(raw, size_hw)
    preprocessor = model.data_preprocessor
    pixels = inputs[0]
    if getattr(preprocessor, '_enable_normalize', False):
        pixels = pixels * preprocessor.std + preprocessor.mean
    pixels = pixels.permute(1, 2, 0).clamp(0, 255).round().byte().cpu().numpy()
    pixels = np.ascontiguousarray(pixels[..., ::-1] if preprocessor._channel_conversion else pixels)
    strides = tuple(round(size_hw[0] / level.shape[2]) for level in features)
    fields = (field[order].detach().cpu().numpy() for field in (found.bboxes, found.scores, found.labels))
    return Explanation(pixels, Detections(*fields, detector.classes, size_hw), strides, maps, shares)


@contextmanager
def _with_gradients(model: nn.Module) -> Iterator[None]:
    """Compute gradients, also where heads decorate ``predict_by_feat`` by ``torch.no_grad`` or detach their maps."""
    with torch.enable_grad(), ExitStack() as stack:
        for module in model.modules():
            plain = getattr(getattr(type(module), 'predict_by_feat', None), '__wrapped__', None)
            if plain is not None:
                stack.enter_context(patch.object(module, 'predict_by_feat', partial(plain, module)))
        files = {kind.__module__ for module in model.modules() for kind in type(module).__mro__}
        for file in files:  # mmdet's heads select the maps of an image by this function, which detaches them
            if hasattr(sys.modules.get(file), 'select_single_mlvl'):
                stack.enter_context(patch.object(sys.modules[file], 'select_single_mlvl', _select))
        yield


def _select(maps: Sequence[Tensor], image: int, detach: bool = True) -> list[Tensor]:
    return [level[image] for level in maps]


def _keep(features: list[Tensor]) -> Callable:
    """Return a hook that keeps the outputs as leaves: level by level, without what a level hands to the next one."""

    def hook(module: nn.Module, inputs: tuple, outputs: Sequence[Tensor] | Tensor) -> Sequence[Tensor] | Tensor:
        levels = [outputs] if isinstance(outputs, Tensor) else outputs
        features[:] = [level.detach().requires_grad_() for level in levels]
        return features[0] if isinstance(outputs, Tensor) else tuple(features)

    return hook


def _of_score(score: Tensor, features: Sequence[Tensor], method: str) -> list[Tensor]:
    if not score.requires_grad:
        raise ValueError(f"the scores of this detector have no gradient: choose method 'eigencam', got {method!r}")
    gradients = torch.autograd.grad(score, features, retain_graph=True, allow_unused=True)
    cam = grad_cam if method == 'gradcam' else layer_cam
    return [
        level.new_zeros(level.shape[2:]) if gradient is None else cam(level[0].detach(), gradient[0])
        for level, gradient in zip(features, gradients, strict=True)
    ]


def eigen_cam(features: Tensor) -> Tensor:
    """Return the absolute projection of features (C, H, W) on their first right singular vector: (H, W)."""
    rows = features.flatten(1).T.double()  # (H*W, C)
    _, vectors = torch.linalg.eigh(rows.T @ rows)  # ascending
    return (rows @ vectors[:, -1]).abs().view(features.shape[1:]).float()


def grad_cam(features: Tensor, gradients: Tensor) -> Tensor:
    """Return ReLU(sum over channels of mean gradient times feature): (C, H, W), (C, H, W) -> (H, W)."""
    return (gradients.mean((1, 2), keepdim=True) * features).sum(0).relu()


def layer_cam(features: Tensor, gradients: Tensor) -> Tensor:
    """Return ReLU(sum over channels of positive gradient times feature): (C, H, W), (C, H, W) -> (H, W)."""
    return (gradients.relu() * features).sum(0).relu()


def _scaled(raw: Sequence[Sequence[Tensor]], size_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Scale maps to the image and to a maximum of 1, and return the share of each level in the sum over levels."""
    heat = np.array([[float(level.sum()) for level in levels] for levels in raw])
    total = heat.sum(1, keepdims=True)
    shares = np.divide(heat, total, out=np.zeros_like(heat), where=total > 0)
    maps = np.zeros((*heat.shape, *size_hw), np.float32)
    for row, levels in enumerate(raw):
        for column, level in enumerate(levels):
            values = level.cpu().numpy()
            if values.max() > 0:
                height, width = size_hw
                maps[row, column] = cv2.resize(values / values.max(), (width, height), interpolation=cv2.INTER_LINEAR)
    return maps.clip(0, 1), shares
