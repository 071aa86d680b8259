"""An ONNX file as OpenVINO's pair of files."""

import json
from pathlib import Path

from mmyolo_ext.export.packages import need

SECTION = ('mmyolo_ext', 'metadata')  # of the file's own information; one entry, a JSON object of all keys


def export_openvino(onnx_file: str | Path, file: str | Path, metadata: dict[str, str], half: bool = False) -> None:
    """Write ``file`` (.xml) and its weights (.bin) from an ONNX file.

    Args:
        onnx_file: a graph exported before, in float32.
        file: to write.
        metadata: goes into the ``rt_info`` of the file.
        half: weights in float16 on disk; OpenVINO chooses what it computes in.

    Raises:
        ValueError: openvino is not installed.
    """
    openvino = need('openvino', 'pip install openvino')
    model = openvino.convert_model(str(onnx_file))
    model.set_rt_info(json.dumps(metadata), list(SECTION))
    openvino.save_model(model, str(file), compress_to_fp16=half)
