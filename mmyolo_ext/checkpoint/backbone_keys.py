"""Published weights for ShuffleNetV2 and MobileNetV3: where they are, and the names that other libraries give them."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from mmengine.runner.checkpoint import CheckpointLoader, get_mmcls_models
from torch import Tensor

from mmyolo_ext.checkpoint.safe_load import downloaded, read_checkpoint

TORCHVISION_SITE = 'https://download.pytorch.org/models/'
# listed here because torchvision need not be installed
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

# ShuffleNetV2. torchvision counts convolutions, norms and activations of a branch in one list: index there -> name
BRANCHES = {
    'branch1': {'0': '0.conv', '1': '0.bn', '2': '1.conv', '3': '1.bn'},
    'branch2': {'0': '0.conv', '1': '0.bn', '3': '1.conv', '4': '1.bn', '5': '2.conv', '6': '2.bn'},
}
SHUFFLENET_UNIT = re.compile(r'stage(\d)\.(\d+)\.(branch[12])\.(\d)\.(\w+)')
SHUFFLENET_CONV = re.compile(r'conv([15])\.([01])\.(\w+)')

# MobileNetV3. Both libraries number the blocks through all stages; here they are numbered within their stage.
MOBILENET_BLOCK = re.compile(r'features\.(\d+)\.block\.(\d+)\.(0|1|fc1|fc2)\.(\w+)')
MOBILENET_CONV = re.compile(r'features\.(\d+)\.([01])\.(\w+)')
MOBILENET_MMPRETRAIN = re.compile(r'layer(\d+)\.(.+)')
CONV_MODULE = {'0': 'conv', '1': 'bn', 'fc1': 'conv1.conv', 'fc2': 'conv2.conv'}


def fetch(checkpoint: str, map_location: Any = 'cpu') -> Any:
    """Return the content of a checkpoint, downloading it first if necessary.

    Args:
        checkpoint: A path; ``http(s)://``; ``torchvision://NAME`` as in torchvision, with ``.imagenet1k_v2`` or
            ``.default`` where there are several; ``mmcls://NAME`` of mmengine's list; any other scheme that mmengine
            knows, which mmengine then reads.
        map_location: As in ``torch.load``.

    Raises:
        ValueError: If the name is unknown, or the file is absent or cannot be read.
    """
    scheme, separator, name = checkpoint.partition('://')
    if not separator:
        return read_checkpoint(checkpoint, map_location)
    if scheme == 'torchvision':
        return read_checkpoint(downloaded(torchvision_url(name), with_hash=True), map_location)
    if scheme == 'mmcls':
        urls = get_mmcls_models()
        if name not in urls:
            known = [known for known in urls if known.startswith(MMPRETRAIN_FAMILIES)]
            raise ValueError(f'mmcls://{name} is not known to mmengine, use one of {", ".join(known)}')
        checkpoint = urls[name]
    elif scheme not in ('http', 'https'):
        return CheckpointLoader.load_checkpoint(checkpoint, map_location)
    return read_checkpoint(downloaded(checkpoint), map_location)


def torchvision_url(name: str) -> str:
    """Return the URL of weights named as torchvision's functions, its enums or mmengine's old list.

    Raises:
        ValueError: If the name is unknown.
    """

    def plain(name: str) -> str:
        """``ShuffleNet_V2_X1_0_Weights.DEFAULT`` and ``shufflenetv2_x1.0.default`` -> the same."""
        return name.lower().replace('_weights', '').replace('_', '').replace('.', '')

    spellings: dict[str, str] = {}
    for key, file in TORCHVISION_FILES.items():
        model = key.partition('.')[0]
        spellings.setdefault(plain(model), file)  # the first release, as torchvision's pretrained=True
        spellings |= {plain(key): file, plain(f'{model}.default'): file}  # DEFAULT is the last
    if plain(name) not in spellings:
        raise ValueError(
            f'torchvision://{name} is not known here, use one of {", ".join(TORCHVISION_FILES)}, or give a file or URL'
        )
    return TORCHVISION_SITE + spellings[plain(name)]


def shufflenet_v2_keys(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights of torchvision or mmpretrain to the names of our ShuffleNetV2; drop torchvision's classifier.

    Names of neither library stay as they are.
    """
    if any(SHUFFLENET_UNIT.fullmatch(name) for name in state_dict):
        return {_shufflenet_name(name): value for name, value in state_dict.items() if not name.startswith('fc.')}
    if not any(name.startswith('conv1.') for name in state_dict):
        return dict(state_dict)
    renamed = {}
    for name, value in state_dict.items():  # mmpretrain: its stages do not count the stem
        name = re.sub(r'^layers\.(\d+)\.', lambda number: f'layers.{int(number[1]) + 1}.', name)
        renamed[re.sub(r'^conv1\.', 'layers.0.conv.', name)] = value
    return renamed


def _shufflenet_name(name: str) -> str:
    if unit := SHUFFLENET_UNIT.fullmatch(name):
        stage, number, branch, part, tensor = unit.groups()
        if part in BRANCHES[branch]:
            return f'layers.{int(stage) - 1}.{number}.{branch}.{BRANCHES[branch][part]}.{tensor}'
    if conv := SHUFFLENET_CONV.fullmatch(name):
        which, part, tensor = conv.groups()
        return f'{"layers.0.conv" if which == "1" else "layers.4"}.{CONV_MODULE[part]}.{tensor}'
    return name


def mobilenet_v3_keys(state_dict: dict[str, Tensor], depths: Sequence[int]) -> dict[str, Tensor]:
    """Rename weights of torchvision or mmpretrain to the names of our MobileNetV3; drop torchvision's classifier.

    Names of neither library stay as they are.

    Args:
        state_dict: Weights of one of the two libraries, or ours.
        depths: Number of blocks in each built stage. Blocks beyond them count as the last of the four stages.
    """
    layers = _torchvision_layers(state_dict)
    if not layers:
        found = {name: MOBILENET_MMPRETRAIN.fullmatch(name) for name in state_dict}
        layers = {name: (int(match[1]), match[2]) for name, match in found.items() if match}
    return {
        _mobilenet_name(*layers[name], depths) if name in layers else name: value
        for name, value in state_dict.items()
        if not (layers and name.startswith('classifier.'))
    }


def _mobilenet_name(layer: int, name: str, depths: Sequence[int]) -> str:
    """Return our name of a tensor from the index of its layer through all stages and its name within the layer."""
    if layer == 0:
        return f'layers.0.conv.{name}'
    if name.startswith(('conv.', 'bn.')):
        return f'layers.5.{name}'
    stage, block = 1, layer - 1
    for depth in depths:
        if block < depth or stage == 4:
            break
        stage, block = stage + 1, block - depth
    return f'layers.{stage}.{block}.{name}'


def _torchvision_layers(names: Iterable[str]) -> dict[str, tuple[int, str]]:
    """Return index of the layer and name within it, as here, of torchvision's tensors; nothing for other names."""
    blocks = {name: match.groups() for name in names if (match := MOBILENET_BLOCK.fullmatch(name))}
    if not blocks:
        return {}
    # A block is a list there: [expand], depthwise, [squeeze-excitation], linear.
    squeezes: dict[str, dict[str, bool]] = defaultdict(dict)
    for layer, child, part, _ in blocks.values():
        squeezes[layer][child] = part.startswith('fc')
    roles = {}
    for layer, children in squeezes.items():
        convs = sorted((child for child in children if not children[child]), key=int, reverse=True)
        roles |= {(layer, c): r for c, r in zip(convs, ('linear_conv', 'depthwise_conv', 'expand_conv'), strict=False)}
        roles |= {(layer, child): 'se' for child in children if children[child]}
    layers = {
        name: (int(layer), f'{roles[layer, child]}.{CONV_MODULE[part]}.{tensor}')
        for name, (layer, child, part, tensor) in blocks.items()
    }
    convs = {name: match.groups() for name in names if (match := MOBILENET_CONV.fullmatch(name))}
    return layers | {
        name: (int(layer), f'{CONV_MODULE[part]}.{tensor}') for name, (layer, part, tensor) in convs.items()
    }
