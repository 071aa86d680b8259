"""YOLOv3's neck (arXiv 1804.02767, section 2.3), by mmdet's ``YOLOV3Neck``, in this project's order of levels."""

from collections.abc import Sequence

from mmcv.cnn import ConvModule
from mmdet.models.necks import YOLOV3Neck
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmyolo_ext.models.darknet.defaults import ACT_CFG, NORM_CFG
from mmyolo_ext.models.layers import INIT_CFG
from mmyolo_ext.models.necks.level_channels import check_channels
from mmyolo_ext.registry import MODELS


@MODELS.register_module()
class YOLOv3FPN(BaseModule):
    """Blocks of five convolutions from deep to shallow, and on each the sixth, 3x3, before the prediction.

    mmdet's neck takes its channels, and gives its maps, deep to shallow, and leaves the sixth convolution to its head;
    here both run shallow to deep and any head may follow. Levels keep the strides of the inputs, which must be exactly
    half from one to the next: a picture is padded to a multiple of the largest.

    Args:
        in_channels: channels of the inputs, shallow to deep; or ``'auto'``, which ``YOLODetector`` fills in.
        out_channels: even channels of the outputs, one per input.
        norm_cfg: normalization layers; Darknet's by default.
        act_cfg: activations; LeakyReLU of slope 0.1 by default.
        init_cfg: PyTorch's own start by default.

    Raises:
        ValueError: ``in_channels`` was not filled in, fewer than two levels, or the two lists differ in length.
    """

    def __init__(
        self,
        in_channels: Sequence[int] | str,
        out_channels: Sequence[int] = (256, 512, 1024),
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg or INIT_CFG)
        check_channels('YOLOv3FPN', in_channels, out_channels)
        self.in_channels = tuple(in_channels)
        self.out_channels = tuple(out_channels)
        block = {'norm_cfg': norm_cfg or NORM_CFG, 'act_cfg': act_cfg or ACT_CFG}
        half = [channels // 2 for channels in self.out_channels]
        self.pyramid = YOLOV3Neck(len(half), list(self.in_channels[::-1]), half[::-1], **block)
        self.out_convs = nn.ModuleList(
            ConvModule(narrow, wide, 3, padding=1, **block)
            for narrow, wide in zip(half, self.out_channels, strict=True)
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps of ``in_channels``, shallow to deep -> as many maps of ``out_channels``, of the same sizes."""
        maps = reversed(self.pyramid(inputs))
        return tuple(conv(level) for conv, level in zip(self.out_convs, maps, strict=True))
