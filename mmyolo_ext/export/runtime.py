"""Run an exported detector with NumPy, OpenCV and onnxruntime. This file imports nothing else of ours: copy it freely.

    python runtime.py model.onnx image.jpg --score-thr 0.4

From Python, with images as paths or as arrays (H, W, 3) BGR uint8:

    detector = ExportedDetector('model.onnx')
    for box, score, label in zip(*detector(['image.jpg'])[0]):
        print(detector.names[label], score, box)

The package ``openvino`` runs OpenVINO's ``model.xml``. Letters: N images, M predictions per image, C classes, K
detections. Boxes are xyxy in px.
"""

import argparse
import importlib
import json
import math
import os
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', str(2**28))  # OpenCV reads it when it is imported

import cv2
import numpy as np

FORMAT = 1
MAX_PIXELS = 2**25  # of the input
MAX_NAMES, MAX_STRIDE, MAX_METADATA = 100_000, 1024, 2**24
INTERPOLATIONS = {'nearest': cv2.INTER_NEAREST, 'bilinear': cv2.INTER_LINEAR, 'area': cv2.INTER_AREA}
READ_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
JPEG_START, JPEG_END, JPEG_SCAN, JPEG_APP1 = b'\xff\xd8', b'\xff\xd9', 0xDA, 0xE1
PNG_START, PNG_END = b'\x89PNG\r\n\x1a\n', b'IEND\xaeB`\x82'
EXIF_START, ORIENTATION_TAG, UNSIGNED_SHORT = b'Exif\0\0', 0x0112, 3
CPU = ('CPUExecutionProvider',)
Image = str | Path | np.ndarray
Size = Sequence[int]  # height, width
Run = Callable[[np.ndarray], dict[str, np.ndarray]]


class Detections(NamedTuple):
    """Detections of one image, best first: boxes (K, 4) in px of the image, scores (K,) and labels (K,)."""

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class ExportedDetector:
    """A detector loaded from an export; ``names`` are its classes, ``rules`` its metadata.

    Args:
        model: ``.onnx``, or ``.xml`` of OpenVINO, written by mmyolo_ext.
        size_hw: Height and width to fit images into, for dynamic files; by default those of the file.
        threads: CPU threads; 0 uses all.
        providers: Of onnxruntime, in order of preference.

    Raises:
        ValueError: On any fault, naming the file, image or size.
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
        self.model = model
        self.rules = read_rules(properties, model)
        self.names = tuple(self.rules['names'])
        self.size_hw = self._check_size(size_hw or self.rules['size_hw'])

    def __call__(
        self, images: Sequence[Image], score_thr: float = 0.25, canvas_hw: Size | None = None
    ) -> list[Detections]:
        """Detect objects in images; a dynamic file takes all images of a call as one batch.

        Args:
            images: Paths, or arrays (H, W, 3) BGR uint8.
            score_thr: Drop boxes with a lower score; the threshold of the file applies too.
            canvas_hw: Height and width of the input instead of ``size_hw``, such as a rectangle with less padding.
        """
        canvas_hw = self._check_size(canvas_hw or self.size_hw)
        images = [read_image(image) for image in images]
        batches = [images] if self.rules['dynamic'] and images else [[image] for image in images]
        return [found for batch in batches for found in self._detect(batch, canvas_hw, score_thr)]

    def _detect(self, images: list[np.ndarray], canvas_hw: Size, score_thr: float) -> list[Detections]:
        placed = [letterbox(image, self.size_hw, canvas_hw, self.rules['letterbox']) for image in images]
        outputs = self._outputs(normalise([canvas for canvas, _, _ in placed], self.rules))
        return [
            to_image(finish(outputs, index, self.rules, score_thr), scale_wh, pad_lt, image.shape[:2])
            for index, (image, (_, scale_wh, pad_lt)) in enumerate(zip(images, placed, strict=True))
        ]

    def _outputs(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        try:
            outputs = self._run(batch)
        except Exception as error:  # onnxruntime and openvino have classes of their own
            raise ValueError(f'{self.model} cannot run on an input of {batch.shape}: {error}') from error
        check_outputs(outputs, len(batch), self.rules, self.model)
        return outputs

    def _check_size(self, size_hw: Size) -> Size:
        own_hw, stride = tuple(self.rules['size_hw']), max(self.rules['strides'])
        if not self.rules['dynamic'] and tuple(size_hw) != own_hw:
            raise ValueError(f'the model takes {own_hw} only (height, width), got {tuple(size_hw)}')
        if len(size_hw) != 2 or any(side < 1 or side % stride for side in size_hw):
            raise ValueError(f'height and width must be multiples of {stride}, got {tuple(size_hw)}')
        if math.prod(size_hw) > MAX_PIXELS:
            raise ValueError(f'the input may have {MAX_PIXELS:,} pixels, got {tuple(size_hw)} (height, width)')
        return tuple(size_hw)


def open_onnx(model: str | Path, threads: int, providers: Sequence) -> tuple[Run, dict[str, str]]:
    """Return a function that runs an ONNX file, and its metadata; ValueError if onnxruntime is missing or fails."""
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
    """Return a function that runs an OpenVINO file, and its metadata; ValueError if openvino is missing or fails."""
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
    try:
        properties = json.loads(network.get_rt_info(section).value) if network.has_rt_info(section) else {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{model} has metadata that is not JSON: {error}') from error
    if not isinstance(properties, dict) or not all(isinstance(value, str) for value in properties.values()):
        raise ValueError(f'{model} has metadata that is not text by name')
    return lambda images: dict(zip(names, compiled([images]).values(), strict=True)), properties


def need(package: str) -> ModuleType:
    """Import a package and return it; raise ValueError if it is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(f'this needs the package {package}: pip install {package} ({error})') from error


def read_rules(properties: dict[str, str], model: str | Path) -> dict:
    """Decode the metadata of an export, and check it before it is believed.

    Raises:
        ValueError: If there is none of ours, it is of a later form, or a value is missing or out of range; the message
            names file, key and value.
    """
    if 'format' not in properties:
        raise ValueError(f'{model} has no metadata of mmyolo_ext: export it by tools/export.py')
    if sum(map(len, properties.values())) > MAX_METADATA:
        raise ValueError(f'{model} has more than {MAX_METADATA:,} bytes of metadata')
    try:
        rules = {key: json.loads(value) for key, value in properties.items() if key in CHECKS or key == 'format'}
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{model} has metadata that is not JSON: {error}') from error
    if type(rules['format']) is not int or rules['format'] != FORMAT:
        raise ValueError(
            f'{model} has metadata of form {brief(rules["format"])}, this runtime.py knows {FORMAT}: copy it again'
        )
    rules.setdefault('class_agnostic', False)  # of earlier exports
    for key, (wanted, fits) in CHECKS.items():
        if key not in rules:
            raise ValueError(f'{model} has no {key} in its metadata: export it again by tools/export.py')
        if not fits(rules[key]):
            raise ValueError(f'{model} has metadata with {key} = {brief(rules[key])}: it must be {wanted}')
    return rules


def brief(value: object) -> str:
    """Write a value for an error message."""
    try:
        text = json.dumps(value)
    except (ValueError, RecursionError):  # a number of thousands of digits
        text = f'a {type(value).__name__}'
    return text if len(text) <= 80 else text[:80] + '...'


def number(low: float, high: float, kinds: tuple[type, ...] = (int, float)) -> Callable[[object], bool]:
    """Make a check for a finite number in a range, both ends included."""
    return lambda value: type(value) in kinds and low <= value <= high


def several(fits: Callable[[object], bool], least: int, most: int) -> Callable[[object], bool]:
    """Make a check for a list with values that each pass ``fits``."""
    return lambda value: type(value) is list and least <= len(value) <= most and all(map(fits, value))


def is_letterbox(value: object) -> bool:
    """Return whether these are the four settings of :func:`letterbox`."""
    return (
        type(value) is dict
        and value.keys() == {'pad_val', 'centred', 'allow_upscale', 'interpolation'}
        and number(0, 255)(value['pad_val'])
        and type(value['centred']) is bool
        and type(value['allow_upscale']) is bool
        and value['interpolation'] in tuple(INTERPOLATIONS)
    )


COUNT = ('a whole number, -1 for no limit', number(-1, 2**31, (int,)))
SHARE = ('a number from 0 to 1', number(0, 1))
SWITCH = ('true or false', lambda value: type(value) is bool)
CHECKS = {
    'mmyolo_ext': ('a version', lambda value: type(value) is str and len(value) <= 100),
    'names': (
        f'a list of 1 to {MAX_NAMES:,} names',
        several(lambda name: type(name) is str and len(name) <= 1000, 1, MAX_NAMES),
    ),
    'size_hw': ('two whole numbers above 0', several(number(1, MAX_PIXELS, (int,)), 2, 2)),
    'strides': (f'whole numbers from 1 to {MAX_STRIDE}', several(number(1, MAX_STRIDE, (int,)), 1, 16)),
    'dynamic': SWITCH,
    'precision': ("'float32', 'float16' or 'int8'", lambda value: value in ('float32', 'float16', 'int8')),
    'letterbox': (f'pad_val, centred, allow_upscale and interpolation ({", ".join(INTERPOLATIONS)})', is_letterbox),
    'channels': ("'RGB' or 'BGR'", lambda value: value in ('RGB', 'BGR')),
    'mean': ('three finite numbers', several(number(-1e6, 1e6), 3, 3)),
    'std': ('three numbers from 1e-6 to 1e6', several(number(1e-6, 1e6), 3, 3)),
    'activation': ("'sigmoid' or 'softmax'", lambda value: value in ('sigmoid', 'softmax')),
    'multi_label': SWITCH,
    'nms_in_graph': SWITCH,
    'score_thr': SHARE,
    'nms_pre': COUNT,
    'nms_iou': SHARE,
    'class_agnostic': SWITCH,
    'max_per_img': COUNT,
}


def check_outputs(outputs: dict[str, np.ndarray], count: int, rules: dict, model: str | Path) -> None:
    """Check the outputs for ``count`` images against the metadata; ValueError if they do not fit."""
    in_graph = rules['nms_in_graph']
    wanted = {'boxes': 3, 'scores': 2, 'labels': 2, 'num_dets': 2} if in_graph else {'boxes': 3, 'scores': 3}
    shapes = {name: getattr(value, 'shape', None) for name, value in outputs.items()}
    fits = all(
        name in outputs and len(shapes[name]) == sides and shapes[name][0] == count for name, sides in wanted.items()
    )
    if fits:
        boxes = shapes['boxes'][1]
        fits = shapes['boxes'][2] == 4 and shapes['scores'][1] == boxes
        fits = fits and (in_graph or shapes['scores'][2] == len(rules['names']))
    if fits and in_graph:
        labels, kept = outputs['labels'], outputs['num_dets']
        fits = shapes['labels'][1] == boxes and shapes['num_dets'][1] == 1
        fits = (
            fits and labels.dtype.kind in 'iu' and kept.dtype.kind in 'iu' and kept.min() >= 0 and kept.max() <= boxes
        )
        used = np.arange(boxes) < kept if fits else None
        fits = fits and bool(((labels >= 0) & (labels < len(rules['names'])))[used].all())
    if not fits:
        raise ValueError(f'{model} gives outputs that do not fit its metadata: {shapes}')


def read_image(image: Image) -> np.ndarray:
    """Read an image as training does: rotated by its EXIF orientation, 16-bit channels scaled to 8.

    Returns:
        (H, W, 3) BGR uint8.

    Raises:
        ValueError: If the file is missing, truncated or not an image, or if an array has another form.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f'an image must be (H, W, 3) uint8 in BGR, got {image.shape} {image.dtype}')
        return image
    if not Path(image).is_file():
        raise ValueError(f'there is no image {image}')
    content = Path(image).read_bytes()
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), READ_FLAGS) if content else None
    except cv2.error as error:  # such as more pixels than OpenCV may decode
        raise ValueError(f'{image} cannot be decoded: {" ".join(str(error).split())}') from error
    if pixels is None:
        raise ValueError(f'{image} cannot be decoded, is it an image?')
    if is_truncated(content):
        raise ValueError(f'{image} is cut short, copy it again')
    if pixels.dtype == np.uint16:
        pixels = cv2.convertScaleAbs(pixels, alpha=255 / 65535)
    elif pixels.dtype != np.uint8:
        raise ValueError(f'{image} has pixels of type {pixels.dtype}: convert it to 8 or 16 bits per channel')
    return turned(pixels, exif_orientation(content))


def is_truncated(content: bytes) -> bool:
    """Return whether the end of a JPEG or PNG is missing."""
    if content.startswith(PNG_START):
        return PNG_END not in content
    if content.startswith(JPEG_START):
        scan = next(
            (start for marker, start, _ in jpeg_segments(content) if marker in (JPEG_SCAN, None)), len(content)
        )
        return content.find(JPEG_END, scan) < 0
    return False


def exif_orientation(content: bytes) -> int:
    """Return the EXIF orientation, 1 to 8, of a JPEG, PNG or WebP; 1 (upright) if it is missing or invalid."""
    try:
        if content.startswith(JPEG_START):
            parts = (content[start:end] for marker, start, end in jpeg_segments(content) if marker == JPEG_APP1)
            return orientation_of(next((part for part in parts if part.startswith(EXIF_START)), b''))
        if content.startswith(PNG_START):
            return orientation_of(next(chunks(content, b'eXIf'), b''))
        if content[:4] == b'RIFF' and content[8:12] == b'WEBP':
            return orientation_of(next(chunks(content, b'EXIF'), b''))
    except (struct.error, IndexError):
        pass
    return 1  # OpenCV turns TIFF by itself


def jpeg_segments(content: bytes) -> Iterator[tuple[int | None, int, int]]:
    """Yield (marker, start, end) of each segment up to the first scan; marker None for anything that is no segment."""
    at = len(JPEG_START)
    while at + 4 <= len(content):
        if content[at] != 0xFF:
            yield None, at, len(content)
            return
        if content[at + 1] == 0xFF:  # a fill byte
            at += 1
            continue
        marker, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4], 'big')
        yield marker, at + 4 if marker != JPEG_SCAN else at, at + 2 + length
        if marker == JPEG_SCAN:
            return
        at += 2 + length


def chunks(content: bytes, kind: bytes) -> Iterator[bytes]:
    """Yield the contents of the chunks of one kind in a PNG or WebP."""
    png = content.startswith(PNG_START)
    at = len(PNG_START) if png else 12
    while at + 8 <= len(content):
        length, name = (
            struct.unpack_from('>I4s', content, at) if png else struct.unpack_from('<4sI', content, at)[::-1]
        )
        if name == kind:
            yield content[at + 8 : at + 8 + length]
        at += 12 + length if png else 8 + length + length % 2


def orientation_of(exif: bytes) -> int:
    """Return the orientation in the first directory of EXIF data, which is a TIFF structure."""
    tiff = exif.removeprefix(EXIF_START)
    order = {b'II*\0': '<', b'MM\0*': '>'}.get(tiff[:4])
    if order is None:
        return 1
    (directory,) = struct.unpack_from(f'{order}I', tiff, 4)
    (entries,) = struct.unpack_from(f'{order}H', tiff, directory)
    for entry in range(entries):
        tag, kind, _, value = struct.unpack_from(f'{order}HHIH', tiff, directory + 2 + 12 * entry)
        if tag == ORIENTATION_TAG:
            return value if kind == UNSIGNED_SHORT and 1 <= value <= 8 else 1
    return 1


def turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an image (H, W, C) upright from an EXIF orientation, 1 to 8."""
    if orientation in (5, 6, 7, 8):
        image = cv2.transpose(image)
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return image if flip is None else cv2.flip(image, flip)


def letterbox(image: np.ndarray, size_hw: Size, canvas_hw: Size, rule: dict) -> tuple:
    """Fit an image into ``size_hw`` on a canvas; return the canvas, the scale (w, h) and the padding (left, top)."""
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
    """Normalise BGR images of one size to the network input (N, 3, H, W) float32."""
    batch = np.stack(canvases)
    batch = batch[..., ::-1] if rules['channels'] == 'RGB' else batch
    batch = (batch.astype(np.float32) - np.float32(rules['mean'])) / np.float32(rules['std'])
    return np.ascontiguousarray(batch.transpose(0, 3, 1, 2))


def finish(outputs: dict[str, np.ndarray], index: int, rules: dict, score_thr: float) -> Detections:
    """Return the detections of one image of the batch, in px of the input, from the outputs of the graph."""
    if not rules['nms_in_graph']:
        return suppress(*candidates(outputs['boxes'][index], outputs['scores'][index], rules, score_thr), rules)
    kept = slice(int(outputs['num_dets'][index, 0]))
    found = Detections(*(outputs[name][index, kept] for name in ('boxes', 'scores', 'labels')))
    return Detections(*(field[found.scores >= score_thr] for field in found))


def candidates(boxes: np.ndarray, scores: np.ndarray, rules: dict, score_thr: float) -> tuple:
    """Return boxes (K, 4), scores (K,) and labels (K,) above the thresholds, best first, from (M, 4) and (M, C)."""
    least = max(np.float32(score_thr), np.nextafter(np.float32(rules['score_thr']), np.float32(2)))  # > as >=
    if rules['multi_label']:
        row, label = np.divmod(np.flatnonzero(scores >= least), scores.shape[1])
    else:
        row = np.flatnonzero(scores.max(axis=1) >= least)
        label = scores[row].argmax(axis=1)
    score = scores[row, label]
    order = np.argsort(-score, kind='stable')[: rules['nms_pre'] if rules['nms_pre'] > 0 else None]
    return boxes[row[order]], score[order], label[order]


def suppress(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, rules: dict) -> Detections:
    """Drop boxes that overlap a better one of their class (of any if ``class_agnostic``); input is best first."""
    kept, rivals = [], np.zeros_like(labels) if rules.get('class_agnostic') else labels
    for group in np.unique(rivals):
        left = np.flatnonzero(rivals == group)
        while left.size:
            kept.append(left[0])
            left = left[1:][overlaps(boxes[left[0]], boxes[left[1:]]) <= rules['nms_iou']]
    kept = np.sort(np.array(kept, dtype=np.int64))[: rules['max_per_img'] if rules['max_per_img'] > 0 else None]
    return Detections(boxes[kept], scores[kept], labels[kept])


def overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the IoU (K,) of one box with others (K, 4), 0 where neither has an area."""
    shared = (np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])).clip(min=0).prod(axis=1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def to_image(found: Detections, scale_wh: Sequence[float], pad_lt: Size, image_hw: Size) -> Detections:
    """Map boxes from the input to the original image and clip them to it."""
    boxes = (found.boxes_xyxy - np.float32(pad_lt * 2)) / np.float32(scale_wh * 2)
    return found._replace(boxes_xyxy=boxes.clip(0, np.float32(image_hw[::-1] * 2)))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description='Detect objects in images with an exported detector')
    parser.add_argument('model', help='.onnx, or .xml of OpenVINO')
    parser.add_argument('images', nargs='+')
    parser.add_argument('--score-thr', type=float, default=0.25, help='minimum score of a box (default: 0.25)')
    args = parser.parse_args()
    detector = ExportedDetector(args.model)
    for image in args.images:
        (found,) = detector([image], args.score_thr)
        print(f'{image}: {len(found.scores)} boxes')
        for box, score, label in zip(*(field.tolist() for field in found), strict=True):
            print(f'  {detector.names[label]} {score:.3f}', *(f'{side:.1f}' for side in box))


if __name__ == '__main__':
    try:
        main()
    except ValueError as fault:
        sys.exit(f'error: {fault}')
