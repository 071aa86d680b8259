"""One detector in every form that it can run in, for ``inference.py``.

Letters: N images, M anchors, C classes.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.registry import init_default_scope
from torch import Tensor

from mmyolo_ext.apis import load_config
from mmyolo_ext.export import runtime
from mmyolo_ext.export.formats import Options, open_torchscript, write
from mmyolo_ext.export.graph import RawGraph, build_graph
from mmyolo_ext.export.quantize import quantize
from mmyolo_ext.registry import MODELS

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
LETTERBOX = {'pad_val': 114, 'centred': False, 'allow_upscale': True, 'interpolation': 'bilinear'}
# a crowded scene at a usual threshold; with random weights, a fixed threshold could keep any number
CANDIDATES = 300
CALIBRATION_IMAGES = 8


class Engine(NamedTuple):
    """One form of a detector, on images that it holds."""

    network: Callable[[], Any] | None
    """Boxes and scores of all anchors; None where they cannot be had alone."""
    detections: Callable[[], Any]
    """The same, then thresholds and NMS, for each image."""


def build_detector(config: str) -> torch.nn.Module:
    """The detector of a config with seeded weights, and outputs of the spread that those of trained ones have."""
    init_default_scope('mmdet')
    torch.manual_seed(0)
    detector = MODELS.build(load_config(CONFIGS / config).model).eval()
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            # biases that are alike the exporter would write once for all, and int8 then leaves them in float32
            torch.nn.init.normal_(module.running_mean, 0.0, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    with torch.no_grad():
        feats = detector.extract_feat(torch.from_numpy(random_images(1, 320)))
        for conv, feat in zip(detector.bbox_head.convs_pred, feats, strict=True):
            conv.weight *= 1.5 / conv(feat).std()
    return detector


def random_images(count: int, size: int) -> np.ndarray:
    """Noise of several scales, (N, 3, size, size) float32 in [0, 1]."""
    rng = np.random.default_rng(count * size)
    coarse = rng.random((count, 3, size // 32, size // 32)).repeat(32, axis=2).repeat(32, axis=3)
    return (0.7 * coarse + 0.3 * rng.random((count, 3, size, size))).astype(np.float32)


def engines(
    detector: torch.nn.Module, images: np.ndarray, wanted: list[str], folder: Path, device: str
) -> Iterator[tuple]:
    """(name, :class:`Engine`) of each form that is wanted, made when asked for; those of PyTorch on ``device``."""
    for name in wanted:
        if name in EAGER:
            yield name, eager(detector, images, device, **EAGER[name])
        else:
            yield name, FILES[name](detector, images, folder)


def eager(
    detector: torch.nn.Module,
    images: np.ndarray,
    device: str,
    fused: bool = False,
    channels_last: bool = False,
    dtype: torch.dtype | None = None,
) -> Engine:
    """PyTorch as it is, as ``tools/predict.py`` runs it; by autocast in another dtype."""
    graph = build_graph(detector, fused=fused).to(device)
    batch = torch.from_numpy(images).to(device)
    if channels_last:
        graph, batch = (part.to(memory_format=torch.channels_last) for part in (graph, batch))
    precision = partial(torch.autocast, device, dtype, enabled=dtype is not None)
    size_hw = images.shape[2:]
    metas = [{'ori_shape': size_hw, 'img_shape': size_hw, 'scale_factor': (1.0, 1.0)}] * len(images)
    with torch.inference_mode(), precision():
        graph.head.test_cfg = {**graph.head.test_cfg, 'score_thr': threshold(graph(batch)[1].cpu().numpy())}
    samples = [DetDataSample(metainfo=meta) for meta in metas]

    @torch.inference_mode()
    def network() -> tuple[Tensor, Tensor]:
        with precision():
            return graph(batch)

    @torch.inference_mode()
    def detections() -> list:
        with precision():
            return graph.head.predict(graph.detector.extract_feat(batch), samples, rescale=True)

    return Engine(network, detections)


def exported(detector: torch.nn.Module, images: np.ndarray, folder: Path, int8: bool) -> Engine:
    """The ONNX file in onnxruntime, with the NMS of ``runtime.py``."""
    file = export(detector, images, folder, 'onnx')
    if int8:
        quantized = file.with_name(f'int8_{file.name}')
        feed = random_images(CALIBRATION_IMAGES, images.shape[-1])
        quantize(file, quantized, np.split(feed, CALIBRATION_IMAGES))
        file = quantized
    run, properties = runtime.open_onnx(file, torch.get_num_threads(), runtime.CPU)
    return in_numpy(run, runtime.read_rules(properties, file), images)


def in_graph(detector: torch.nn.Module, images: np.ndarray, folder: Path) -> Engine:
    """The ONNX file of ``--nms``, whose threshold is written in it."""
    test_cfg = dict(detector.bbox_head.test_cfg)
    with torch.inference_mode():
        scores = RawGraph(detector)(torch.from_numpy(images))[1].numpy()
    detector.bbox_head.test_cfg = {**test_cfg, 'score_thr': threshold(scores)}
    file = export(detector, images, folder, 'onnx', nms=True)
    detector.bbox_head.test_cfg = test_cfg
    run, properties = runtime.open_onnx(file, torch.get_num_threads(), runtime.CPU)
    rules = runtime.read_rules(properties, file)

    def detections() -> list[runtime.Detections]:
        outputs = run(images)
        return [runtime.finish(outputs, index, rules, 0.0) for index in range(len(images))]

    return Engine(None, detections)


def torchscript(detector: torch.nn.Module, images: np.ndarray, folder: Path) -> Engine:
    """The TorchScript file, fused, with the NMS of ``runtime.py``."""
    file = export(detector, images, folder, 'torchscript', fused=True)
    run, properties = open_torchscript(file)
    return in_numpy(run, runtime.read_rules(properties, file), images)


def export(detector: torch.nn.Module, images: np.ndarray, folder: Path, kind: str, **options: bool) -> Path:
    """A file for images of this size, as ``tools/export.py`` writes it."""
    file = folder / f'{kind}_{"_".join(options)}_{len(images)}_{images.shape[-1]}.{kind}'
    names = tuple(f'class {label}' for label in range(detector.bbox_head.num_classes))
    write(detector, file, Options(kind, dynamic=len(images) > 1, **options), names, LETTERBOX, images.shape[2:])
    return file


def in_numpy(run: Callable, rules: dict, images: np.ndarray) -> Engine:
    """What runs a file, and the NMS of ``runtime.py``."""
    score_thr = threshold(run(images)['scores'])

    def detections() -> list[runtime.Detections]:
        outputs = run(images)
        return [runtime.finish(outputs, index, rules, score_thr) for index in range(len(images))]

    return Engine(lambda: run(images), detections)


def threshold(scores: np.ndarray) -> float:
    """The score that :data:`CANDIDATES` of each image exceed in the mean, of scores (N, M, C)."""
    return float(np.partition(scores.ravel(), -CANDIDATES * len(scores) - 1)[-CANDIDATES * len(scores) - 1])


EAGER: dict[str, dict[str, Any]] = {
    'PyTorch': {},
    'PyTorch, fused': {'fused': True},
    'PyTorch, fused, channels-last': {'fused': True, 'channels_last': True},
    'PyTorch, fused, channels-last, bfloat16': {'fused': True, 'channels_last': True, 'dtype': torch.bfloat16},
    'PyTorch, fused, channels-last, float16': {'fused': True, 'channels_last': True, 'dtype': torch.float16},
}
FILES: dict[str, Callable[[torch.nn.Module, np.ndarray, Path], Engine]] = {
    'TorchScript': torchscript,
    'ONNX Runtime': lambda detector, images, folder: exported(detector, images, folder, int8=False),
    'ONNX Runtime, `--nms`': in_graph,
    'ONNX Runtime, int8': lambda detector, images, folder: exported(detector, images, folder, int8=True),
}
FORMS = (*EAGER, *FILES)
# no CPU at hand computes faster in float16; what is in a file runs on the CPU here
FORMS_ON = {'cpu': [name for name in FORMS if name.split(', ')[-1] != 'float16'], 'cuda': list(EAGER)}
