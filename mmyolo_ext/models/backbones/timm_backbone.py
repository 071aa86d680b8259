"""Any network of timm as a backbone."""

import math
from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmyolo_ext.models.backbones.timm_features import build_features, feature_strides
from mmyolo_ext.models.detectors.in_channels import run_without_side_effects
from mmyolo_ext.registry import MODELS


@MODELS.register_module()
class TIMMBackbone(BaseModule):
    """A network of timm without its classifier; ``out_channels`` and ``out_strides`` (tuples) say what comes out,
    measured on a blank image.

    Networks that timm makes for one picture size (Swin, ViT) are told to take any. ``init_cfg`` of type
    ``'Pretrained'`` takes checkpoints of this class; those of timm go to ``checkpoint_path``.

    Args:
        model_name: one of ``timm.list_models()``, with or without a tag; or ``hf-hub:``, ``local-dir:`` and a place.
        pretrained: load the weights that timm publishes, from its cache or the network.
        out_indices: which of timm's maps to give; by default those of strides 8, 16 and 32. Index 0 is stride 2 in
            most convolutional networks of timm, stride 4 in ConvNeXt and Swin.
        in_channels: channels of the picture; timm adapts published weights to it.
        frozen_stages: what makes the maps of index 0 to this one is not trained and stays in eval mode; -1 freezes
            nothing. In a ResNet 0 is the stem and i the stage i, as in mmdet.
        norm_eval: keep every batch norm in eval mode.
        checkpoint_path: load timm's weights from this file instead.
        init_cfg: as in MMEngine; by default weights stay as timm starts them.
        kwargs: go to ``timm.create_model``, e.g. ``drop_path_rate``.

    Raises:
        ImportError: timm is absent or does not import.
        ValueError: unknown name, indices or strides that the network does not have, one that takes pictures of one
            size only, maps whose sizes are not those of a stride, a file of another network, or ``frozen_stages`` that
            cannot be determined from its layers.
    """

    def __init__(
        self,
        model_name: str,
        pretrained: bool = False,
        out_indices: Sequence[int] | None = None,
        in_channels: int = 3,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        checkpoint_path: str = '',
        init_cfg: dict | list[dict] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(init_cfg)
        self.model = build_features(
            model_name, out_indices, pretrained, checkpoint_path, in_chans=in_channels, **kwargs
        )
        # some of timm's networks have init_weights too, and MMEngine would start loaded weights anew by it
        self.model.is_init = True
        info = self.model.feature_info
        self.out_indices = tuple(info.out_indices)
        self.stage_strides = tuple(feature_strides(self.model))
        # as timm's Swin works
        self.channels_last = getattr(self.model, 'output_fmt', 'NCHW') == 'NHWC'
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.out_channels, self.out_strides = self._measure(model_name, in_channels, kwargs.get('img_size'))
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Pictures (N, in_channels, H, W) -> maps, shallow to deep, of ``out_channels`` and ``out_strides``."""
        maps = self.model(x)
        if self.channels_last:
            return tuple(item.permute(0, 3, 1, 2).contiguous() for item in maps)
        return tuple(maps)

    def train(self, mode: bool = True) -> 'TIMMBackbone':
        """Switch the mode, but for what is frozen and, under ``norm_eval``, the batch norms."""
        super().train(mode)
        self._freeze()
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _measure(
        self, model_name: str, in_channels: int, img_size: int | Sequence[int] | None
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Channels and strides of the maps of a blank image; what timm declares is not always what comes.

        Raises:
            ValueError: If the image is no whole multiple of a map, so that cells are not where strides put them.
        """
        declared = self.model.feature_info.reduction()
        cells = math.lcm(*declared)
        size_hw = (4 * cells, 5 * cells)
        if img_size is not None:
            size_hw = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        like = next(self.parameters())
        maps = run_without_side_effects(self, like.new_zeros(1, in_channels, *size_hw))
        strides = []
        for item in maps:
            (stride_h, rest_h), (stride_w, rest_w) = map(divmod, size_hw, item.shape[2:])
            if rest_h or rest_w or stride_h != stride_w:
                came = ', '.join(f'{height} x {width}' for height, width in (item.shape[2:] for item in maps))
                raise ValueError(
                    f'{model_name} gives maps of {came} cells for an image of {size_hw[0]} x {size_hw[1]} px, not '
                    f'those of the strides {tuple(declared)} that timm declares: its layers cut off borders, so '
                    'predictions would be in the wrong places. Take another network.'
                )
            strides.append(stride_h)
        return tuple(item.shape[1] for item in maps), tuple(strides)

    def _freeze(self) -> None:
        if self.frozen_stages == -1:
            return
        for module, whole in _up_to(self.model, self.frozen_stages):
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
            if whole:
                module.training = False


def _up_to(model: nn.Module, index: int) -> list[tuple[nn.Module, bool]]:
    """The modules up to the one that gives the map ``index``, and of each whether all of it lies there.

    timm registers modules in the order in which they run; its feature extraction rests on the same.
    """
    info = model.feature_info
    if not 0 <= index < len(info):
        raise ValueError(f'frozen_stages must be from -1 (none) to {len(info) - 1}, got {index}')
    named = list(model.named_modules())
    target = info[index]['module']
    place = next((place for place, (name, _) in enumerate(named) if _as_in_timm(name) == _as_in_timm(target)), None)
    if place is None:
        raise ValueError(
            f'frozen_stages={index} cannot be determined from the layers of this network of timm: none is called '
            f'{target!r}. Use frozen_stages=-1, and lr_mult=0 in paramwise_cfg for the layers to hold.'
        )
    end = place + len(list(named[place][1].modules()))
    return [(module, not f'{named[place][0]}.'.startswith(f'{name}.' if name else '')) for name, module in named[:end]]


def _as_in_timm(name: str) -> str:
    """A module's name without the wrapper around the network; timm's extractors turn ``a.b`` into ``a_b``."""
    return name.replace('.', '_').removeprefix('body_').removeprefix('model_')
