"""A graph as a TorchScript file, for C++ and for Python without mmdet."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mmyolo_ext.export.graph import RAW_OUTPUTS, RawGraph, example_input

METADATA = 'mmyolo_ext.json'  # name inside the file


def export_torchscript(graph: RawGraph, file: str | Path, metadata: dict[str, str], size_hw: tuple[int, int]) -> None:
    """Write the traced graph; it is open to other sizes and batches as it is.

    The metadata lies in the file as ``mmyolo_ext.json``, an object of the same keys, whose values are JSON in strings.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore', DeprecationWarning)
        warnings.simplefilter('ignore', torch.jit.TracerWarning)
        traced = torch.jit.trace(graph, example_input(size_hw))
        torch.jit.save(traced, str(file), _extra_files={METADATA: json.dumps(metadata)})


def open_torchscript(file: str | Path) -> tuple[Callable[[np.ndarray], dict[str, np.ndarray]], dict[str, str]]:
    """What runs such a file, and its metadata."""
    extra = {METADATA: ''}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)
        network = torch.jit.load(str(file), _extra_files=extra)

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        with torch.no_grad():
            outputs = network(torch.from_numpy(images))
        return dict(zip(RAW_OUTPUTS, (output.numpy() for output in outputs), strict=True))

    return run, json.loads(extra[METADATA])
