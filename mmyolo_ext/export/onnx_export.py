"""Write a graph as an ONNX file."""

import warnings
from pathlib import Path

import torch
from torch import nn

from mmyolo_ext.export.graph import RAW_OUTPUTS
from mmyolo_ext.export.nms_graph import NMS_OUTPUTS, NMSGraph
from mmyolo_ext.export.runtime import need

# contains all operators used here; supported by onnxruntime >= 1.12, TensorRT >= 8.6 and OpenVINO >= 2022.3
OPSET = 17
INPUT = 'images'


def export_onnx(
    graph: nn.Module, file: str | Path, metadata: dict[str, str], size_hw: tuple[int, int], dynamic: bool = False
) -> None:
    """Write a graph with its metadata and check the file by onnx.

    Args:
        graph: A ``RawGraph`` or ``NMSGraph``.
        file: File to write.
        metadata: Stored as ``metadata_props``.
        size_hw: Height and width of the input, px.
        dynamic: Leave batch size, height and width open.

    Raises:
        ValueError: If onnx is not installed.
    """
    onnx = need('onnx')
    names = NMS_OUTPUTS if isinstance(graph, NMSGraph) else RAW_OUTPUTS
    axes = {INPUT: {0: 'batch', 2: 'height', 3: 'width'}}
    axes |= {name: {0: 'batch', **({} if names == NMS_OUTPUTS else {1: 'predictions'})} for name in names}
    with warnings.catch_warnings(), torch.no_grad():
        # the tracing exporter needs only torch and keeps open sizes open; the newer one needs onnxscript
        warnings.simplefilter('ignore', DeprecationWarning)
        warnings.simplefilter('ignore', torch.jit.TracerWarning)
        warnings.simplefilter('ignore', UserWarning)  # hints of the exporter; the check of the file is what counts
        torch.onnx.export(
            graph,
            (torch.zeros(1, 3, *size_hw),),
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
