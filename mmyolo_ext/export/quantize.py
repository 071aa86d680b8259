"""Quantise the convolutions of an ONNX export to int8."""

import json
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np

from mmyolo_ext.export.onnx_export import INPUT
from mmyolo_ext.export.runtime import need, read_rules

HEAD = 'bbox_head.'  # part of the names of weights that stay in float32


def quantize(model: str | Path, out: str | Path, batches: Iterable[np.ndarray]) -> None:
    """Quantise an export statically by onnxruntime: int8 weights, one scale per channel, and uint8 activations.

    The head's convolutions and the decoding stay in float32: with 256 steps a coordinate would jump by pixels.

    Args:
        model: A float32 ONNX export of this package.
        out: File to write, with the same metadata except for ``precision``.
        batches: Network inputs that calibrate the ranges of the activations.

    Raises:
        ValueError: If the file is not such an export, or if a package is missing.
    """
    onnx = need('onnx')
    quantization = need('onnxruntime.quantization')
    graph = onnx.load(str(model))
    properties = {prop.key: prop.value for prop in graph.metadata_props}
    rules = read_rules(properties, model)
    if rules['precision'] != 'float32':
        raise ValueError(f'{model} has {rules["precision"]} weights: quantise a float32 export')
    feed = ({INPUT: batch} for batch in batches)
    kept = [node.name for node in graph.graph.node if any(HEAD in name for name in node.input)]
    with TemporaryDirectory() as folder:
        prepared = Path(folder) / 'prepared.onnx'
        need('onnxruntime.quantization.shape_inference').quant_pre_process(
            str(model), str(prepared), skip_symbolic_shape=True, skip_optimization=True
        )
        quantization.quantize_static(
            str(prepared),
            str(out),
            SimpleNamespace(get_next=lambda: next(feed, None)),
            op_types_to_quantize=['Conv'],
            nodes_to_exclude=kept,
            per_channel=True,
            # x86 processors multiply unsigned by signed; signed by signed takes twice as long
            activation_type=quantization.QuantType.QUInt8,
        )
    done = onnx.load(str(out))
    properties['precision'] = json.dumps('int8')
    onnx.helper.set_model_props(done, properties)
    onnx.save(done, str(out))
