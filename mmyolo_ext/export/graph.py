"""The detector as one graph: from images to all boxes and scores.

Letters: N images, H and W the sides of the input, M predictions per image (anchors x cells), L of them, C classes.

The input is that of the network: float32 (N, 3, H, W), normalised. Normalisation stays outside, its numbers are in the
metadata: runtimes and quantisers expect that of a YOLO, a calibration then sees the range of the network's input, and
float16 would lose bits of 0..255.
"""

from collections.abc import Sequence
from copy import deepcopy

import torch
from mmcv.cnn import fuse_conv_bn
from mmengine.model.utils import revert_sync_batchnorm
from torch import Tensor, nn

from mmyolo_ext.export import dense_heads

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
        self._check(detector)
        self.detector = detector.eval()

    def _check(self, detector: nn.Module) -> None:
        head = getattr(detector, 'bbox_head', None)
        if not hasattr(head, 'decode') or not hasattr(detector, 'extract_feat'):
            raise ValueError(
                f'a detector to export must have one stage and a head of mmyolo_ext (YOLOv5Head, YOLOv3Head) or a '
                f'dense head of mmdet ({", ".join(dense_heads.TESTED)}), got {type(detector).__name__} with '
                f'{type(head).__name__}'
            )

    @property
    def head(self) -> nn.Module:
        """Return the head of the detector."""
        return self.detector.bbox_head

    @property
    def strides(self) -> list[int]:
        """Return the strides by which the sides of the input must be divisible."""
        return list(self.head.strides)

    @property
    def activation(self) -> str:
        """Return how class scores are computed, sigmoid or softmax."""
        return 'sigmoid' if self.head.use_sigmoid else 'softmax'

    def rule(self) -> dict:
        """Return the postprocessing, ``test_cfg`` by the keys of the metadata.

        Raises:
            ValueError: If its NMS is not plain NMS, which is all that the runtime supports.
        """
        cfg = self.head.test_cfg
        return {
            'multi_label': self.head.takes_several_labels(cfg),
            'score_thr': cfg['score_thr'],
            'nms_pre': cfg['nms_pre'],
            **_nms_of(cfg),
            'max_per_img': cfg['max_per_img'],
        }

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
        return self.detector.extract_feat(images.to(next(self.detector.parameters()).dtype))


class DenseHeadGraph(RawGraph):
    """The graph of a detector with a dense head of mmdet; inputs and outputs as :class:`RawGraph`.

    What the head drops before NMS by its ``test_cfg`` has the score 0: classes with a score, before its centerness,
    of at most ``score_thr``, those beyond the best ``nms_pre`` of a level, and boxes of at most ``min_bbox_size``.
    """

    def _check(self, detector: nn.Module) -> None:
        if not dense_heads.is_dense_head(getattr(detector, 'bbox_head', None)):
            super()._check(detector)

    @property
    def strides(self) -> list[int]:
        """Return the strides of the levels up to that to which mmdet pads images; higher levels take any size."""
        strides = [max(stride) if isinstance(stride, Sequence) else stride for stride in self._level_strides()]
        most = getattr(self.detector.data_preprocessor, 'pad_size_divisor', 1)
        return [stride for stride in strides if stride <= max(most, 32)]

    def _level_strides(self) -> Sequence:
        return self.head.prior_generator.strides

    @property
    def activation(self) -> str:
        """Return how class scores are computed, sigmoid or softmax."""
        return 'sigmoid' if getattr(self.head, 'use_sigmoid_cls', True) else 'softmax'

    def rule(self) -> dict:
        """Return the postprocessing that is left to do; see :class:`RawGraph`."""
        cfg = self.head.test_cfg
        return {
            'multi_label': not dense_heads.takes_best_class_only(self.head),
            'score_thr': 0.0,
            'nms_pre': -1,
            **_nms_of(cfg),
            'max_per_img': cfg.get('max_per_img', dense_heads.MOST),
        }

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes and scores; see the class."""
        boxes, scores, by_level = self._decode(images)
        kept = torch.cat([_likely_classes(level, *self._limits()) for level in by_level], dim=1) > 0
        kept = kept & (self._smaller_side(boxes) > self._least_side())[..., None]
        return boxes, torch.where(kept, scores, torch.zeros_like(scores))

    def likely(self, images: Tensor, score_thr: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return the L predictions with a score above ``score_thr``; see :class:`RawGraph`."""
        boxes, scores = self(images)
        image, place = torch.nonzero(scores.amax(dim=2) > score_thr).unbind(dim=1)
        return image, boxes[image, place], scores[image, place]

    def undecided(self, images: Tensor, boxes_px: float, score: float) -> Tensor:
        """Return where (N, M, C) rounding by ``boxes_px`` and ``score`` may decide whether a score is 0."""
        boxes, _, by_level = self._decode(images)
        score_thr, nms_pre = self._limits()
        close = []
        for level in by_level:
            kept = _likely_classes(level, score_thr, nms_pre)
            least = torch.where(kept > 0, kept, torch.full_like(kept, torch.inf)).flatten(1).amin(dim=1)
            close.append(((level - score_thr).abs() <= score) | ((level - least[:, None, None]).abs() <= score))
        apart = (self._smaller_side(boxes) - self._least_side()).abs() <= boxes_px
        return torch.cat(close, dim=1) | apart[..., None]

    def _decode(self, images: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        return dense_heads.decode(self.head, self._feats(images), images.shape[-2:])

    def _limits(self) -> tuple[float, int]:
        return self.head.test_cfg.get('score_thr', 0.0), self.head.test_cfg.get('nms_pre', -1)

    def _least_side(self) -> float:
        least = self.head.test_cfg.get('min_bbox_size', -1)
        return least if least >= 0 and not dense_heads.takes_best_class_only(self.head) else -torch.inf

    def _smaller_side(self, boxes: Tensor) -> Tensor:
        return (boxes[..., 2:] - boxes[..., :2]).amin(dim=-1)


def _likely_classes(scores: Tensor, score_thr: float, nms_pre: int) -> Tensor:
    """Set scores (N, M, C) of at most ``score_thr``, and all but the ``nms_pre`` highest of each image, to 0."""
    return best_candidates(torch.where(scores > score_thr, scores, torch.zeros_like(scores)), score_thr, nms_pre)


def best_candidates(scores: Tensor, score_thr: float, nms_pre: int) -> Tensor:
    """Set all but the ``nms_pre`` highest scores of each image to 0; scores are (N, P, C). 0 or less keeps all."""
    if nms_pre < 1:
        return scores
    too_many = (scores > score_thr).flatten(1).long().sum(dim=1) > nms_pre  # (N,)
    # sort only if an image has too many
    count = torch.where(too_many.any(), nms_pre, 1)
    least = scores.flatten(1).topk(count, dim=1).values[:, -1]
    kept = (scores >= least[:, None, None]) | ~too_many[:, None, None]
    return torch.where(kept, scores, torch.zeros_like(scores))


def _nms_of(cfg: dict) -> dict:
    kind = dict(cfg['nms'])
    if kind.get('type', 'nms') != 'nms':
        raise ValueError(
            "an export supports plain NMS only: test_cfg.nms must be dict(type='nms', iou_threshold=X), "
            f'optionally with class_agnostic=True, got {kind}; change it by --cfg-options'
        )
    return {'nms_iou': kind['iou_threshold'], 'class_agnostic': bool(kind.get('class_agnostic', False))}


def raw_graph(detector: nn.Module) -> RawGraph:
    """Return the graph of a detector, which is not copied.

    Raises:
        ValueError: See :class:`RawGraph`.
    """
    head = getattr(detector, 'bbox_head', None)
    kind = DenseHeadGraph if dense_heads.is_dense_head(head) and not hasattr(head, 'decode') else RawGraph
    return kind(detector)


def build_graph(detector: nn.Module, *, fused: bool = False, half: bool = False) -> RawGraph:
    """Return the graph of a copy of the detector, on the CPU, without gradients.

    Args:
        detector: See :class:`RawGraph`.
        fused: Fold each batch norm into the convolution before it, which changes outputs by rounding only.
        half: Use float16 for weights and network; input, decoding and outputs stay float32.

    Raises:
        ValueError: See :class:`RawGraph`.
    """
    raw_graph(detector)  # check before the copy, which may be large
    copied = revert_sync_batchnorm(deepcopy(detector)).cpu().requires_grad_(False)
    if fused:
        copied = fuse_conv_bn(copied.eval())
    if half:
        anchors_wh = getattr(copied.bbox_head, 'anchors_wh', None)
        copied.half()
        if anchors_wh is not None:
            copied.bbox_head.anchors_wh = anchors_wh  # float16 would round fitted sizes
    return raw_graph(copied)
