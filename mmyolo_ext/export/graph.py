"""The detector as one graph: pictures in, boxes and scores of every place out.

Letters: N images, H and W the sides of the input, M places that predict a box, L of them, C classes.

The graph takes what the network takes: float32 (N, 3, H, W), normalised. Normalisation stays outside, its numbers in
the metadata, because that is what runtimes and quantisers of the field expect of a YOLO, because a calibration then
sees the network's own range, and because half precision would lose bits of 0..255 for nothing.
"""

from collections.abc import Sequence
from copy import deepcopy

import torch
from mmengine.model.utils import revert_sync_batchnorm
from torch import Tensor, nn

from mmyolo_ext.export.fuse import fuse

RAW_OUTPUTS = ('boxes', 'scores')


class RawGraph(nn.Module):
    """``images`` (N, 3, H, W) float32 -> ``boxes`` (N, M, 4) and ``scores`` (N, M, C), both float32.

    Boxes are xyxy in px of the network input, not clipped. A score is objectness times class, by sigmoid or softmax as
    the head has been trained. Places run level, prior, row, column.

    Args:
        detector: a built single-stage detector whose head has ``decode``, as ours have; it is neither changed nor
            copied.

    Raises:
        ValueError: a detector of another kind.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        head = getattr(detector, 'bbox_head', None)
        if not hasattr(head, 'decode') or not hasattr(detector, 'extract_feat'):
            raise ValueError(
                f'a detector to export must have one stage and a head of mmyolo_ext (YOLOv5Head, YOLOv3Head), got '
                f'{type(detector).__name__} with {type(head).__name__}; MMDeploy exports those of mmdet'
            )
        self.detector = detector.eval()

    @property
    def head(self) -> nn.Module:
        """The detector's head."""
        return self.detector.bbox_head

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        predictions = self.head.decode(*self.head(self._feats(images)))
        return predictions.boxes_xyxy, predictions.objectness[..., None] * predictions.class_scores

    def likely(self, images: Tensor, score_thr: float) -> tuple[Tensor, Tensor, Tensor]:
        """Of the same the L places whose objectness is above ``score_thr``; no other is decoded.

        Returns:
            Which image (L,) each is on, boxes (L, 4) and scores (L, C).
        """
        return self.head.decode_likely(self.head.maps_of(self._feats(images)), score_thr)

    def _feats(self, images: Tensor) -> Sequence[Tensor]:
        return self.detector.extract_feat(images.to(self.head.convs_pred[0].weight.dtype))


def build_graph(detector: nn.Module, *, fused: bool = False, half: bool = False) -> RawGraph:
    """The graph on a copy of the detector, on the CPU, without gradients.

    Args:
        detector: see :class:`RawGraph`.
        fused: fold batch norms into the convolutions before them.
        half: weights and network in float16; input, decoding and outputs stay float32.

    Raises:
        ValueError: see :class:`RawGraph`.
    """
    RawGraph(detector)  # before the copy, for a detector that cannot be exported may be large
    copied = revert_sync_batchnorm(deepcopy(detector)).cpu().requires_grad_(False)
    if fused:
        copied = fuse(copied)
    if half:
        priors_wh = copied.bbox_head.priors_wh
        copied.half()
        copied.bbox_head.priors_wh = priors_wh  # float16 would round learnt sizes, and nothing is gained by it
    return RawGraph(copied)


def check_size(size_hw: tuple[int, int], strides: tuple[int, ...]) -> tuple[int, int]:
    """``size_hw`` if the network can take it.

    Raises:
        ValueError: a side that is not a positive multiple of the largest stride.
    """
    stride = max(strides)
    if len(size_hw) != 2 or any(side < 1 or side % stride for side in size_hw):
        raise ValueError(
            f'height and width of the input must be multiples of {stride}, the largest stride, got {tuple(size_hw)}; '
            'choose others by --size HEIGHT WIDTH'
        )
    return tuple(size_hw)


def example_input(size_hw: tuple[int, int]) -> Tensor:
    """A picture of nothing (1, 3, H, W) to trace a graph with."""
    return torch.zeros(1, 3, *size_hw)
