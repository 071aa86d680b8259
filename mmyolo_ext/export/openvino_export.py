"""An ONNX file as OpenVINO's pair of files."""

from pathlib import Path

from mmyolo_ext.export.packages import need

SECTION = 'mmyolo_ext'  # of the file's own information


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
    for key, value in metadata.items():
        model.set_rt_info(value, [SECTION, key])
    openvino.save_model(model, str(file), compress_to_fp16=half)
