"""CARAFE (Wang et al., arXiv 1905.02188): upsampling with a kernel predicted for every output pixel.

Letters: N images, C channels, G groups of channels, K = kernel_size^2, s scale factor.
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
    fill_gradients(
        lambda features, masks: _reassemble(features, masks, kernel_size, group_size, scale_factor),
        (rfeatures, masks),
        grad_output,
        (grad_input, grad_masks),
    )


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
