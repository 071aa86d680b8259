"""The names other libraries give to the weights."""

from torch import Tensor, nn


def translate(state_dict: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """Weights as another library names them -> by the names of ``backbone``."""
    return state_dict
