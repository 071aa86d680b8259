"""Run an exported detector with NumPy, OpenCV and onnxruntime alone. This file needs no other: copy it where you want.

    python runtime.py model.onnx picture.jpg --score-thr 0.4

From Python, with pictures as paths or as arrays (H, W, 3) BGR uint8:

    detector = ExportedDetector('model.onnx')
    for box, score, label in zip(*detector(['picture.jpg'])[0]):
        print(detector.names[label], score, box)

OpenVINO's ``model.xml`` is run by the package ``openvino`` in place of onnxruntime. Letters: N pictures, M places that
predict a box, C classes, K detections. Boxes are xyxy in px.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import cv2
import numpy as np

FORMAT = 1
INTERPOLATIONS = {'nearest': cv2.INTER_NEAREST, 'bilinear': cv2.INTER_LINEAR, 'area': cv2.INTER_AREA}
CPU = ('CPUExecutionProvider',)
Picture = str | Path | np.ndarray
Size = Sequence[int]  # height, width
Run = Callable[[np.ndarray], dict[str, np.ndarray]]


class Detections(NamedTuple):
    """What was found on one picture, best first: boxes (K, 4) in px of that picture, scores and labels (K,)."""

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class ExportedDetector:
    """A detector in a file, ready for pictures; ``names`` are its classes, ``rules`` all that the file says of itself.

    Every fault is a ValueError that names the file, picture or size.

    Args:
        model: ``.onnx``, or ``.xml`` of OpenVINO, written by mmyolo_ext.
        size_hw: height and width to fit pictures into, in place of the file's own; for files of open size.
        threads: of the processor; 0 takes them all.
        providers: of onnxruntime, the first that works is used.
    """

    def __init__(
        self, model: str | Path, size_hw: Size | None = None, threads: int = 0, providers: Sequence = CPU
    ) -> None:
        if not Path(model).is_file():
            raise ValueError(f'there is no model {model}')
        if Path(model).suffix == '.xml':
            self._run, properties = open_openvino(model, threads)
        else:
            self._run, properties = open_onnx(model, threads, providers)
        self.rules = read_rules(properties, model)
        self.names = tuple(self.rules['names'])
        self.size_hw = self._check_size(size_hw or self.rules['size_hw'])

    def __call__(
        self, pictures: Sequence[Picture], score_thr: float = 0.25, canvas_hw: Size | None = None
    ) -> list[Detections]:
        """Detections of each picture; the pictures of one call are one batch if the file's size is open.

        Args:
            pictures: paths, or arrays (H, W, 3) BGR uint8.
            score_thr: boxes of a lower score are left out; the file's own threshold is the least possible.
            canvas_hw: height and width of the input in place of ``size_hw``, such as a rectangle with less padding.
        """
        canvas_hw = self._check_size(canvas_hw or self.size_hw)
        images = [read_picture(picture) for picture in pictures]
        batches = [images] if self.rules['dynamic'] and images else [[image] for image in images]
        return [found for batch in batches for found in self._detect(batch, canvas_hw, score_thr)]

    def _detect(self, images: list[np.ndarray], canvas_hw: Size, score_thr: float) -> list[Detections]:
        placed = [letterbox(image, self.size_hw, canvas_hw, self.rules['letterbox']) for image in images]
        outputs = self._run(normalise([canvas for canvas, _, _ in placed], self.rules))
        return [
            to_picture(finish(outputs, index, self.rules, score_thr), scale_wh, pad_lt, image.shape[:2])
            for index, (image, (_, scale_wh, pad_lt)) in enumerate(zip(images, placed, strict=True))
        ]

    def _check_size(self, size_hw: Size) -> Size:
        own_hw, stride = tuple(self.rules['size_hw']), max(self.rules['strides'])
        if not self.rules['dynamic'] and tuple(size_hw) != own_hw:
            raise ValueError(f'the model takes {own_hw} only (height, width), got {tuple(size_hw)}')
        if len(size_hw) != 2 or any(side < 1 or side % stride for side in size_hw):
            raise ValueError(f'height and width must be multiples of {stride}, got {tuple(size_hw)}')
        return tuple(size_hw)


def open_onnx(model: str | Path, threads: int, providers: Sequence) -> tuple[Run, dict[str, str]]:
    """What runs an ONNX file, and the file's metadata; ValueError without onnxruntime, or if it cannot read it."""
    onnxruntime = need('onnxruntime')
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    try:
        session = onnxruntime.InferenceSession(str(model), options, providers=list(providers))
    except Exception as error:  # onnxruntime has a class of its own for each kind of fault
        raise ValueError(f'onnxruntime cannot read {model}: {error}') from error
    names, feed = [output.name for output in session.get_outputs()], session.get_inputs()[0].name
    properties = session.get_modelmeta().custom_metadata_map
    return lambda images: dict(zip(names, session.run(names, {feed: images}), strict=True)), properties


def open_openvino(model: str | Path, threads: int) -> tuple[Run, dict[str, str]]:
    """What runs a file of OpenVINO, and the file's metadata; ValueError without openvino, or if it cannot read it."""
    core = need('openvino').Core()
    try:
        network = core.read_model(str(model))
    except Exception as error:  # openvino raises RuntimeError of its own
        raise ValueError(f'openvino cannot read {model}: {error}') from error
    # float32 is what the boxes have been checked in; some processors would take bfloat16 by themselves
    config = {'INFERENCE_PRECISION_HINT': 'f32', **({'INFERENCE_NUM_THREADS': threads} if threads else {})}
    compiled = core.compile_model(network, 'CPU', config)
    names = [output.get_any_name() for output in network.outputs]
    section = ['mmyolo_ext', 'metadata']
    properties = json.loads(network.get_rt_info(section).value) if network.has_rt_info(section) else {}
    return lambda images: dict(zip(names, compiled([images]).values(), strict=True)), properties


def need(package: str) -> ModuleType:
    """The package, imported; ValueError if it is not there."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(f'this needs the package {package}: pip install {package} ({error})') from error


def read_rules(properties: dict[str, str], model: str | Path) -> dict:
    """The metadata of an export, decoded; ValueError if there is none of ours, or of a later form."""
    if 'format' not in properties:
        raise ValueError(f'{model} has no metadata of mmyolo_ext: export it by tools/export.py')
    rules = {key: json.loads(value) for key, value in properties.items()}
    if rules['format'] != FORMAT:
        raise ValueError(f'{model} has metadata of form {rules["format"]}, this runtime.py knows {FORMAT}: copy anew')
    return rules


def read_picture(picture: Picture) -> np.ndarray:
    """(H, W, 3) BGR uint8, turned as its EXIF says; ValueError if it is no picture."""
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise ValueError(f'a picture must be (H, W, 3) uint8 in BGR, got {picture.shape} {picture.dtype}')
        return picture
    if not Path(picture).is_file():
        raise ValueError(f'there is no picture {picture}')
    content = np.fromfile(str(picture), np.uint8)
    if not content.size or (image := cv2.imdecode(content, cv2.IMREAD_COLOR)) is None:
        raise ValueError(f'{picture} cannot be decoded, is it a picture?')
    return image


def letterbox(image: np.ndarray, size_hw: Size, canvas_hw: Size, rule: dict) -> tuple:
    """A picture fitted into ``size_hw`` on its canvas, the scale (w, h) new by old, and the padding (left, top) px."""
    height, width = image.shape[:2]
    ratio = min(min(size_hw[0], canvas_hw[0]) / height, min(size_hw[1], canvas_hw[1]) / width)
    ratio = ratio if rule['allow_upscale'] else min(ratio, 1.0)
    new_h, new_w = max(int(height * ratio + 0.5), 1), max(int(width * ratio + 0.5), 1)
    if (new_h, new_w) != (height, width):
        image = cv2.resize(image, (new_w, new_h), interpolation=INTERPOLATIONS[rule['interpolation']])
    top, left = ((canvas_hw[0] - new_h) // 2, (canvas_hw[1] - new_w) // 2) if rule['centred'] else (0, 0)
    canvas = np.full((*canvas_hw, 3), rule['pad_val'], np.uint8)
    canvas[top : top + new_h, left : left + new_w] = image
    return canvas, (new_w / width, new_h / height), (left, top)


def normalise(canvases: Sequence[np.ndarray], rules: dict) -> np.ndarray:
    """BGR pictures of one size -> (N, 3, H, W) float32 as the network takes it."""
    batch = np.stack(canvases)
    batch = batch[..., ::-1] if rules['channels'] == 'RGB' else batch
    batch = (batch.astype(np.float32) - np.float32(rules['mean'])) / np.float32(rules['std'])
    return np.ascontiguousarray(batch.transpose(0, 3, 1, 2))


def finish(outputs: dict[str, np.ndarray], index: int, rules: dict, score_thr: float) -> Detections:
    """Detections of one picture of the batch, in px of the input, from what the graph gives."""
    if not rules['nms_in_graph']:
        return suppress(*candidates(outputs['boxes'][index], outputs['scores'][index], rules, score_thr), rules)
    kept = slice(int(outputs['num_dets'][index, 0]))
    found = Detections(*(outputs[name][index, kept] for name in ('boxes', 'scores', 'labels')))
    return Detections(*(field[found.scores >= score_thr] for field in found))


def candidates(boxes: np.ndarray, scores: np.ndarray, rules: dict, score_thr: float) -> tuple:
    """Boxes (K, 4), scores (K,) and labels (K,) above the thresholds, best first, of boxes (M, 4), scores (M, C)."""
    least = max(np.float32(score_thr), np.nextafter(np.float32(rules['score_thr']), np.float32(2)))  # > as >=
    if rules['multi_label']:
        place, label = np.divmod(np.flatnonzero(scores >= least), scores.shape[1])
    else:
        place = np.flatnonzero(scores.max(axis=1) >= least)
        label = scores[place].argmax(axis=1)
    score = scores[place, label]
    order = np.argsort(-score, kind='stable')[: rules['nms_pre'] if rules['nms_pre'] > 0 else None]
    return boxes[place[order]], score[order], label[order]


def suppress(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, rules: dict) -> Detections:
    """Drop what overlaps a better box of its class, or of any if ``class_agnostic``, too much; all best first."""
    kept, rivals = [], np.zeros_like(labels) if rules.get('class_agnostic') else labels
    for group in np.unique(rivals):
        left = np.flatnonzero(rivals == group)
        while left.size:
            kept.append(left[0])
            left = left[1:][overlaps(boxes[left[0]], boxes[left[1:]]) <= rules['nms_iou']]
    kept = np.sort(np.array(kept, dtype=np.int64))[: rules['max_per_img'] if rules['max_per_img'] > 0 else None]
    return Detections(boxes[kept], scores[kept], labels[kept])


def overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of one box with others (K, 4): (K,), 0 where neither has an area."""
    shared = (np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])).clip(min=0).prod(axis=1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def to_picture(found: Detections, scale_wh: Sequence[float], pad_lt: Size, image_hw: Size) -> Detections:
    """Boxes of the input on the picture it was made of, cut off at its borders."""
    boxes = (found.boxes_xyxy - np.float32(pad_lt * 2)) / np.float32(scale_wh * 2)
    return found._replace(boxes_xyxy=boxes.clip(0, np.float32(image_hw[::-1] * 2)))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description='Detect on pictures with an exported detector')
    parser.add_argument('model', help='.onnx, or .xml of OpenVINO')
    parser.add_argument('pictures', nargs='+')
    parser.add_argument('--score-thr', type=float, default=0.25, help='least score of a box (default: 0.25)')
    args = parser.parse_args()
    detector = ExportedDetector(args.model)
    for picture in args.pictures:
        (found,) = detector([picture], args.score_thr)
        print(f'{picture}: {len(found.scores)} boxes')
        for box, score, label in zip(*(field.tolist() for field in found), strict=True):
            print(f'  {detector.names[label]} {score:.3f}', *(f'{side:.1f}' for side in box))


if __name__ == '__main__':
    try:
        main()
    except ValueError as fault:
        sys.exit(f'error: {fault}')
