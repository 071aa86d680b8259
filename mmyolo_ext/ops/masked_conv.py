"""The two halves of a convolution computed at some pixels only, for guided anchoring.

Letters: C channels, P pixels asked for, K taps of the kernel.
"""

import torch.nn.functional as F
from torch import Tensor


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
