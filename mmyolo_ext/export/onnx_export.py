"""A graph as an ONNX file."""

import warnings
from pathlib import Path

import torch
from torch import nn

from mmyolo_ext.export.graph import RAW_OUTPUTS, example_input
from mmyolo_ext.export.nms_graph import NMS_OUTPUTS, NMSGraph
from mmyolo_ext.export.open_sizes import open_unflatten
from mmyolo_ext.export.packages import need

# has every operator used here; onnxruntime since 1.12, TensorRT since 8.6 and OpenVINO since 2022.3 read it
OPSET = 17
INPUT = 'images'


def output_names(graph: nn.Module) -> tuple[str, ...]:
    """Names of what the graph gives, in order."""
    return NMS_OUTPUTS if isinstance(graph, NMSGraph) else RAW_OUTPUTS


def export_onnx(
    graph: nn.Module, file: str | Path, metadata: dict[str, str], size_hw: tuple[int, int], dynamic: bool = False
) -> None:
    """Write the graph with its metadata, checked by onnx.

    Args:
        graph: a ``RawGraph`` or ``NMSGraph``.
        file: to write.
        metadata: becomes ``metadata_props``.
        size_hw: of the input, of one picture.
        dynamic: leave the number of pictures, the height and the width open.

    Raises:
        ValueError: onnx is not installed.
    """
    onnx = need('onnx', 'pip install onnx onnxruntime')
    names = output_names(graph)
    axes = {INPUT: {0: 'batch', 2: 'height', 3: 'width'}}
    axes |= {name: {0: 'batch', **({} if names == NMS_OUTPUTS else {1: 'places'})} for name in names}
    with warnings.catch_warnings(), torch.no_grad(), open_unflatten(OPSET):
        # the exporter by tracing needs nothing but torch, and keeps open sizes open; the newer one wants onnxscript
        warnings.simplefilter('ignore', DeprecationWarning)
        warnings.simplefilter('ignore', torch.jit.TracerWarning)
        torch.onnx.export(
            graph,
            (example_input(size_hw),),
            str(file),
            input_names=[INPUT],
            output_names=list(names),
            dynamic_axes=axes if dynamic else None,
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load(str(file))
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    onnx.save(model, str(file))
