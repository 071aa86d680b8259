"""Write a graph as an ncnn model, by pnnx."""

import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from mmyolo_ext.export.graph import DenseHeadGraph, RawGraph
from mmyolo_ext.export.runtime import need


def export_ncnn(
    graph: RawGraph,
    torchscript: str | Path,
    file: str | Path,
    metadata: dict[str, str],
    size_hw: tuple[int, int],
    half: bool = False,
) -> None:
    """Write ``model.param``, ``model.bin``, and the metadata as JSON next to them (``model.param.json``).

    Args:
        graph: What was traced.
        torchscript: Its trace.
        file: The ``.param`` file to write.
        metadata: See :func:`.formats.describe`.
        size_hw: Height and width of the input, px.
        half: Store the weights as float16.

    Raises:
        ValueError: If pnnx is not installed, the detector has a head of mmdet, or pnnx cannot convert it.
    """
    if isinstance(graph, DenseHeadGraph):
        raise ValueError(f'ncnn is for YOLOv5Head and YOLOv3Head, got {type(graph.head).__name__}: export it to onnx')
    program, file = need('pnnx').EXEC_PATH, Path(file)
    with TemporaryDirectory() as folder:  # for the files that pnnx writes besides
        written = {'ncnnparam': file.resolve(), 'ncnnbin': file.with_suffix('.bin').resolve()}
        written |= {name: Path(folder) / name for name in ('ncnnpy', 'pnnxparam', 'pnnxbin', 'pnnxpy', 'pnnxonnx')}
        height, width = size_hw
        options = [f'inputshape=[1,3,{height},{width}]', f'fp16={int(half)}', 'device=cpu']
        options += [f'{name}={path}' for name, path in written.items()]
        done = subprocess.run([program, str(torchscript), *options], capture_output=True, text=True)
    if done.returncode or not file.is_file():
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise ValueError(f'pnnx cannot convert this detector to ncnn: {lines[-1] if lines else "it wrote no file"}')
    Path(f'{file}.json').write_text(json.dumps(metadata, indent=1), encoding='utf-8')
