"""From samples to a batch."""

from collections.abc import Sequence

from mmengine.dataset import pseudo_collate
from torch.utils.data import default_collate

from mmyolo_ext.registry import FUNCTIONS

from .batch_memory import whole_batch


@FUNCTIONS.register_module()
def stack_inputs(samples: Sequence[dict]) -> dict:
    """``inputs`` as one tensor (N, C, H, W) where all are of one size, everything else as MMEngine's pseudo_collate.

    One tensor crosses to the main process and to the device in one copy, still uint8; ``DetDataPreprocessor`` takes it
    as it takes a list. Pictures that :class:`PackInputs` wrote into their batch are not copied at all.
    """
    batch = pseudo_collate(samples)
    inputs = batch['inputs']
    if len({(one.shape, one.dtype) for one in inputs}) == 1:
        whole = whole_batch(inputs)
        batch['inputs'] = default_collate(inputs) if whole is None else whole
    return batch
