"""Sigmoid focal loss (Lin et al., arXiv 1708.02002), FL = -a (1 - p_t)^g log(p_t), and its gradient in the logits.

Letters: N samples, C classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Fill ``output`` (N, C) with the loss of every sample and class.

    Args:
        input: logits, (N, C).
        target: class index, (N,); any other number, such as C, is background.
        weight: per class of the target (C,), or empty for none; background then needs an entry as well.
    """
    p, q, log_p, log_q = _both_sides(input)
    of_positive = -alpha * q**gamma * log_p
    of_negative = -(1 - alpha) * p**gamma * log_q
    output.copy_(torch.where(_one_hot(target, input), of_positive, of_negative) * _weights(weight, target)[:, None])


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fill ``grad_input`` (N, C) with the derivative of the forward pass; arguments as there."""
    p, q, log_p, log_q = _both_sides(input)
    of_positive = -alpha * q**gamma * (q - gamma * p * log_p)
    of_negative = -(1 - alpha) * p**gamma * (gamma * q * log_q - p)
    grad_input.copy_(
        torch.where(_one_hot(target, input), of_positive, of_negative) * _weights(weight, target)[:, None]
    )


def _both_sides(logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """p, 1 - p and their logarithms, each from the logits, because 1 - p loses all digits where p is close to 1."""
    return logits.sigmoid(), (-logits).sigmoid(), F.logsigmoid(logits), F.logsigmoid(-logits)


def _one_hot(target: Tensor, input: Tensor) -> Tensor:
    return target[:, None] == torch.arange(input.size(1), device=input.device)


def _weights(weight: Tensor, target: Tensor) -> Tensor:
    return weight[target] if weight.numel() else weight.new_ones(len(target))
