"""Quantise an ONNX or OpenVINO export to int8."""

import json
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np

from mmyolo_ext.export.onnx_export import INPUT
from mmyolo_ext.export.runtime import need, read_rules

OPENVINO_SECTION = ['mmyolo_ext', 'metadata']
# OpenVINO's operations of the head, and those outside of backbone and neck, which decode boxes
IN_FLOAT = (r'.*bbox_head.*', r'^/(?!backbone/|neck/).*')
HEAD = 'bbox_head.'  # part of the names of weights that stay in float32


def quantize_openvino(model: str | Path, out: str | Path, batches: Iterable[np.ndarray]) -> None:
    """Quantise an OpenVINO export by NNCF after training: int8 weights and activations, the head in float32.

    Args:
        model: A float32 ``.xml`` export of this package.
        out: ``.xml`` file to write, with the same metadata except for ``precision``.
        batches: Network inputs that calibrate the ranges of the activations.

    Raises:
        ValueError: If the file is not such an export, or if a package is missing.
    """
    openvino, nncf = need('openvino'), need('nncf')
    try:
        graph = openvino.Core().read_model(str(model))
    except RuntimeError as error:
        raise ValueError(f'openvino cannot read {model}: {" ".join(str(error).split())}') from error
    text = graph.get_rt_info(OPENVINO_SECTION).value if graph.has_rt_info(OPENVINO_SECTION) else '{}'
    rules = read_rules(text, model)
    if rules['precision'] != 'float32':
        raise ValueError(f'{model} has {rules["precision"]} weights: quantise a float32 export')
    batches = list(batches)
    done = nncf.quantize(
        graph,
        nncf.Dataset(batches),
        preset=nncf.QuantizationPreset.MIXED,  # activations of SiLU are not symmetric
        subset_size=len(batches),
        ignored_scope=nncf.IgnoredScope(patterns=list(IN_FLOAT), validate=False),
    )
    done.set_rt_info(json.dumps({**json.loads(text), 'precision': json.dumps('int8')}), OPENVINO_SECTION)
    openvino.save_model(done, str(out), compress_to_fp16=False)


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
