"""The detector as one graph: from images to all boxes and scores.

Letters: N images, H and W the sides of the input, M predictions per image (anchors x cells), L of them, C classes.

The input is that of the network: float32 (N, 3, H, W), normalised. Normalisation stays outside, its numbers are in the
metadata: runtimes and quantisers expect that of a YOLO, a calibration then sees the range of the network's input, and
float16 would lose bits of 0..255.
"""

from collections.abc import Sequence
from copy import deepcopy

from mmcv.cnn import fuse_conv_bn
from mmengine.model.utils import revert_sync_batchnorm
from torch import Tensor, nn

RAW_OUTPUTS = ('boxes', 'scores')


class RawGraph(nn.Module):
    """``images`` (N, 3, H, W) float32 -> ``boxes`` (N, M, 4) and ``scores`` (N, M, C), both float32.

    Boxes are xyxy in px of the network input, not clipped. A score is objectness times class, by sigmoid or softmax as
    the head was trained. Predictions are in the order level, anchor, row, column.

    Args:
        detector: A built single-stage detector with a head of this package; it is set to eval mode.

    Raises:
        ValueError: If the detector or its head is of another kind.
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
        """Return the head of the detector."""
        return self.detector.bbox_head

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes and scores; see the class."""
        predictions = self.head.decode(*self.head(self._feats(images)))
        return predictions.boxes_xyxy, predictions.objectness[..., None] * predictions.class_scores

    def likely(self, images: Tensor, score_thr: float) -> tuple[Tensor, Tensor, Tensor]:
        """Decode only the L predictions with an objectness above ``score_thr``.

        Returns:
            Image index (L,), boxes (L, 4) and scores (L, C).
        """
        return self.head.decode_likely(*self.head(self._feats(images)), score_thr)

    def _feats(self, images: Tensor) -> Sequence[Tensor]:
        return self.detector.extract_feat(images.to(self.head.convs_pred[0].weight.dtype))


def build_graph(detector: nn.Module, *, fused: bool = False, half: bool = False) -> RawGraph:
    """Return the graph of a copy of the detector, on the CPU, without gradients.

    Args:
        detector: See :class:`RawGraph`.
        fused: Fold each batch norm into the convolution before it, which changes outputs by rounding only.
        half: Use float16 for weights and network; input, decoding and outputs stay float32.

    Raises:
        ValueError: See :class:`RawGraph`.
    """
    RawGraph(detector)  # check before the copy, which may be large
    copied = revert_sync_batchnorm(deepcopy(detector)).cpu().requires_grad_(False)
    if fused:
        copied = fuse_conv_bn(copied.eval())
    if half:
        anchors_wh = copied.bbox_head.anchors_wh
        copied.half()
        copied.bbox_head.anchors_wh = anchors_wh  # float16 would round fitted sizes
    return RawGraph(copied)
