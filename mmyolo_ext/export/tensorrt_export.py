"""An ONNX file as a TensorRT engine: built on the GPU it is for, by the version that will run it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mmyolo_ext.export.packages import need

INSTALL = 'pip install tensorrt (it needs a GPU of NVIDIA)'
MAX_BATCH = 8  # of an engine of open size; its sides go from the least stride to twice those of the export


def export_engine(
    onnx_file: str | Path,
    file: str | Path,
    metadata: dict[str, str],
    size_hw: tuple[int, int],
    *,
    stride: int,
    dynamic: bool = False,
    half: bool = False,
) -> None:
    """Write an engine from an ONNX file, and its metadata as JSON next to it: ``model.engine.json``.

    Args:
        onnx_file: a graph exported before, in float32.
        file: to write.
        metadata: see :mod:`.metadata`.
        size_hw: of the input.
        stride: the largest: no side is less.
        dynamic: take batches up to :data:`MAX_BATCH` and sides up to twice these.
        half: let layers compute in float16.

    Raises:
        ValueError: tensorrt is not installed, finds no GPU, or cannot read or build the graph.
    """
    trt = need('tensorrt', INSTALL)
    if not torch.cuda.is_available():
        raise ValueError('an engine is built on the GPU it is for: torch sees none here')
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    explicit = getattr(trt.NetworkDefinitionCreationFlag, 'EXPLICIT_BATCH', None)  # the only way since version 10
    network = builder.create_network(0 if explicit is None else 1 << int(explicit))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(Path(onnx_file).read_bytes()):
        faults = '; '.join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise ValueError(f'TensorRT cannot read {onnx_file}: {faults}')
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # 10 bits of mantissa would move boxes by more than the bound
    if half:
        config.set_flag(trt.BuilderFlag.FP16)
    if dynamic:
        shapes = ((1, 3, stride, stride), (1, 3, *size_hw), (MAX_BATCH, 3, *(2 * side for side in size_hw)))
        profile = builder.create_optimization_profile()
        profile.set_shape(network.get_input(0).name, *shapes)
        config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ValueError(f'TensorRT could not build an engine of {onnx_file}; its own messages above say why')
    Path(file).write_bytes(bytes(engine))
    Path(f'{file}.json').write_text(json.dumps(metadata, indent=1), encoding='utf-8')


def open_engine(file: str | Path) -> tuple[Callable[[np.ndarray], dict[str, np.ndarray]], dict[str, str]]:
    """What runs an engine on the GPU, and its metadata.

    Raises:
        ValueError: tensorrt is not installed, or is not of the version that built the engine.
    """
    trt = need('tensorrt', INSTALL)
    engine = trt.Runtime(trt.Logger(trt.Logger.WARNING)).deserialize_cuda_engine(Path(file).read_bytes())
    if engine is None:
        raise ValueError(f'this TensorRT ({trt.__version__}) cannot load {file}: build it anew on this machine')
    context = engine.create_execution_context()
    feed, *names = (engine.get_tensor_name(index) for index in range(engine.num_io_tensors))

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        tensors = {feed: torch.from_numpy(images).cuda()}
        context.set_input_shape(feed, images.shape)
        for name in names:
            dtype = torch.from_numpy(np.empty(0, trt.nptype(engine.get_tensor_dtype(name)))).dtype
            tensors[name] = torch.empty(tuple(context.get_tensor_shape(name)), dtype=dtype, device='cuda')
        for name, tensor in tensors.items():
            context.set_tensor_address(name, tensor.data_ptr())
        stream = torch.cuda.current_stream()
        if not context.execute_async_v3(stream.cuda_stream):
            raise ValueError(f'TensorRT could not run {file} on a batch of {images.shape}')
        stream.synchronize()
        return {name: tensors[name].cpu().numpy() for name in names}

    return run, json.loads(Path(f'{file}.json').read_text(encoding='utf-8'))
