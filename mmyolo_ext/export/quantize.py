"""Quantise the convolutions of an ONNX export to int8."""

import json
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mmyolo_ext.export.onnx_export import INPUT
from mmyolo_ext.export.runtime import need, read_rules

HEAD = 'bbox_head.'  # part of the names of weights that stay in float32


def quantize(model: str | Path, out: str | Path, batches: Iterable[np.ndarray]) -> dict:
    """Quantise an export statically by onnxruntime: int8 weights, one scale per channel, and uint8 activations.

    The head's convolutions and the decoding stay in float32: with 256 steps a coordinate would jump by pixels.

    Args:
        model: A float32 ONNX export of this package.
        out: File to write, with the same metadata except for ``precision``.
        batches: Network inputs that calibrate the ranges of the activations.

    Returns:
        The decoded metadata of the new file.

    Raises:
        ValueError: If the file is not such an export, if there are no batches, or if a package is missing.
    """
    onnx = need('onnx')
    quantization = need('onnxruntime.quantization')
    try:
        graph = onnx.load(str(model))
    except Exception as error:  # of protobuf or the system
        raise ValueError(f'onnx cannot read {model}: {error}') from error
    properties = {prop.key: prop.value for prop in graph.metadata_props}
    rules = read_rules(properties, model)
    if rules['precision'] != 'float32':
        raise ValueError(f'{model} has {rules["precision"]} weights: quantise a float32 export')
    kept = [node.name for node in graph.graph.node if any(HEAD in name for name in node.input)]
    with TemporaryDirectory() as folder:
        prepared = Path(folder) / 'prepared.onnx'
        need('onnxruntime.quantization.shape_inference').quant_pre_process(
            str(model), str(prepared), skip_symbolic_shape=True, skip_optimization=True
        )
        quantization.quantize_static(
            str(prepared),
            str(out),
            Feed(batches),
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
    return read_rules(properties, out)


class Feed:
    """Give batches in the form that onnxruntime's calibration expects; ValueError if there are none."""

    def __init__(self, batches: Iterable[np.ndarray]) -> None:
        self._batches = iter(batches)
        self._count = 0

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch, None at the end."""
        batch = next(self._batches, None)
        if batch is not None:
            self._count += 1
            return {INPUT: batch}
        if not self._count:
            raise ValueError('calibration needs images, got none')
        return None
