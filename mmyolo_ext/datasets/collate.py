"""From samples to a batch."""

import io
import pickle
from collections.abc import Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from torch import Tensor
from torch.utils.data import default_collate, get_worker_info

from mmyolo_ext.registry import FUNCTIONS

from .batch_memory import whole_batch
from .shared_blocks import Message, as_message, received

SMALL = 1 << 16  # bytes


@FUNCTIONS.register_module()
def stack_inputs(samples: Sequence[dict]) -> dict:
    """``inputs`` as one tensor (N, C, H, W) where all are of one size, everything else as MMEngine's pseudo_collate.

    One tensor crosses to the main process and to the device in one copy, still uint8; ``DataPreprocessor`` takes it
    as it takes a list. Pictures that :class:`PackInputs` wrote into their batch are not copied at all. From a worker,
    all the rest crosses as bytes of one message.
    """
    batch = pseudo_collate(samples)
    inputs = batch['inputs']
    if len({(one.shape, one.dtype) for one in inputs}) == 1:
        whole = whole_batch(inputs)
        batch['inputs'] = default_collate(inputs) if whole is None else whole
        return batch if get_worker_info() is None else WorkerBatch(batch)
    return batch


class WorkerBatch(dict):
    """A batch on its way from a worker to the main process: unpickled, it is a plain dict.

    PyTorch sends each tensor as a file of shared memory, with a message of its own to ask for it: 64 of them for the
    boxes and labels of 16 pictures, some bytes each. Here small tensors are copied into the message of the batch.
    """

    def __reduce__(self) -> tuple:
        batch = dict(self)
        if isinstance(batch.get('inputs'), Tensor):
            batch['inputs'] = as_message(batch['inputs'])
        file = io.BytesIO()
        _Pickler(file).dump(batch)
        return _arrived, (file.getvalue(),)


def _arrived(message: bytes) -> dict:
    batch = pickle.loads(message)
    if isinstance(batch.get('inputs'), Message):
        batch['inputs'] = received(batch['inputs'])
    return batch


class _Pickler(ForkingPickler):
    """PyTorch's way for what is large, or in shared memory already; its bytes for what is small."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is not Tensor or obj.layout is not torch.strided or obj.nbytes > SMALL or obj.is_shared():
            return NotImplemented
        try:
            return torch.from_numpy, (obj.numpy(),)
        except (TypeError, RuntimeError):  # NumPy has no bfloat16, no gradients, no other devices
            return NotImplemented
