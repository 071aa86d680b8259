"""Any network of timm as a backbone."""

import importlib
import math
from collections.abc import Sequence
from functools import partial
from types import ModuleType
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmyolo_ext.models.detectors.in_channels import run_without_side_effects
from mmyolo_ext.registry import MODELS

DETECTOR_STRIDES = (8, 16, 32)
# options by which networks for one image size accept any; the name changed between timm's releases
ANY_SIZE_OPTIONS = ('dynamic_img_size', True), ('strict_img_size', False)


@MODELS.register_module()
class TIMMBackbone(BaseModule):
    """A network of timm without its classifier; ``out_channels`` and ``out_strides`` are measured on a blank image.

    Networks that timm builds for one image size (Swin, ViT) are built to accept any. ``init_cfg`` of type
    ``'Pretrained'`` loads checkpoints of this class; for a file of timm give ``pretrained=True`` and
    ``pretrained_cfg_overlay=dict(file=...)``, timm's own option.

    Args:
        model_name: One of ``timm.list_models()``, with or without a tag; or ``hf-hub:``, ``local-dir:`` and a place.
        pretrained: Load the weights that timm publishes, from its cache or the network.
        out_indices: Which of timm's maps to return; by default those of strides 8, 16 and 32. Index 0 has stride 2 in
            most convolutional networks of timm, stride 4 in ConvNeXt and Swin.
        in_channels: Channels of the image; timm adapts published weights to it.
        frozen_stages: The layers of the maps of index 0 to this one are not trained and stay in eval mode; -1 freezes
            nothing. In a ResNet 0 is the stem and i is stage i, as in mmdet.
        norm_eval: Keep every batch norm in eval mode.
        init_cfg: As in MMEngine; by default timm's initialization.
        kwargs: Passed to ``timm.create_model``, e.g. ``drop_path_rate``.

    Raises:
        ImportError: If timm cannot be imported.
        ValueError: If timm does not know the name or has no feature maps for it, it lacks the indices or strides, maps
            do not have the size of their stride, or ``frozen_stages`` cannot be determined.
    """

    def __init__(
        self,
        model_name: str,
        pretrained: bool = False,
        out_indices: Sequence[int] | None = None,
        in_channels: int = 3,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        init_cfg: dict | list[dict] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(init_cfg)
        create = partial(_create, _import_timm(), model_name, in_chans=in_channels, **kwargs)
        whole = create()
        strides = [whole.feature_info[index]['reduction'] for index in range(len(whole.feature_info))]
        if out_indices is None:
            last = {stride: index for index, stride in enumerate(strides)}  # the deepest of each stride
            if not set(DETECTOR_STRIDES) <= set(last):
                raise ValueError(f'{model_name} has maps of the strides {strides}: choose some by out_indices')
            out_indices = [last[stride] for stride in DETECTOR_STRIDES]
        self.out_indices = tuple(out_indices) if isinstance(out_indices, Sequence) else (out_indices,)
        valid = all(index in range(len(strides)) for index in self.out_indices)
        if not valid or not self.out_indices or list(self.out_indices) != sorted(set(self.out_indices)):
            raise ValueError(
                f'out_indices of {model_name} must be increasing numbers from 0 to {len(strides) - 1} (strides '
                f'{strides}), got {out_indices}'
            )
        self.model = create(out_indices=self.out_indices, pretrained=pretrained)
        # some networks of timm have init_weights, with which MMEngine would initialize loaded weights again
        self.model.is_init = True
        self.stage_strides = tuple(strides)
        self.channels_last = getattr(self.model, 'output_fmt', 'NCHW') == 'NHWC'  # as in timm's Swin
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.out_channels, self.out_strides = self._measure(model_name, in_channels, kwargs.get('img_size'))
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (N, in_channels, H, W) -> maps, shallow to deep, of ``out_channels`` and ``out_strides``."""
        maps = self.model(x)
        if self.channels_last:
            return tuple(item.permute(0, 3, 1, 2).contiguous() for item in maps)
        return tuple(maps)

    def train(self, mode: bool = True) -> 'TIMMBackbone':
        """Set the mode, except for frozen layers and, with ``norm_eval``, batch norms."""
        super().train(mode)
        self._freeze()
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def translate(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of a file of timm with the names of this class, for ``load_from = 'timm::...'``."""
        ours = {_plain(name): name for name in self.state_dict()}
        return {ours[_plain(name)]: value for name, value in state_dict.items() if _plain(name) in ours}

    def _measure(
        self, model_name: str, in_channels: int, img_size: int | Sequence[int] | None
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return channels and strides of the maps of a blank image; those that timm declares are not always right."""
        declared = tuple(self.model.feature_info.reduction())
        cells = math.lcm(*declared)
        size_hw = (4 * cells, 5 * cells)
        if img_size is not None:
            size_hw = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        image = next(self.parameters()).new_zeros(1, in_channels, *size_hw)
        try:
            maps = run_without_side_effects(self, image)
        except Exception as error:  # any network may be here, and fail in its own way
            raise ValueError(
                f'{model_name} does not accept an image of {size_hw} px ({type(error).__name__}: {error}): set '
                'img_size to the size of every image of your pipeline'
            ) from error
        sizes = [tuple(item.shape[2:]) for item in maps]
        strides = tuple(size_hw[0] // height for height, _ in sizes)
        if any((height * s, width * s) != size_hw for (height, width), s in zip(sizes, strides, strict=True)):
            raise ValueError(
                f'{model_name} has maps of {sizes} cells (height, width) for an image of {size_hw} px: its layers cut '
                'off borders, so predictions would be in the wrong places. Use another network.'
            )
        return tuple(item.shape[1] for item in maps), strides

    def _freeze(self) -> None:
        """Freeze the modules up to the one that outputs the map of index ``frozen_stages``.

        timm registers modules in the order in which they run; its feature extraction relies on it, too.
        """
        if self.frozen_stages == -1:
            return
        info = self.model.feature_info
        if not 0 <= self.frozen_stages < len(info):
            raise ValueError(f'frozen_stages must be from -1 (none) to {len(info) - 1}, got {self.frozen_stages}')
        named = list(self.model.named_modules())
        target = info[self.frozen_stages]['module']
        place = next((i for i, (name, _) in enumerate(named) if _plain(name) == _plain(target)), None)
        if place is None:
            raise ValueError(f'frozen_stages: this network of timm has no module {target!r}; use frozen_parts instead')
        last_name, last = named[place]
        for name, module in named[: place + len(list(last.modules()))]:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
            if not f'{last_name}.'.startswith(f'{name}.' if name else ''):  # not a parent, which is frozen in part
                module.training = False


def _plain(name: str) -> str:
    """Return a module's name without the wrapper around the network; timm's extractors turn ``a.b`` into ``a_b``."""
    return name.replace('.', '_').removeprefix('body_').removeprefix('model_')


def _import_timm() -> ModuleType:
    try:
        return importlib.import_module('timm')
    except Exception as error:  # absent, or with a torchvision of another build, which fails in its own way
        raise ImportError(
            f'TIMMBackbone needs timm and the torchvision made for your torch, but timm does not import '
            f'({type(error).__name__}: {error}). pip install timm, and for a CPU-only torch the torchvision for CPUs'
        ) from error


def _create(timm: ModuleType, model_name: str, **kwargs: Any) -> nn.Module:
    """Return the ``features_only`` form of a network, one that is built for a fixed image size with any size."""
    config = timm.get_pretrained_cfg(model_name.partition('.')[0]) if ':' not in model_name else None
    options = [{}]
    if getattr(config, 'fixed_input_size', False) and not kwargs.keys() & {'img_size', *dict(ANY_SIZE_OPTIONS)}:
        options = [*({name: value} for name, value in ANY_SIZE_OPTIONS), {}]
    for option in options:
        try:
            return timm.create_model(model_name, features_only=True, **kwargs, **option)
        except TypeError:
            if not option:
                raise
        except RuntimeError as error:  # unknown name, or no feature maps
            raise ValueError(
                f'timm cannot build {model_name} as a backbone: {error}; timm.list_models() lists the names'
            ) from error
    raise AssertionError
