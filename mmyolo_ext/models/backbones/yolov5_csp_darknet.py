"""YOLOv5's backbone, as in releases 6 and 7 and as in release 5.

CSPNet (arXiv 1911.11929) on Darknet bottlenecks, with spatial pyramid pooling (arXiv 1406.4729) in the last stage.
"""

from collections.abc import Iterator
from typing import Any

from mmcv.cnn import ConvModule
from mmdet.models.backbones.csp_darknet import SPPBottleneck
from mmdet.models.layers import CSPLayer
from torch import nn

from mmyolo_ext.checkpoint.mmengine_loader import yolov5_in_our_names
from mmyolo_ext.models.backbones.staged_backbone import StagedBackbone
from mmyolo_ext.models.layers import ACT_CFG, NORM_CFG, SPPF, FocusStem, scaled_depth, scaled_width
from mmyolo_ext.registry import MODELS

# widths of the stem and of the stages after it
WIDTHS = {'P5': (64, 128, 256, 512, 1024), 'P6': (64, 128, 256, 512, 768, 1024)}
# bottlenecks of the stages; release 5 has 9 instead of 6
DEPTHS = {'P5': (3, 6, 9, 3), 'P6': (3, 6, 9, 3, 3)}
# sizes of release 5's pools: P6 has half the cells in its last stage
POOLS = {'P5': (5, 9, 13), 'P6': (3, 5, 7)}
VERSIONS = ('v5', 'v6')
FIRST_OUTPUT_STAGE = 2  # stride 8


@MODELS.register_module()
class YOLOv5CSPDarknet(StagedBackbone):
    """Stem and four (P5) or five (P6) stages, each a 3x3/2 convolution and a CSP block.

    Output 0 is the stem, output i the stage of stride ``2 ** (i + 1)``.

    Args:
        arch: ``'P5'`` (strides to 32) or ``'P6'`` (to 64).
        version: ``'v6'`` (releases 6 and 7): 6x6/2 stem, depths 3, 6, 9, 3, SPPF at the end. ``'v5'`` (release 5):
            Focus stem, depths 3, 9, 9, 3, SPP (5, 9, 13; for P6 3, 5, 7) before the last CSP block, which has no
            shortcut.
        deepen_factor: Scales the number of bottlenecks of every block.
        widen_factor: Scales the channels of every layer.
        in_channels: Channels of the image.
        out_indices: See :class:`StagedBackbone`; by default all outputs from stride 8 on.
        norm_cfg: Normalization layers; batch norm with YOLOv5's values by default.
        act_cfg: Activations; SiLU by default.
        **kwargs: ``frozen_stages``, ``norm_eval``, ``with_cp`` and ``init_cfg`` of :class:`StagedBackbone`, which
            loads the backbone of detectors of Ultralytics and MMYOLO, too.

    Raises:
        ValueError: If ``arch`` or ``version`` is unknown, or an index is out of range.
    """

    def __init__(
        self,
        arch: str = 'P5',
        version: str = 'v6',
        deepen_factor: float = 1.0,
        widen_factor: float = 1.0,
        in_channels: int = 3,
        out_indices: tuple[int, ...] | None = None,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        **kwargs: Any,
    ) -> None:
        for name, value, allowed in (('arch', arch, tuple(WIDTHS)), ('version', version, VERSIONS)):
            if value not in allowed:
                raise ValueError(f'{name} must be one of {allowed}, got {value!r}')
        release5 = version == 'v5'
        widths = [scaled_width(width, widen_factor) for width in WIDTHS[arch]]
        depths = [scaled_depth(9 if release5 and depth == 6 else depth, deepen_factor) for depth in DEPTHS[arch]]
        block = {'norm_cfg': norm_cfg or NORM_CFG, 'act_cfg': act_cfg or ACT_CFG}

        def layers() -> Iterator[nn.Module]:
            if release5:
                yield FocusStem(in_channels, widths[0], kernel_size=3, **block)
            else:
                yield ConvModule(in_channels, widths[0], 6, stride=2, padding=2, **block)
            for i, depth in enumerate(depths):
                before, width, last = widths[i], widths[i + 1], i == len(depths) - 1
                # built in this order, which decides the random numbers of their initialization
                csp = CSPLayer(width, width, num_blocks=depth, add_identity=not (release5 and last), **block)
                down = ConvModule(before, width, 3, stride=2, padding=1, **block)
                if not last:
                    yield nn.Sequential(down, csp)
                elif release5:
                    yield nn.Sequential(down, SPPBottleneck(width, width, POOLS[arch], **block), csp)
                else:
                    yield nn.Sequential(down, csp, SPPF(width, width, **block))

        strides = [2 ** (i + 1) for i in range(len(widths))]
        out_indices = range(FIRST_OUTPUT_STAGE, len(widths)) if out_indices is None else out_indices
        super().__init__(layers(), widths, strides, out_indices, **kwargs)

    def unpack(self, content: Any, source: str) -> Any:
        """Return the state dict of a detector of Ultralytics or MMYOLO in our names; other content unchanged."""
        return yolov5_in_our_names(content, source)
