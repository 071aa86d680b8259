"""Fit a picture into the network's input and pad the rest."""

from collections.abc import Sequence

import numpy as np
from mmcv.transforms import BaseTransform

from mmyolo_ext.registry import TRANSFORMS

from .annotations import check_image, read_annotations, replace_image
from .arguments import check_range, check_size_hw
from .functional import INTERPOLATIONS, letterbox_boxes, letterbox_image, plan_letterbox, rectangle

EXTRA = 0.5  # of a stride of margin, as RectBatchDataset has by default


@TRANSFORMS.register_module()
class Letterbox(BaseTransform):
    """Resize a picture, ratio kept, to fit ``size_hw`` and pad it to the canvas.

    The canvas is ``results['batch_shape_hw']`` where :class:`RectBatchDataset` has put it, else ``size_hw``; with a
    ``stride`` the picture's own rectangle, as the views of test-time augmentation need it, each of another size.
    Padding goes right and below unless ``centred``; then every mmdet head undoes it by ``scale_factor`` alone, while
    centred padding needs a head that subtracts ``pad_param`` first, as ours does. A point of the original picture lies
    at ``x * scale_factor + (left, top)``, in edge coordinates.

    Writes ``img``, ``img_shape`` (h, w), ``scale_factor`` (w, h; times the one of an earlier resize), ``keep_ratio``,
    ``pad_param`` (top, bottom, left, right) px, and the boxes, clipped to the picture. No box is dropped.

    Args:
        size_hw: (height, width) the picture must fit into, or one side of a square.
        pad_val: Grey level of the padding.
        centred: Share the padding between both sides; the odd pixel goes right or below.
        allow_upscale: Enlarge pictures that are smaller than the size.
        interpolation: 'bilinear' (what training sees), 'area' or 'nearest'.
        stride: Pad to the least rectangle of whole strides that :class:`RectBatchDataset` would choose for a batch of
            this picture alone, whatever the size of its batch.

    Raises:
        ValueError: On an argument out of its range, or a picture that has been letterboxed before.
    """

    def __init__(
        self,
        size_hw: int | Sequence[int],
        pad_val: int = 114,
        centred: bool = False,
        allow_upscale: bool = True,
        interpolation: str = 'bilinear',
        stride: int | None = None,
    ) -> None:
        self.size_hw = check_size_hw('size_hw', size_hw)
        self.pad_val = check_range('pad_val', pad_val, 0, 255)
        self.centred = centred
        self.allow_upscale = allow_upscale
        if interpolation not in INTERPOLATIONS:
            raise ValueError(f'interpolation must be one of {tuple(INTERPOLATIONS)}, got {interpolation!r}')
        self.interpolation = interpolation
        if stride is not None and (not isinstance(stride, int) or stride < 1):
            raise ValueError(f'stride must be None or a whole number from 1 on, got {stride!r}')
        self.stride = stride

    def transform(self, results: dict) -> dict:
        if 'pad_param' in results:
            raise ValueError('Letterbox stands twice in the pipeline: only one padding can be undone, keep one')
        image = check_image(results, 'Letterbox')
        plan = plan_letterbox(
            image.shape[:2],
            self.size_hw,
            self._canvas_hw(results),
            centred=self.centred,
            allow_upscale=self.allow_upscale,
        )
        annotations = read_annotations(results)
        padded = letterbox_image(image, plan, self.pad_val, self.interpolation)
        results = replace_image(results, padded, annotations.moved(letterbox_boxes(annotations.boxes_xyxy, plan)))
        earlier_wh = results.get('scale_factor', (1.0, 1.0))
        results['scale_factor'] = tuple(float(s) for s in np.multiply(earlier_wh, plan.scale_wh))
        results['keep_ratio'] = True
        results['pad_param'] = plan.pad_tblr
        return results

    def _canvas_hw(self, results: dict) -> tuple[int, int]:
        if self.stride is None:
            return results.get('batch_shape_hw', self.size_hw)
        sides_hw = np.array([results['img'].shape[:2]], np.float64)
        return rectangle(sides_hw, self.size_hw, self.stride, EXTRA, self.allow_upscale)

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(size_hw={self.size_hw}, pad_val={self.pad_val}, centred={self.centred}, '
            f'allow_upscale={self.allow_upscale}, interpolation={self.interpolation!r}, stride={self.stride})'
        )
