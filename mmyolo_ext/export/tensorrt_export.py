"""Build a TensorRT engine from an ONNX file, on the GPU and with the version that will run it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mmyolo_ext.export.runtime import need

INSTALL = 'pip install tensorrt (it needs an NVIDIA GPU)'
MAX_BATCH = 8  # of a dynamic engine, whose sides range from one stride to twice the exported size


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
    """Write an engine, and its metadata as JSON next to it (``model.engine.json``).

    Args:
        onnx_file: A float32 ONNX export.
        file: File to write.
        metadata: See :func:`.formats.describe`.
        size_hw: Height and width of the input, px.
        stride: The largest stride, which is the smallest side of a dynamic engine.
        dynamic: Accept batches up to :data:`MAX_BATCH` and sides up to twice ``size_hw``.
        half: Allow float16 layers.

    Raises:
        ValueError: If tensorrt is not installed, if there is no GPU, or if TensorRT cannot read or build the graph.
    """
    trt = need('tensorrt', INSTALL)
    if not torch.cuda.is_available():
        raise ValueError('a TensorRT engine must be built on the GPU that runs it, but torch finds no GPU')
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    explicit = getattr(trt.NetworkDefinitionCreationFlag, 'EXPLICIT_BATCH', None)  # the only way since version 10
    network = builder.create_network(0 if explicit is None else 1 << int(explicit))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(Path(onnx_file).read_bytes()):
        faults = '; '.join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise ValueError(f'TensorRT cannot read {onnx_file}: {faults}')
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # its 10 mantissa bits would move boxes by more than the bound
    if half:
        config.set_flag(trt.BuilderFlag.FP16)
    if dynamic:
        shapes = ((1, 3, stride, stride), (1, 3, *size_hw), (MAX_BATCH, 3, *(2 * side for side in size_hw)))
        profile = builder.create_optimization_profile()
        profile.set_shape(network.get_input(0).name, *shapes)
        config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ValueError(f'TensorRT could not build an engine from {onnx_file}; see its messages above')
    Path(file).write_bytes(bytes(engine))
    Path(f'{file}.json').write_text(json.dumps(metadata, indent=1), encoding='utf-8')


def open_engine(file: str | Path) -> tuple[Callable[[np.ndarray], dict[str, np.ndarray]], dict[str, str]]:
    """Return a function that runs an engine on the GPU, and the metadata of the engine.

    Raises:
        ValueError: If tensorrt is not installed or is not the version that built the engine.
    """
    trt = need('tensorrt', INSTALL)
    engine = trt.Runtime(trt.Logger(trt.Logger.WARNING)).deserialize_cuda_engine(Path(file).read_bytes())
    if engine is None:
        raise ValueError(f'this TensorRT ({trt.__version__}) cannot load {file}: export it again on this machine')
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

    return run, Path(f'{file}.json').read_text(encoding='utf-8')
