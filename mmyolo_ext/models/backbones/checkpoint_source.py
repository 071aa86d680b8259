"""Where a pretrained checkpoint comes from: a file, a URL, or a name that torchvision or mmpretrain gave one."""

from typing import Any

from mmengine.runner.checkpoint import CheckpointLoader, get_mmcls_models

from mmyolo_ext.compat.checkpoint_file import read_checkpoint
from mmyolo_ext.compat.download import downloaded

TORCHVISION_SITE = 'https://download.pytorch.org/models/'
# what torchvision has published for the two families; kept here, for it need not be installed
TORCHVISION_FILES = {
    'shufflenet_v2_x0_5.imagenet1k_v1': 'shufflenetv2_x0.5-f707e7126e.pth',
    'shufflenet_v2_x1_0.imagenet1k_v1': 'shufflenetv2_x1-5666bf0f80.pth',
    'shufflenet_v2_x1_5.imagenet1k_v1': 'shufflenetv2_x1_5-3c479a10.pth',
    'shufflenet_v2_x2_0.imagenet1k_v1': 'shufflenetv2_x2_0-8be3c8ee.pth',
    'mobilenet_v3_small.imagenet1k_v1': 'mobilenet_v3_small-047dcff4.pth',
    'mobilenet_v3_large.imagenet1k_v1': 'mobilenet_v3_large-8738ca79.pth',
    'mobilenet_v3_large.imagenet1k_v2': 'mobilenet_v3_large-5c1a4163.pth',
}
MMPRETRAIN_FAMILIES = ('shufflenet_v2', 'mobilenet_v3')


def fetch(checkpoint: str, map_location: Any = 'cpu') -> Any:
    """What the checkpoint holds, downloaded first where it must be.

    Args:
        checkpoint: a path; ``http(s)://``; ``torchvision://NAME`` as in torchvision, with ``.imagenet1k_v2`` or
            ``.default`` where there are several; ``mmcls://NAME`` of mmengine's list; any other scheme that mmengine
            knows, which then reads the file by its own rules.
        map_location: as in ``torch.load``.

    Raises:
        ValueError: an unknown name, nothing at that place, a file that cannot be read.
    """
    scheme, separator, name = checkpoint.partition('://')
    if not separator:
        return read_checkpoint(checkpoint, map_location)
    if scheme not in ('http', 'https', 'torchvision', 'mmcls'):
        return _by_mmengine(checkpoint, map_location)
    if scheme == 'torchvision':
        url = torchvision_url(name)
    else:
        url = mmpretrain_url(name) if scheme == 'mmcls' else checkpoint
    path = downloaded(url, with_hash=scheme == 'torchvision')
    try:
        return read_checkpoint(path, map_location)
    except ValueError as error:
        raise ValueError(f'{error}. It came from {url}; delete it to have it downloaded again') from error


def torchvision_url(name: str) -> str:
    """Of the weights that torchvision calls so; spelled as the function, the enum or in mmengine's old list."""
    wanted = _plain(name)
    releases = {
        known: [key for key in TORCHVISION_FILES if key.startswith(f'{known}.')] for known in _torchvision_names()
    }
    for known, keys in releases.items():
        spellings = {_plain(key): key for key in keys}
        # without a version mmengine and torchvision's pretrained=True take the first, torchvision's DEFAULT the last
        spellings |= {_plain(known): keys[0], _plain(f'{known}.default'): keys[-1]}
        if wanted in spellings:
            return TORCHVISION_SITE + TORCHVISION_FILES[spellings[wanted]]
    raise ValueError(
        f'torchvision://{name} is not known here, use one of {", ".join(releases)}, {", ".join(TORCHVISION_FILES)}, '
        'or give a file or URL'
    )


def mmpretrain_url(name: str) -> str:
    """Of the weights that mmengine lists under this name for ``mmcls://``."""
    urls = get_mmcls_models()
    if name not in urls:
        fitting = [known for known in urls if known.startswith(MMPRETRAIN_FAMILIES)]
        raise ValueError(f'mmcls://{name} is not known to mmengine, use one of {", ".join(fitting)}')
    return urls[name]


def _torchvision_names() -> list[str]:
    return list(dict.fromkeys(key.partition('.')[0] for key in TORCHVISION_FILES))


def _plain(name: str) -> str:
    """``ShuffleNet_V2_X1_0_Weights.DEFAULT`` and ``shufflenetv2_x1.0.default`` -> the same."""
    return name.lower().replace('_weights', '').replace('_', '').replace('.', '')


def _by_mmengine(checkpoint: str, map_location: Any) -> Any:
    try:
        return CheckpointLoader.load_checkpoint(checkpoint, map_location)
    # what its readers raise: its own an OSError or a KeyError, ours, where it is installed, a ValueError
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f'{checkpoint} cannot be read by mmengine ({type(error).__name__}: {error})') from error
