"""Build the ``features_only`` form of a timm network, with errors that tell what timm offers."""

import difflib
import importlib
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

DETECTOR_STRIDES = (8, 16, 32)
# How timm's networks for one picture size are told to take any; the name changed between its releases.
ANY_SIZE_OPTIONS = ({'dynamic_img_size': True}, {'strict_img_size': False})
SIZE_OPTIONS = ('img_size', 'dynamic_img_size', 'strict_img_size')
# neither square nor the size of any training recipe
TRIAL_SIZE_HW = (256, 320)


def build_features(
    model_name: str,
    out_indices: Sequence[int] | None = None,
    pretrained: bool = False,
    checkpoint_path: str = '',
    **kwargs: Any,
) -> nn.Module:
    """timm's network without its classifier, which gives a list of maps and tells of them in ``feature_info``.

    Args:
        model_name: one of ``timm.list_models()``, with or without a tag; or ``hf-hub:``, ``local-dir:`` and a place.
        out_indices: increasing; by default those of strides 8, 16 and 32.
        pretrained: load the weights that timm publishes.
        checkpoint_path: load this file instead.
        kwargs: go to ``timm.create_model``.

    Raises:
        ImportError: timm is absent or does not import.
        ValueError: unknown name, a network without feature maps or for one picture size only, ``out_indices`` or
            strides that it does not have, or a file of another network.
    """
    timm = import_timm()
    _check_name(timm, model_name)
    create = _size_free(timm, model_name, partial(_create, timm, model_name, **kwargs), kwargs)
    wanted = _checked_indices(model_name, create, out_indices)
    if checkpoint_path:
        return _loaded(model_name, partial(create, out_indices=wanted), checkpoint_path)
    return create(out_indices=wanted, pretrained=pretrained)


def import_timm() -> ModuleType:
    """timm; raises ImportError with what to install."""
    try:
        return importlib.import_module('timm')
    except ModuleNotFoundError as error:
        if error.name != 'timm':
            raise ImportError(
                f'timm is installed, but a package that it needs is not: {error}. Install that one (torchvision must '
                'be the release made for your torch; for a CPU-only torch it is at '
                'https://download.pytorch.org/whl/cpu).'
            ) from error
        raise ImportError(
            'TIMMBackbone needs timm: pip install timm. It needs torchvision, which must be the release made for your '
            'torch; beside a CPU-only torch install that first: pip install torchvision --index-url '
            'https://download.pytorch.org/whl/cpu.'
        ) from error
    except Exception as error:  # a torchvision of another build fails in its own way
        raise ImportError(
            f'timm is installed but does not import: {type(error).__name__}: {error}. Most often its torchvision was '
            'made for another torch: install the one made for yours.'
        ) from error


def feature_strides(model: nn.Module) -> list[int]:
    """Strides of all maps a features-only network has, by index, whichever it was told to give."""
    info = model.feature_info
    return [info[index]['reduction'] for index in range(len(info))]


def _create(timm: ModuleType, model_name: str, **kwargs: Any) -> nn.Module:
    try:
        return timm.create_model(model_name, features_only=True, **kwargs)
    except RuntimeError as error:
        raise ValueError(f'timm cannot give {model_name} as a backbone: {error}') from error


def _check_name(timm: ModuleType, model_name: str) -> None:
    architecture = model_name.partition('.')[0]
    if ':' in model_name or timm.is_model(architecture):
        return
    known = timm.list_models()
    longer = [name for name in known if name.startswith(architecture)][:5]
    close = longer or difflib.get_close_matches(architecture, known, n=5)
    advice = f'names like it: {", ".join(close)}' if close else 'timm.list_models() tells all'
    raise ValueError(f'timm has no network called {model_name!r}; {advice}.')


def _checked_indices(
    model_name: str, create: Callable[..., nn.Module], out_indices: Sequence[int] | None
) -> tuple[int, ...]:
    strides = feature_strides(create())
    has = _told(strides)
    if out_indices is None:
        last = {stride: index for index, stride in enumerate(strides)}  # of several of one stride, the deepest
        if not set(DETECTOR_STRIDES) <= set(last):
            raise ValueError(
                f'{model_name} does not give maps of all strides {DETECTOR_STRIDES}; it has the indices {has}. Choose '
                'from them by out_indices, or take another network.'
            )
        return tuple(last[stride] for stride in DETECTOR_STRIDES)
    indices = tuple(out_indices) if isinstance(out_indices, Sequence) else ()
    allowed = range(len(strides))
    if not indices or any(index not in allowed for index in indices) or list(indices) != sorted(set(indices)):
        raise ValueError(f'out_indices of {model_name} must be increasing numbers from {has}, got {out_indices}')
    return indices


def _told(strides: list[int]) -> str:
    """``[2, 4, 4]`` -> '0 (stride 2), 1-2 (stride 4)'."""
    runs = [(stride, [index for index, _ in run]) for stride, run in groupby(enumerate(strides), key=itemgetter(1))]
    return ', '.join(
        f'{run[0]} (stride {stride})' if len(run) == 1 else f'{run[0]}-{run[-1]} (stride {stride})'
        for stride, run in runs
    )


def _size_free(
    timm: ModuleType, model_name: str, create: Callable[..., nn.Module], kwargs: dict
) -> Callable[..., nn.Module]:
    """``create``, for a network made for one picture size with the option that makes it take any."""
    config = timm.get_pretrained_cfg(model_name.partition('.')[0]) if ':' not in model_name else None
    if not getattr(config, 'fixed_input_size', False) or any(option in kwargs for option in SIZE_OPTIONS):
        return create
    for option in ANY_SIZE_OPTIONS:
        try:
            create(**option)
        except TypeError:  # this network does not know the option
            continue
        return partial(create, **option)
    in_channels = kwargs.get('in_chans', 3)
    try:
        _try_out(create(), torch.zeros(1, in_channels, *TRIAL_SIZE_HW))
    except Exception as error:  # any network may stand here, and fail in its own way
        raise ValueError(
            f'{model_name} takes pictures of {tuple(config.input_size[1:])} alone: given one of {TRIAL_SIZE_HW} it '
            f'raised {type(error).__name__}: {error}. Take another network; or set its img_size to the size to which '
            'your pipeline brings every picture.'
        ) from error
    return create


@torch.no_grad()
def _try_out(model: nn.Module, pictures: Tensor) -> None:
    model.eval()(pictures)


def _loaded(model_name: str, create: Callable[..., nn.Module], checkpoint_path: str) -> nn.Module:
    """With the weights of a file, which is of the whole network or of this form of it."""
    if not Path(checkpoint_path).is_file():
        raise FileNotFoundError(f'checkpoint_path: there is no file {checkpoint_path}')
    # timm leaves out what does not fit and says so in its log alone. Equal seeds start equal weights: where the file
    # changed none, it was of another network.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        untouched = create()
        torch.manual_seed(0)
        try:
            model = create(pretrained=True, pretrained_cfg_overlay={'file': checkpoint_path})
        except ValueError as error:
            raise ValueError(f'{checkpoint_path} does not fit {model_name}: {error.__cause__}') from error
    if all(map(torch.equal, untouched.parameters(), model.parameters())):
        raise ValueError(f'{checkpoint_path} holds no weight of {model_name}: it is of another network')
    return model
