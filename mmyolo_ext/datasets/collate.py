"""From samples to a batch."""

from collections.abc import Sequence

from mmengine.dataset import pseudo_collate
from torch.utils.data import default_collate

from mmyolo_ext.registry import FUNCTIONS


@FUNCTIONS.register_module()
def stack_inputs(samples: Sequence[dict]) -> dict:
    """``inputs`` as one tensor (N, C, H, W) where all are of one size, everything else as MMEngine's pseudo_collate.

    One tensor crosses to the main process and to the device in one copy, still uint8; ``DetDataPreprocessor`` takes it
    as it takes a list. A loader's worker stacks straight into the memory that it shares.
    """
    batch = pseudo_collate(samples)
    if len({inputs.shape for inputs in batch['inputs']}) == 1:
        batch['inputs'] = default_collate(batch['inputs'])
    return batch
