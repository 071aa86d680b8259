"""The names that torchvision and mmpretrain give to the weights of MobileNetV3.

Both number the layers through all stages: 0 is the stem, then come the blocks, and after them the last convolution.
Here blocks are numbered within their stage, so the built backbone says which block is which.
"""

import re
from collections import defaultdict
from collections.abc import Iterable

from torch import Tensor, nn

NUM_STAGES = 4
STEM, LAST_CONV = 'layers.0.conv', f'layers.{NUM_STAGES + 1}'

TORCHVISION_BLOCK = re.compile(r'features\.(\d+)\.block\.(\d+)\.(0|1|fc1|fc2)\.(\w+)')
TORCHVISION_CONV = re.compile(r'features\.(\d+)\.([01])\.(\w+)')
TORCHVISION_HEAD = 'classifier.'
MMPRETRAIN_LAYER = re.compile(r'layer(\d+)\.(.+)')
PARTS = {'0': 'conv', '1': 'bn', 'fc1': 'conv1.conv', 'fc2': 'conv2.conv'}

Place = tuple[int, str]  # number of a layer through all stages, and a tensor's name within it, as here


def translate(state_dict: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """Weights of torchvision, mmpretrain or ourselves -> by our names; torchvision's classifier is left out.

    Which of the three it is shows in the names; a name that is none of these stays as it is. Blocks after the last
    one that the ``backbone`` has are numbered on: in its last stage if all are built, else in the stage after.
    """
    places = _torchvision_places(state_dict) or _mmpretrain_places(state_dict)
    depths = [len(stage) for stage in backbone.layers[1 : NUM_STAGES + 1]]
    return {
        _our_name(*places[name], depths) if name in places else name: tensor
        for name, tensor in state_dict.items()
        if not (places and name.startswith(TORCHVISION_HEAD))
    }


def _our_name(layer: int, name: str, depths: list[int]) -> str:
    """``depths``: how many blocks each built stage has."""
    if layer == 0:
        return f'{STEM}.{name}'
    if name.startswith(('conv.', 'bn.')):
        return f'{LAST_CONV}.{name}'
    stage, block = 1, layer - 1
    for depth in depths:
        if block < depth or stage == NUM_STAGES:
            break
        stage, block = stage + 1, block - depth
    return f'layers.{stage}.{block}.{name}'


def _torchvision_places(names: Iterable[str]) -> dict[str, Place]:
    """By their names; empty if these are not of torchvision's MobileNetV3."""
    blocks = {name: found.groups() for name in names if (found := TORCHVISION_BLOCK.fullmatch(name))}
    if not blocks:
        return {}
    roles = _torchvision_roles(blocks.values())
    places = {
        name: (int(layer), f'{roles[layer, child]}.{PARTS[part]}.{tensor}')
        for name, (layer, child, part, tensor) in blocks.items()
    }
    convs = {name: found.groups() for name in names if (found := TORCHVISION_CONV.fullmatch(name))}
    return places | {name: (int(layer), f'{PARTS[part]}.{tensor}') for name, (layer, part, tensor) in convs.items()}


def _torchvision_roles(blocks: Iterable[tuple[str, str, str, str]]) -> dict[tuple[str, str], str]:
    """(layer, child) -> our name of that child.

    A block there is a list: the expanding convolution if it has one, the depthwise one, squeeze-excitation if it has
    one, and the last convolution.
    """
    children: dict[str, dict[str, bool]] = defaultdict(dict)
    for layer, child, part, _ in blocks:
        children[layer][child] = part.startswith('fc')
    roles = {}
    for layer, squeezes in children.items():
        convs = sorted((child for child in squeezes if not squeezes[child]), key=int, reverse=True)
        last_first = ('linear_conv', 'depthwise_conv', 'expand_conv')
        roles |= {(layer, child): role for child, role in zip(convs, last_first, strict=False)}
        roles |= {(layer, child): 'se' for child in squeezes if squeezes[child]}
    return roles


def _mmpretrain_places(names: Iterable[str]) -> dict[str, Place]:
    """As :func:`_torchvision_places`; mmpretrain's blocks have the parts of ours."""
    return {name: (int(found[1]), found[2]) for name in names if (found := MMPRETRAIN_LAYER.fullmatch(name))}
