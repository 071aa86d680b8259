"""The formats a detector is exported to: how each is written, and run again for the check."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from torch import nn

from mmyolo_ext.export import runtime
from mmyolo_ext.export.graph import build_graph, check_size
from mmyolo_ext.export.metadata import describe
from mmyolo_ext.export.nms_graph import NMSGraph, rule_of
from mmyolo_ext.export.onnx_export import export_onnx
from mmyolo_ext.export.openvino_export import export_openvino
from mmyolo_ext.export.tensorrt_export import export_engine, open_engine
from mmyolo_ext.export.torchscript import export_torchscript, open_torchscript

SUFFIXES = {'onnx': '.onnx', 'torchscript': '.torchscript', 'openvino': '.xml', 'engine': '.engine'}


class Options(NamedTuple):
    """What is exported: see ``docs/guides/export.md``."""

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
        detector: built, with its weights; not changed.
        file: to write; some formats write a second beside it.
        options: the format and its variants.
        names: of the classes.
        letterbox: see :func:`.metadata.describe`.
        size_hw: of the input.

    Raises:
        ValueError: a detector, size or combination that cannot be exported, or a package that is missing.
    """
    if options.nms and options.format == 'torchscript':
        raise ValueError('--nms is for onnx, openvino and engine: TorchScript has no operator for it of its own')
    # OpenVINO and TensorRT turn float32 into float16 themselves
    half_graph = options.half and options.format in ('onnx', 'torchscript')
    graph = build_graph(detector, fused=options.fused, half=half_graph)
    size_hw = check_size(size_hw, graph.head.strides)
    metadata = describe(
        detector,
        names,
        letterbox,
        size_hw,
        nms=options.nms,
        # a traced graph of torch is open anyway
        dynamic=options.dynamic or options.format == 'torchscript',
        precision='float16' if options.half else 'float32',
    )
    if options.format == 'torchscript':
        export_torchscript(graph, file, metadata, size_hw)
        return
    with TemporaryDirectory() as folder:
        direct = options.format == 'onnx'
        onnx_file = file if direct else Path(folder) / 'graph.onnx'
        whole = NMSGraph(graph, rule_of(graph.head)) if options.nms else graph
        export_onnx(whole, onnx_file, metadata, size_hw, options.dynamic)
        if not direct:
            _convert(onnx_file, file, options, metadata)


def _convert(onnx_file: Path, file: Path, options: Options, metadata: dict[str, str]) -> None:
    """An ONNX file to OpenVINO's or TensorRT's."""
    if options.format == 'openvino':
        export_openvino(onnx_file, file, metadata, options.half)
        return
    rules = runtime.read_rules(metadata, file)
    stride, size_hw = max(rules['strides']), tuple(rules['size_hw'])
    export_engine(onnx_file, file, metadata, size_hw, stride=stride, dynamic=options.dynamic, half=options.half)


def open_exported(file: Path, kind: str) -> tuple[Callable[[np.ndarray], dict[str, np.ndarray]], dict]:
    """What runs an exported file, and its rules.

    Raises:
        ValueError: a file that cannot be run here.
    """
    openers = {
        'onnx': lambda: runtime.open_onnx(file, 0, runtime.CPU),
        'openvino': lambda: runtime.open_openvino(file, 0),
        'torchscript': lambda: open_torchscript(file),
        'engine': lambda: open_engine(file),
    }
    run, metadata = openers[kind]()
    return run, runtime.read_rules(metadata, file)
