"""CARAFE, convolution at some pixels, and the sigmoid focal loss.

CARAFE (Wang et al., arXiv 1905.02188) upsamples with a kernel predicted for every output pixel. The convolution, whose
two halves are here, is that of guided anchoring. FL = -a (1 - p_t)^g log(p_t) (Lin et al., arXiv 1708.02002).

Letters: N images or samples, C channels or classes, G groups of channels, K taps of a kernel, P pixels, s scale.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmyolo_ext.ops.sampling import fill_gradients


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Fill ``output`` (N, C, s*H, s*W).

    Args:
        features: (N, C, H, W).
        masks: (N, G*K, s*H, s*W), the kernel of every output pixel, group by group, row by row.
        rfeatures, routput, rmasks: buffers of the compiled op. Its backward pass gets back ``rfeatures`` alone, so
            the features are left there, (N, C, H, W).
    """
    rfeatures.copy_(features)
    output.copy_(_reassemble(features, masks, kernel_size, group_size, scale_factor))


def carafe_backward(
    grad_output: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rgrad_output: Tensor,
    rgrad_input_hs: Tensor,
    rgrad_input: Tensor,
    rgrad_masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Fill the gradients of features and masks."""

    def reassemble(features: Tensor, masks: Tensor) -> Tensor:
        return _reassemble(features, masks, kernel_size, group_size, scale_factor)

    fill_gradients(reassemble, (rfeatures, masks), grad_output, (grad_input, grad_masks))


def _reassemble(features: Tensor, masks: Tensor, kernel_size: int, groups: int, scale: int) -> Tensor:
    count, channels, height, width = features.shape
    taps = kernel_size**2
    # (N, C*K, H*W) -> (N, G, C/G, K, H, W): the neighbours of every input pixel, 0 outside the map
    neighbours = F.unfold(features, kernel_size, padding=kernel_size // 2)
    neighbours = neighbours.view(count, groups, channels // groups, taps, height, width)
    # (N, G*K, s*H, s*W) -> (N, G, K, H, s, W, s): output pixel (s*h + i, s*w + j) belongs to input pixel (h, w)
    kernels = masks.reshape(count, groups, taps, height, scale, width, scale)
    output = torch.einsum('ngckhw,ngkhiwj->ngchiwj', neighbours, kernels)
    return output.reshape(count, channels, height * scale, width * scale)


def masked_im2col_forward(
    features: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    data_col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Fill ``data_col`` (C*K, P) with the values under the kernel at each pixel of (1, C, H, W), 0 outside the map."""
    padded = F.pad(features[0], (pad_w, pad_w, pad_h, pad_h))
    windows = padded.unfold(1, kernel_h, 1).unfold(2, kernel_w, 1)
    # (C, P, kernel_h, kernel_w) -> (C*K, P)
    data_col.copy_(windows[:, mask_h_idx, mask_w_idx].permute(0, 2, 3, 1).reshape(data_col.shape))


def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, height: int, width: int, channels: int
) -> None:
    """Write the columns of (C, P) to their pixels of (1, C, height, width)."""
    im[0][:, mask_h_idx, mask_w_idx] = col


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
    output.copy_(_choose(of_positive, of_negative, target, weight))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fill ``grad_input`` (N, C) with the derivative of the forward pass; arguments as there."""
    p, q, log_p, log_q = _both_sides(input)
    of_positive = -alpha * q**gamma * (q - gamma * p * log_p)
    of_negative = -(1 - alpha) * p**gamma * (gamma * q * log_q - p)
    grad_input.copy_(_choose(of_positive, of_negative, target, weight))


def _both_sides(logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """p, 1 - p and their logarithms, each from the logits, because 1 - p loses all digits where p is close to 1."""
    return logits.sigmoid(), (-logits).sigmoid(), F.logsigmoid(logits), F.logsigmoid(-logits)


def _choose(of_positive: Tensor, of_negative: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return the positive value (N, C) at the target's class and the negative one elsewhere, times the weight."""
    classes = torch.arange(of_positive.size(1), device=target.device)
    chosen = torch.where(target[:, None] == classes, of_positive, of_negative)
    return chosen * weight[target][:, None] if weight.numel() else chosen
