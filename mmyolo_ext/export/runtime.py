"""Run an exported detector with NumPy, OpenCV and onnxruntime. This file imports nothing else of ours: copy it freely.

    python runtime.py model.onnx image.jpg --score-thr 0.4

From Python, with images as paths or as arrays (H, W, 3) BGR uint8:

    detector = ExportedDetector('model.onnx')
    for box, score, label in zip(*detector(['image.jpg'])[0]):
        print(detector.names[label], score, box)

The packages ``openvino``, ``ncnn``, ``executorch`` and ``ai-edge-litert`` run ``model.xml``, ``model.param``,
``model.pte`` and ``model.tflite``. Letters: N images, M predictions per image, C classes, K detections. Boxes are xyxy
in px.
"""

import argparse
import importlib
import json
import math
import os
import reprlib
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', str(2**28))  # OpenCV reads it when it is imported

import cv2
import numpy as np

FORMAT = 1
MAX_PIXELS = 2**25  # of the input
MAX_STRIDE, MAX_METADATA = 1024, 2**24
INTERPOLATIONS = {'nearest': cv2.INTER_NEAREST, 'bilinear': cv2.INTER_LINEAR, 'area': cv2.INTER_AREA}
JPEG_START, JPEG_SCAN, JPEG_END = b'\xff\xd8', b'\xff\xda', b'\xff\xd9'
PNG_START, PNG_END = b'\x89PNG\r\n\x1a\n', b'IEND\xaeB`\x82'
ORIENTATION = (0x0112, 3)  # tag and type in EXIF
CPU = ('CPUExecutionProvider',)
# The extra of mmyolo_ext that installs a package
EXTRAS = {
    **{'onnx': 'export', 'onnxruntime': 'export', 'openvino': 'openvino', 'nncf': 'openvino'},
    **{'gradio': 'app', 'trackers': 'track', 'supervision': 'track', 'optuna': 'tune', 'huggingface_hub': 'publish'},
}
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
        model: ``.onnx``, ``.xml`` of OpenVINO, ``.param`` of ncnn, ``.pte`` of ExecuTorch or ``.tflite`` of LiteRT,
            written by mmyolo_ext.
        size_hw: Height and width to fit images into, for dynamic files; by default those of the file.
        threads: CPU threads; 0 uses all.
        providers: Of onnxruntime, in order of preference.

    Raises:
        ValueError: On any fault, naming the file, image or size.
    """

    def __init__(
        self, model: str | Path, size_hw: Size | None = None, threads: int = 0, providers: Sequence = CPU
    ) -> None:
        openers = {'.xml': open_openvino, '.param': open_ncnn, '.pte': open_executorch, '.tflite': open_litert}
        suffix = Path(model).suffix
        if suffix in openers:
            self._run, properties = openers[suffix](model, threads)
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
        own_hw = tuple(self.rules['size_hw'])
        if not self.rules['dynamic'] and tuple(size_hw) != own_hw:
            raise ValueError(f'the model takes {own_hw} only (height, width), got {tuple(size_hw)}')
        return check_size(size_hw, self.rules['strides'])


def check_size(size_hw: Size, strides: Sequence[int]) -> Size:
    """Return height and width of the input as a tuple; ValueError if they do not fit the strides or the memory."""
    stride = max(strides)
    if len(size_hw) != 2 or any(side < 1 or side % stride for side in size_hw):
        raise ValueError(f'height and width of the input must be multiples of {stride}, got {tuple(size_hw)}')
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


def open_openvino(model: str | Path, threads: int) -> tuple[Run, str]:
    """Return a function that runs an OpenVINO file, and its metadata as JSON; ValueError if openvino fails."""
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
    properties = network.get_rt_info(section).value if network.has_rt_info(section) else '{}'
    return lambda images: dict(zip(names, compiled([images]).values(), strict=True)), properties


def open_ncnn(model: str | Path, threads: int) -> tuple[Run, str]:
    """Return a function that runs an ncnn file, and its metadata as JSON; ValueError if ncnn fails."""
    ncnn, weights = need('ncnn'), Path(model).with_suffix('.bin')
    metadata = read_beside(model, weights)
    network = ncnn.Net()
    for option in ('vulkan_compute', 'fp16_packed', 'fp16_storage', 'fp16_arithmetic', 'bf16_storage'):
        setattr(network.opt, f'use_{option}', False)  # float32 is what the boxes have been checked in
    network.opt.num_threads = threads or os.cpu_count()
    if network.load_param(str(model)) or network.load_model(str(weights)):
        raise ValueError(f'ncnn cannot read {model} and {weights}')

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        extractor = network.create_extractor()
        extractor.input('in0', ncnn.Mat(np.ascontiguousarray(images[0])).clone())
        return {name: np.array(extractor.extract(f'out{at}')[1])[None] for at, name in enumerate(('boxes', 'scores'))}

    return run, metadata


def open_executorch(model: str | Path, threads: int = 0) -> tuple[Run, str]:
    """Return a function that runs an ExecuTorch file, and its metadata as JSON; ValueError if ExecuTorch fails.

    ExecuTorch chooses the number of threads itself.
    """
    runtime, torch = need('executorch.runtime'), need('torch')
    metadata = read_beside(model)
    try:
        network = runtime.Runtime.get().load_program(Path(model)).load_method('forward')
    except RuntimeError as error:
        raise ValueError(f'ExecuTorch cannot read {model}: {error}') from error

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        outputs = network.execute([torch.from_numpy(np.ascontiguousarray(images))])
        return {name: output.numpy() for name, output in zip(('boxes', 'scores'), outputs, strict=True)}

    return run, metadata


def open_litert(model: str | Path, threads: int) -> tuple[Run, str]:
    """Return a function that runs a LiteRT file, and its metadata as JSON; ValueError if LiteRT fails."""
    litert = need('ai_edge_litert.interpreter', 'pip install ai-edge-litert')
    metadata = read_beside(model)
    try:
        interpreter = litert.Interpreter(str(model), num_threads=threads or os.cpu_count())
        network = interpreter.get_signature_runner()
    except (RuntimeError, ValueError) as error:
        raise ValueError(f'LiteRT cannot read {model}: {error}') from error

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        outputs = network(args_0=np.ascontiguousarray(images))
        return {'boxes': outputs['output_0'], 'scores': outputs['output_1']}

    return run, metadata


def read_beside(model: str | Path, *parts: Path) -> str:
    """Return the metadata next to a model, ``MODEL.json``; ValueError if that or another part is missing."""
    metadata = Path(f'{model}.json')
    for file in (Path(model), *parts, metadata):
        if not file.is_file():
            names = ', '.join(one.name for one in (Path(model), *parts, metadata))
            raise ValueError(f'there is no {file}: this export has the files {names}')
    return metadata.read_text(encoding='utf-8')


def need(package: str, install: str = '') -> ModuleType:
    """Import a package and return it; ValueError with the command that installs it if it is missing."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        name = package.split('.')[0]
        extra = f", or 'mmyolo_ext[{EXTRAS[name]}]'" if name in EXTRAS else ''
        cure = (install or f'pip install {name}') + extra
        raise ValueError(f'this needs the package {name}: {cure} ({error})') from error


def read_rules(properties: dict[str, str] | str, model: str | Path) -> dict:
    """Decode the metadata of an export, and check it before it is believed.

    Args:
        properties: JSON by name; or all of it as JSON.
        model: The file, for messages.

    Raises:
        ValueError: If there is none of ours, it is of a later form, or a value is missing or out of range; the message
            names file, key and value.
    """
    texts = [properties] if isinstance(properties, str) else properties.values()
    if sum(map(len, texts)) > MAX_METADATA:
        raise ValueError(f'{model} has more than {MAX_METADATA:,} bytes of metadata')
    try:
        properties = json.loads(properties) if isinstance(properties, str) else properties
        rules = {key: json.loads(properties[key]) for key in ('format', *CHECKS) if key in properties}
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f'{model} has metadata that is not JSON: {error}') from error
    if 'format' not in rules:
        raise ValueError(f'{model} has no metadata of mmyolo_ext: export it by tools/export.py')
    if rules['format'] != FORMAT:
        found = reprlib.repr(rules['format'])
        raise ValueError(f'{model} has metadata of form {found}, this runtime.py knows {FORMAT}: copy it again')
    for key, (wanted, fits) in CHECKS.items():
        if key not in rules:
            raise ValueError(f'{model} has no {key} in its metadata: export it again by tools/export.py')
        if not fits(rules[key]):
            found = reprlib.repr(rules[key])
            raise ValueError(f'{model} has metadata with {key} = {found}: it must be {wanted}')
    return rules


def number(low: float, high: float, kinds: tuple[type, ...] = (int, float)) -> Callable[[object], bool]:
    """Make a check for a number in a range, both ends included."""
    return lambda value: type(value) in kinds and low <= value <= high


def several(fits: Callable[[object], bool], least: int, most: int) -> Callable[[object], bool]:
    """Make a check for a list with values that each pass ``fits``."""
    return lambda value: type(value) is list and least <= len(value) <= most and all(map(fits, value))


def one_of(*choices: object) -> tuple[str, Callable[[object], bool]]:
    """Make a row of :data:`CHECKS` for one of some values."""
    return f'one of {choices}', lambda value: value in choices and type(value) is type(choices[0])


LETTERBOX = {
    # a number, or one for each of blue, green and red
    'pad_val': lambda value: number(0, 255)(value) or several(number(0, 255), 3, 3)(value),
    'centred': one_of(True, False)[1],
    'allow_upscale': one_of(True, False)[1],
    'interpolation': one_of(*INTERPOLATIONS)[1],
}
COUNT = ('a whole number, -1 for no limit', number(-1, 2**31, (int,)))
SHARE = ('a number from 0 to 1', number(0, 1))
CHECKS = {
    'names': ('a list of names', several(lambda name: type(name) is str and len(name) <= 1000, 1, 100_000)),
    'size_hw': ('two whole numbers above 0', several(number(1, MAX_PIXELS, (int,)), 2, 2)),
    'strides': (f'whole numbers from 1 to {MAX_STRIDE}', several(number(1, MAX_STRIDE, (int,)), 1, 16)),
    'dynamic': one_of(True, False),
    'precision': one_of('float32', 'float16', 'int8'),
    'letterbox': (
        f'pad_val, centred, allow_upscale and interpolation ({", ".join(INTERPOLATIONS)})',
        lambda value: (
            type(value) is dict
            and value.keys() == LETTERBOX.keys()
            and all(fits(value[key]) for key, fits in LETTERBOX.items())
        ),
    ),
    'channels': one_of('RGB', 'BGR'),
    'mean': ('three finite numbers', several(number(-1e6, 1e6), 3, 3)),
    'std': ('three numbers from 1e-6 to 1e6', several(number(1e-6, 1e6), 3, 3)),
    'activation': one_of('sigmoid', 'softmax'),
    'multi_label': one_of(True, False),
    'nms_in_graph': one_of(True, False),
    'score_thr': SHARE,
    'nms_pre': COUNT,
    'nms_iou': SHARE,
    'class_agnostic': one_of(True, False),
    'max_per_img': COUNT,
}


def check_outputs(outputs: dict[str, np.ndarray], count: int, rules: dict, model: str | Path) -> None:
    """Check the outputs for ``count`` images against the metadata; ValueError if they do not fit."""
    shapes = {name: value.shape for name, value in outputs.items()}
    boxes, classes = (*shapes.get('boxes', ()), 0, 0)[1], len(rules['names'])
    wanted = {'boxes': (count, boxes, 4), 'scores': (count, boxes, classes)}
    if rules['nms_in_graph']:
        wanted |= {'scores': (count, boxes), 'labels': (count, boxes), 'num_dets': (count, 1)}
    fits = all(shapes.get(name) == shape for name, shape in wanted.items())
    if fits and rules['nms_in_graph']:
        labels, kept = outputs['labels'], outputs['num_dets']
        used = labels[np.arange(boxes) < kept]
        fits = labels.dtype.kind == kept.dtype.kind == 'i' and ((kept >= 0) & (kept <= boxes)).all()
        fits = fits and ((used >= 0) & (used < classes)).all()
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
    if is_truncated(content):
        raise ValueError(f'{image} is cut short, copy it again')
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:  # such as more pixels than OpenCV may decode
        raise ValueError(f'{image} cannot be decoded: {" ".join(str(error).split())}') from error
    if pixels is None:
        raise ValueError(f'{image} cannot be decoded, is it an image?')
    if pixels.dtype == np.uint16:
        pixels = cv2.convertScaleAbs(pixels, alpha=255 / 65535)
    elif pixels.dtype != np.uint8:
        raise ValueError(f'{image} has pixels of type {pixels.dtype}: convert it to 8 or 16 bits per channel')
    return turned(pixels, webp_orientation(content))


def is_truncated(content: bytes) -> bool:
    """Return whether a JPEG or PNG has no end: OpenCV would fill what is missing with grey."""
    if content.startswith(PNG_START):
        return PNG_END not in content
    if not content.startswith(JPEG_START):
        return False
    at = len(JPEG_START)
    while content[at : at + 1] == b'\xff' and content[at : at + 2] != JPEG_SCAN:
        # past a segment, which may contain a thumbnail with an end of its own; FF FF is a fill byte
        at += 1 if content[at + 1 : at + 2] == b'\xff' else 2 + int.from_bytes(content[at + 2 : at + 4], 'big')
    return content.find(JPEG_END, at) < 0


def webp_orientation(content: bytes) -> int:
    """Return the EXIF orientation, 1 to 8, of a WebP, which OpenCV ignores; 1 (upright) for any other content."""
    if content[:4] != b'RIFF' or content[8:12] != b'WEBP':
        return 1
    at = 12
    while content[at : at + 4] not in (b'EXIF', b''):
        length = int.from_bytes(content[at + 4 : at + 8], 'little')
        at += 8 + length + length % 2
    tiff = content[at + 8 :].removeprefix(b'Exif\0\0')
    order = '<' if tiff[:2] == b'II' else '>'
    try:
        (directory,) = struct.unpack_from(f'{order}I', tiff, 4)
        (entries,) = struct.unpack_from(f'{order}H', tiff, directory)
        rows = [struct.unpack_from(f'{order}HHIH', tiff, directory + 2 + 12 * row) for row in range(entries)]
    except struct.error:
        return 1
    return next((row[3] for row in rows if row[:2] == ORIENTATION and 1 <= row[3] <= 8), 1)


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
    pad_val = np.asarray(rule['pad_val'])
    canvas = np.full((*canvas_hw, 3), pad_val, np.uint8 if pad_val.dtype.kind == 'i' else np.float32)
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
    kept, rivals = [], np.zeros_like(labels) if rules['class_agnostic'] else labels
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
    parser.add_argument('model', help='.onnx, .xml (OpenVINO), .param (ncnn), .pte (ExecuTorch), or .tflite (LiteRT)')
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
