"""The export formats: write a detector as a file, with metadata for the runtime, and open the file again."""

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from mmyolo_ext.export import runtime
from mmyolo_ext.export.graph import RAW_OUTPUTS, RawGraph, build_graph, raw_graph
from mmyolo_ext.export.ncnn_export import export_ncnn
from mmyolo_ext.export.nms_graph import NMSGraph
from mmyolo_ext.export.onnx_export import export_onnx
from mmyolo_ext.export.tensorrt_export import export_engine, open_engine
from mmyolo_ext.version import __version__

FIXED = ('ncnn', 'executorch', 'litert')  # whose files take one image of one size
SUFFIXES = {
    'onnx': '.onnx',
    'torchscript': '.torchscript',
    'openvino': '.xml',
    'engine': '.engine',
    'ncnn': '.param',
    'executorch': '.pte',
    'litert': '.tflite',
}
METADATA_FORMAT = 1  # raise it when a key changes its meaning: the runtime refuses formats that it does not know
TORCHSCRIPT_METADATA = 'mmyolo_ext.json'  # name inside the file
OPENVINO_SECTION = ('mmyolo_ext', 'metadata')  # of rt_info; one JSON object with all keys


class Options(NamedTuple):
    """What to export; see ``docs/guides/export.md``."""

    format: str = 'onnx'
    nms: bool = False
    dynamic: bool = False
    half: bool = False
    fused: bool = False


def write(
    detector: nn.Module,
    file: Path,
    options: Options,
    names: tuple[str, ...],
    letterbox: dict,
    size_hw: tuple[int, int],
) -> None:
    """Export a detector.

    Args:
        detector: A built detector with its weights; not changed.
        file: File to write; all formats but ONNX and TorchScript write others beside it.
        options: Format and variants.
        names: Class names.
        letterbox: See :func:`describe`.
        size_hw: Height and width of the input, px.

    Raises:
        ValueError: If the detector, the size or the combination of options cannot be exported, or if a package is
            missing.
    """
    if options.nms and options.format in ('torchscript', *FIXED):
        raise ValueError(f'--nms is for onnx, openvino and engine: {options.format} has no NMS operator')
    if options.dynamic and options.format in FIXED:
        raise ValueError(f'--dynamic is not for {options.format}, whose file takes one image of one size')
    if options.half and options.format in ('executorch', 'litert'):
        raise ValueError(f'--half is not for {options.format}, whose file is float32')
    # OpenVINO, TensorRT and ncnn convert float32 to float16 themselves
    graph = build_graph(detector, fused=options.fused, half=options.half and options.format in ('onnx', 'torchscript'))
    size_hw = runtime.check_size(size_hw, graph.strides)
    metadata = describe(
        detector,
        names,
        letterbox,
        size_hw,
        nms=options.nms,
        dynamic=options.dynamic or options.format == 'torchscript',  # a TorchScript trace is always open
        precision='float16' if options.half else 'float32',
    )
    if options.format == 'torchscript':
        export_torchscript(graph, file, metadata, size_hw)
        return
    if options.format == 'ncnn':
        with TemporaryDirectory() as folder:
            traced = Path(folder) / 'graph.torchscript'
            export_torchscript(graph, traced, metadata, size_hw)
            export_ncnn(graph, traced, file, metadata, size_hw, options.half)
        return
    if options.format in ('executorch', 'litert'):
        export = export_executorch if options.format == 'executorch' else export_litert
        export(graph, file, metadata, size_hw)
        return
    whole = NMSGraph(graph, graph.rule()) if options.nms else graph
    if options.format == 'onnx':
        export_onnx(whole, file, metadata, size_hw, options.dynamic)
        return
    with TemporaryDirectory() as folder:
        onnx_file = Path(folder) / 'graph.onnx'
        export_onnx(whole, onnx_file, metadata, size_hw, options.dynamic)
        if options.format == 'openvino':
            export_openvino(onnx_file, file, metadata, options.half)
        else:
            stride = max(graph.strides)
            export_engine(
                onnx_file, file, metadata, size_hw, stride=stride, dynamic=options.dynamic, half=options.half
            )


def open_exported(file: Path, kind: str) -> tuple[Callable[[np.ndarray], dict[str, np.ndarray]], dict]:
    """Open an exported file.

    Returns:
        A function from images (N, 3, H, W) float32 to the outputs by name, and the decoded metadata.

    Raises:
        ValueError: If the file cannot be run on this machine.
    """
    openers = {
        'onnx': lambda: runtime.open_onnx(file, 0, runtime.CPU),
        'openvino': lambda: runtime.open_openvino(file, 0),
        'torchscript': lambda: open_torchscript(file),
        'engine': lambda: open_engine(file),
        'ncnn': lambda: runtime.open_ncnn(file, 0),
        'executorch': lambda: runtime.open_executorch(file),
        'litert': lambda: runtime.open_litert(file, 0),
    }
    run, metadata = openers[kind]()
    return run, runtime.read_rules(metadata, file)


def describe(
    detector: nn.Module,
    names: Sequence[str],
    letterbox: dict,
    size_hw: tuple[int, int],
    *,
    nms: bool = False,
    dynamic: bool = False,
    precision: str = 'float32',
) -> dict[str, str]:
    """Return the metadata that a runtime needs; each value is JSON. ``docs/guides/export.md`` lists the keys.

    Args:
        detector: The detector with its head and data preprocessor.
        names: The C class names.
        letterbox: How an image is fitted into the input: ``pad_val``, ``centred``, ``allow_upscale``,
            ``interpolation``.
        size_hw: Height and width of the input, px.
        nms: Whether the graph includes NMS.
        dynamic: Whether batch and size are open.
        precision: Of the weights.

    Raises:
        ValueError: If names and classes differ in number, or if the NMS of ``test_cfg`` is not supported.
    """
    graph, head, preprocessor = raw_graph(detector), detector.bbox_head, detector.data_preprocessor
    if len(names) != head.num_classes:
        raise ValueError(f'the head has {head.num_classes} classes, got {len(names)} names: {tuple(names)}')
    mean, std = [0.0] * 3, [1.0] * 3
    if preprocessor._enable_normalize:  # one number may apply to all channels
        mean, std = (buffer.flatten().expand(3).tolist() for buffer in (preprocessor.mean, preprocessor.std))
    values = {
        'format': METADATA_FORMAT,
        'mmyolo_ext': __version__,
        'names': list(names),
        'size_hw': list(size_hw),
        'strides': graph.strides,
        'dynamic': dynamic,
        'precision': precision,
        'letterbox': letterbox,
        # input = (pixel - mean) / std, in the order of the channels
        'channels': 'RGB' if preprocessor._channel_conversion else 'BGR',
        'mean': mean,
        'std': std,
        'activation': graph.activation,
        'nms_in_graph': nms,
        **graph.rule(),
    }
    return {key: json.dumps(value) for key, value in values.items()}


def export_openvino(onnx_file: str | Path, file: str | Path, metadata: dict[str, str], half: bool = False) -> None:
    """Convert a float32 ONNX file to OpenVINO's ``.xml`` and ``.bin``, with the metadata in ``rt_info``.

    With ``half`` the weights are float16 on disk; OpenVINO chooses the precision of the computation.

    Raises:
        ValueError: If openvino is not installed.
    """
    openvino = runtime.need('openvino')
    model = openvino.convert_model(str(onnx_file))
    model.set_rt_info(json.dumps(metadata), list(OPENVINO_SECTION))
    openvino.save_model(model, str(file), compress_to_fp16=half)


def export_torchscript(graph: RawGraph, file: str | Path, metadata: dict[str, str], size_hw: tuple[int, int]) -> None:
    """Write the traced graph, which accepts other sizes and batches, with its metadata as ``mmyolo_ext.json``."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore', DeprecationWarning)
        warnings.simplefilter('ignore', torch.jit.TracerWarning)
        traced = torch.jit.trace(graph, torch.zeros(1, 3, *size_hw))
        torch.jit.save(traced, str(file), _extra_files={TORCHSCRIPT_METADATA: json.dumps(metadata)})


def open_torchscript(file: str | Path) -> tuple[Callable[[np.ndarray], dict[str, np.ndarray]], dict[str, str]]:
    """Return a function that runs a TorchScript export, and its metadata."""
    extra = {TORCHSCRIPT_METADATA: ''}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)
        network = torch.jit.load(str(file), _extra_files=extra)

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        with torch.no_grad():
            outputs = network(torch.from_numpy(images))
        return dict(zip(RAW_OUTPUTS, (output.numpy() for output in outputs), strict=True))

    return run, json.loads(extra[TORCHSCRIPT_METADATA])


def export_executorch(graph: RawGraph, file: str | Path, metadata: dict[str, str], size_hw: tuple[int, int]) -> None:
    """Lower the graph for ExecuTorch's XNNPACK to a ``.pte``, with the metadata as JSON next to it (``.pte.json``).

    Raises:
        ValueError: If executorch is not installed.
    """
    exir = runtime.need('executorch.exir')
    xnnpack = runtime.need('executorch.backends.xnnpack.partition.xnnpack_partitioner')
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')
        program = torch.export.export(graph, (torch.zeros(1, 3, *size_hw),))
        lowered = exir.to_edge_transform_and_lower(program, partitioner=[xnnpack.XnnpackPartitioner()])
    Path(file).write_bytes(lowered.to_executorch().buffer)
    Path(f'{file}.json').write_text(json.dumps(metadata, indent=1), encoding='utf-8')


def export_litert(graph: RawGraph, file: str | Path, metadata: dict[str, str], size_hw: tuple[int, int]) -> None:
    """Convert the graph to LiteRT's (TensorFlow Lite's) ``.tflite``, with the metadata as JSON next to it.

    Raises:
        ValueError: If litert-torch is not installed.
    """
    litert, image = runtime.need('litert_torch', 'pip install litert-torch'), (torch.zeros(1, 3, *size_hw),)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')
        program = torch.export.export(graph, image)
        # the converter has no power
        program = program.run_decompositions({torch.ops.aten.square.default: lambda values: values * values})
        litert.convert(program.module(), image).export(str(file))
    Path(f'{file}.json').write_text(json.dumps(metadata, indent=1), encoding='utf-8')
