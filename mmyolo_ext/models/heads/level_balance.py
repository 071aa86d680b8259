"""How much the objectness of each level counts."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmyolo_ext.models.over_ranks import mean_over_ranks

# shallow to deep; the three-level weights also serve two levels and one, counted from the deepest
THREE_LEVELS = (4.0, 1.0, 0.4)
MANY_LEVELS = (4.0, 1.0, 0.25, 0.06, 0.02)
REFERENCE_STRIDE = 16
ADAPTATION_RATE = 1e-4
LEAST_LOSS = 1e-9


class LevelBalance(nn.Module):
    """Weighted sum of the levels' losses, the weights fixed or drawn towards equal shares.

    With ``auto_balance`` each call in training moves weight_l to 0.9999 weight_l + 0.0001 / loss_l, then divides all
    by that of stride 16; loss_l is that of the batches of all ranks, before any gain. The weights are then part of the
    state dict, so that a resumed run continues with them.

    Args:
        weights: one per level, or ``'auto'``: 4, 1, 0.4 for up to three levels, 4, 1, 0.25, 0.06, 0.02 for more.
        strides: of the levels.
        auto_balance: adapt the weights.

    Raises:
        ValueError: the number of weights is not that of the levels, ``'auto'`` for more than five levels, or
            ``auto_balance`` without a level of stride 16.
    """

    def __init__(self, weights: Sequence[float] | str, strides: Sequence[int], auto_balance: bool = False) -> None:
        super().__init__()
        if weights == 'auto':
            weights = _auto_weights(len(strides))
        if isinstance(weights, str) or len(weights) != len(strides):
            raise ValueError(
                f"obj_level_weights must be 'auto' or one number for each of the {len(strides)} levels "
                f'(strides {tuple(strides)}), got {weights!r}'
            )
        if auto_balance and REFERENCE_STRIDE not in strides:
            raise ValueError(
                f'auto_balance measures the levels against that of stride {REFERENCE_STRIDE}; the strides are '
                f'{tuple(strides)}. Give obj_level_weights and leave auto_balance off.'
            )
        self.auto_balance = auto_balance
        self.reference = list(strides).index(REFERENCE_STRIDE) if auto_balance else None
        self.register_buffer('weights', torch.tensor(weights, dtype=torch.float32), persistent=auto_balance)

    def forward(self, level_losses: Tensor, gain: float = 1.0) -> Tensor:
        """Losses of the levels (L,), multiplied by ``gain`` -> their weighted sum."""
        # a copy, since the backward pass needs the weights of this call
        total = (self.weights.clone() * level_losses).sum()
        if self.auto_balance and self.training and gain:
            self._adapt_(mean_over_ranks(level_losses.detach()) / gain)
        return total

    def _adapt_(self, level_losses: Tensor) -> None:
        adapted = (1 - ADAPTATION_RATE) * self.weights + ADAPTATION_RATE / level_losses.clamp(min=LEAST_LOSS)
        self.weights.copy_(adapted / adapted[self.reference])


def _auto_weights(num_levels: int) -> tuple[float, ...]:
    if num_levels <= len(THREE_LEVELS):
        return THREE_LEVELS[-num_levels:]
    if num_levels > len(MANY_LEVELS):
        raise ValueError(
            f"obj_level_weights='auto' knows up to {len(MANY_LEVELS)} levels, got {num_levels}: give the weights"
        )
    return MANY_LEVELS[:num_levels]
