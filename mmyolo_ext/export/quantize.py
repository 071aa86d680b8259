"""An ONNX file of ours with its convolutions in int8."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mmyolo_ext.export.onnx_export import INPUT
from mmyolo_ext.export.packages import need
from mmyolo_ext.export.runtime import read_rules

INSTALL = 'pip install onnx onnxruntime'
HEAD = 'bbox_head.'  # in the names of the weights that stay in float32


def quantize(model: str | Path, out: str | Path, batches: Iterable[np.ndarray]) -> dict:
    """Static quantisation by onnxruntime: int8 weights, a scale for each channel, and uint8 activations.

    The head's convolutions stay in float32, and so does the arithmetic that makes boxes of what they give: in 256
    steps a coordinate would jump by pixels.

    Args:
        model: an export of ours in float32.
        out: file to write; same metadata, ``precision`` int8.
        batches: pictures as the network takes them, for the ranges of the activations.

    Returns:
        The rules of the file.

    Raises:
        ValueError: not such a file, no picture, or a package that is missing.
    """
    onnx = need('onnx', INSTALL)
    quantization = need('onnxruntime.quantization', INSTALL)
    try:
        graph = onnx.load(str(model))
    except Exception as error:  # of protobuf, or the system's
        raise ValueError(f'onnx cannot read {model}: {error}') from error
    properties = {prop.key: prop.value for prop in graph.metadata_props}
    rules = read_rules(properties, model)
    if rules['precision'] != 'float32':
        raise ValueError(f'{model} has {rules["precision"]} weights; quantise an export in float32')
    kept = [node.name for node in graph.graph.node if any(HEAD in name for name in node.input)]
    with TemporaryDirectory() as folder:
        prepared = Path(folder) / 'prepared.onnx'
        need('onnxruntime.quantization.shape_inference', INSTALL).quant_pre_process(
            str(model), str(prepared), skip_symbolic_shape=True, skip_optimization=True
        )
        quantization.quantize_static(
            str(prepared),
            str(out),
            Feed(batches),
            op_types_to_quantize=['Conv'],
            nodes_to_exclude=kept,
            per_channel=True,
            # unsigned times signed is what processors of x86 multiply; signed times signed took twice the time
            activation_type=quantization.QuantType.QUInt8,
        )
    done = onnx.load(str(out))
    properties['precision'] = json.dumps('int8')
    onnx.helper.set_model_props(done, properties)
    onnx.save(done, str(out))
    return read_rules(properties, out)


class Feed:
    """Batches in the form that onnxruntime's calibration asks for.

    Raises:
        ValueError: there is none.
    """

    def __init__(self, batches: Iterable[np.ndarray]) -> None:
        self._batches = self._checked(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, None at the end."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}

    @staticmethod
    def _checked(batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        count = 0
        for count, batch in enumerate(batches, 1):  # noqa: B007
            yield batch
        if not count:
            raise ValueError('calibration needs pictures, got none')
