"""Batch norms folded into the convolutions before them."""

from mmcv.cnn import fuse_conv_bn
from torch import nn


def fuse(model: nn.Module) -> nn.Module:
    """``model``, changed in place: mmcv's folding of each convolution with the batch norm that follows it.

    In eval mode both are affine, so the outputs stay, up to rounding: w' = w * g / sqrt(var + eps),
    b' = beta + (b - mean) * g / sqrt(var + eps).
    """
    return fuse_conv_bn(model.eval())
