"""Load pretrained weights into a backbone."""

from collections.abc import Callable

from mmengine.runner.checkpoint import CheckpointLoader, load_state_dict
from torch import Tensor, nn


def load_pretrained(
    backbone: nn.Module, init_cfg: dict, translate: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> None:
    """Load the file that ``init_cfg`` names, by the names that ``translate`` gives its weights."""
    checkpoint = CheckpointLoader.load_checkpoint(init_cfg['checkpoint'], init_cfg.get('map_location', 'cpu'))
    load_state_dict(backbone, translate(checkpoint.get('state_dict', checkpoint)))
