"""Write a graph as an ONNX file."""

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from torch import nn
from torch.onnx.symbolic_helper import parse_args

from mmyolo_ext.export.graph import RAW_OUTPUTS, example_input
from mmyolo_ext.export.nms_graph import NMS_OUTPUTS, NMSGraph

# contains all operators used here; supported by onnxruntime >= 1.12, TensorRT >= 8.6 and OpenVINO >= 2022.3
OPSET = 17
INPUT = 'images'


def need(package: str, command: str) -> ModuleType:
    """Import an optional package.

    Raises:
        ValueError: If it cannot be imported; the message contains ``command``, which installs it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(f'this needs the package {package.split(".")[0]}: {command} ({error})') from error


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
    onnx = need('onnx', 'pip install onnx onnxruntime')
    names = NMS_OUTPUTS if isinstance(graph, NMSGraph) else RAW_OUTPUTS
    axes = {INPUT: {0: 'batch', 2: 'height', 3: 'width'}}
    axes |= {name: {0: 'batch', **({} if names == NMS_OUTPUTS else {1: 'predictions'})} for name in names}
    with warnings.catch_warnings(), torch.no_grad(), _open_unflatten(OPSET):
        # the tracing exporter needs only torch and keeps open sizes open; the newer one needs onnxscript
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


@contextmanager
def _open_unflatten(opset: int) -> Iterator[None]:
    """Export ``Tensor.unflatten`` so that sizes after the split axis stay open.

    The exporter's own version computes the axis by arithmetic inside the graph, which its shape inference cannot
    follow: it then makes the sizes of the traced image constants, and with them the grids of cells.
    """
    torch.onnx.register_custom_op_symbolic('aten::unflatten', _unflatten, opset)
    try:
        yield
    finally:
        torch.onnx.unregister_custom_op_symbolic('aten::unflatten', opset)


@parse_args('v', 'i', 'is')
def _unflatten(g, tensor, dim: int, sizes: list[int]):
    def constant(numbers: list[int]):
        return g.op('Constant', value_t=torch.tensor(numbers))

    def part(start: int, end: int) -> list:
        return [g.op('Slice', shape, constant([start]), constant([end]))] if start < end else []

    shape, rank = g.op('Shape', tensor), tensor.type().dim()
    dim %= rank
    parts = [*part(0, dim), constant(sizes), *part(dim + 1, rank)]
    return g.op('Reshape', tensor, g.op('Concat', *parts, axis_i=0))
