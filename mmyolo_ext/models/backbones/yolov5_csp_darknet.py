"""YOLOv5's backbone, in the form of releases 6 and 7 and in that of release 5.

CSPNet (arXiv 1911.11929) on Darknet bottlenecks, with spatial pyramid pooling (arXiv 1406.4729) in the last stage.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from mmcv.cnn import ConvModule
from mmdet.models.backbones.csp_darknet import SPPBottleneck
from mmdet.models.layers import CSPLayer
from torch import nn

from mmyolo_ext.models.backbones.staged_backbone import StagedBackbone
from mmyolo_ext.models.layers import ACT_CFG, NORM_CFG, SPPF, FocusStem, scaled_depth, scaled_width
from mmyolo_ext.registry import FUNCTIONS, MODELS


class Release(NamedTuple):
    """What tells the networks of two releases apart."""

    focus_stem: bool
    depth_stride8: int
    pyramid_before_csp: bool
    last_shortcut: bool


RELEASES = {
    'v5': Release(focus_stem=True, depth_stride8=9, pyramid_before_csp=True, last_shortcut=False),
    'v6': Release(focus_stem=False, depth_stride8=6, pyramid_before_csp=False, last_shortcut=True),
}
# widths of the stem and of the stages after it
WIDTHS = {'P5': (64, 128, 256, 512, 1024), 'P6': (64, 128, 256, 512, 768, 1024)}
OTHER_DEPTHS = {'P5': (9, 3), 'P6': (9, 3, 3)}
# sizes of release 5's pools: those of P6 see about as many px as those of P5, in cells of twice the stride
POOLS = {'P5': (5, 9, 13), 'P6': (3, 5, 7)}
FIRST_OUTPUT_STAGE = 2  # stride 8


@MODELS.register_module()
class YOLOv5CSPDarknet(StagedBackbone):
    """Stem and four (P5) or five (P6) stages, each a 3x3/2 convolution and a CSP block.

    Args:
        arch: ``'P5'`` (strides to 32) or ``'P6'`` (to 64).
        version: ``'v6'``: 6x6/2 stem, depths 3, 6, 9, 3, SPPF at the end (releases 6 and 7). ``'v5'``: Focus stem,
            depths 3, 9, 9, 3, SPP (5, 9, 13; for P6 3, 5, 7) before the last CSP block, which has no shortcut
            (release 5).
        deepen_factor: scales the number of bottlenecks of every block.
        widen_factor: scales the channels of every layer.
        in_channels: channels of the picture.
        out_indices: which outputs to give, 0 the stem, i the stage of stride ``2 ** (i + 1)``; by default all from
            stride 8 on.
        frozen_stages: see :class:`StagedBackbone`.
        norm_cfg: normalization layers; release values by default.
        act_cfg: activations; SiLU by default.
        norm_eval: see there.
        with_cp: see there.
        init_cfg: see there; the pretrained file may also be a detector of Ultralytics or MMYOLO.

    Raises:
        ValueError: unknown ``arch`` or ``version``, an index out of range, a factor that is not positive.
    """

    def __init__(
        self,
        arch: str = 'P5',
        version: str = 'v6',
        deepen_factor: float = 1.0,
        widen_factor: float = 1.0,
        in_channels: int = 3,
        out_indices: tuple[int, ...] | None = None,
        frozen_stages: int = -1,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        _check_choice('arch', arch, WIDTHS)
        _check_choice('version', version, RELEASES)
        _check_positive('deepen_factor', deepen_factor)
        _check_positive('widen_factor', widen_factor)
        release = RELEASES[version]
        widths = [scaled_width(width, widen_factor) for width in WIDTHS[arch]]
        depths = [scaled_depth(n, deepen_factor) for n in (3, release.depth_stride8, *OTHER_DEPTHS[arch])]
        block = {'norm_cfg': norm_cfg or NORM_CFG, 'act_cfg': act_cfg or ACT_CFG}

        def layers() -> Iterator[nn.Module]:
            yield _stem(release, in_channels, widths[0], block)
            for i, depth in enumerate(depths):
                pools = POOLS[arch] if i == len(depths) - 1 else ()
                yield _stage(release, widths[i], widths[i + 1], depth, pools, block)

        super().__init__(
            layers(),
            widths,
            [2 ** (i + 1) for i in range(len(widths))],
            range(FIRST_OUTPUT_STAGE, len(widths)) if out_indices is None else out_indices,
            frozen_stages,
            norm_eval,
            with_cp,
            init_cfg,
        )

    def unpack(self, content: Any, source: str) -> Any:
        """See :class:`StagedBackbone`; detectors of other tools by the reader of :mod:`mmyolo_ext.weights`."""
        return FUNCTIONS.get('yolov5_in_our_names')(content, source)


def _stem(release: Release, in_channels: int, out_channels: int, block: dict) -> nn.Module:
    if release.focus_stem:
        return FocusStem(in_channels, out_channels, kernel_size=3, **block)
    return ConvModule(in_channels, out_channels, 6, stride=2, padding=2, **block)


def _stage(
    release: Release, in_channels: int, out_channels: int, depth: int, pools: tuple[int, ...], block: dict
) -> nn.Sequential:
    """A 3x3/2 convolution and a CSP block; in the last stage, which has ``pools``, a pyramid before or after it."""
    csp = CSPLayer(
        out_channels,
        out_channels,
        num_blocks=depth,
        add_identity=release.last_shortcut or not pools,
        **block,
    )
    down = ConvModule(in_channels, out_channels, 3, stride=2, padding=1, **block)
    if not pools:
        return nn.Sequential(down, csp)
    if release.pyramid_before_csp:
        return nn.Sequential(down, SPPBottleneck(out_channels, out_channels, pools, **block), csp)
    return nn.Sequential(down, csp, SPPF(out_channels, out_channels, **block))


def _check_choice(name: str, value: str, allowed: dict) -> None:
    if value not in allowed:
        raise ValueError(f'{name} must be one of {tuple(allowed)}, got {value!r}')


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f'{name} must be greater than 0, got {value}')
