"""The names that torchvision and mmpretrain give to the weights of ShuffleNetV2."""

import re

from torch import Tensor, nn

# torchvision counts convolutions, norms and activations of a branch in one list: number there -> name here
BRANCH = {
    'branch1': {'0': '0.conv', '1': '0.bn', '2': '1.conv', '3': '1.bn'},
    'branch2': {'0': '0.conv', '1': '0.bn', '3': '1.conv', '4': '1.bn', '5': '2.conv', '6': '2.bn'},
}
PLAIN = {'0': 'conv', '1': 'bn'}
TORCHVISION_UNIT = re.compile(r'stage(\d)\.(\d+)\.(branch[12])\.(\d)\.(\w+)')
TORCHVISION_CONV = re.compile(r'conv([15])\.([01])\.(\w+)')
TORCHVISION_HEAD = 'fc.'
MMPRETRAIN_STEM = 'conv1.'


def translate(state_dict: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """Weights of torchvision, mmpretrain or ourselves -> by our names; torchvision's classifier is left out.

    Which of the three it is shows in the names; a name that is none of these stays as it is. Nothing depends on the
    ``backbone``, for the numbers of the units are the same everywhere.
    """
    if any(TORCHVISION_UNIT.fullmatch(name) for name in state_dict):
        return {
            _from_torchvision(name): tensor
            for name, tensor in state_dict.items()
            if not name.startswith(TORCHVISION_HEAD)
        }
    if any(name.startswith(MMPRETRAIN_STEM) for name in state_dict):
        return {_from_mmpretrain(name): tensor for name, tensor in state_dict.items()}
    return dict(state_dict)


def _from_torchvision(name: str) -> str:
    if unit := TORCHVISION_UNIT.fullmatch(name):
        stage, number, branch, part, tensor = unit.groups()
        if part in BRANCH[branch]:
            return f'layers.{int(stage) - 1}.{number}.{branch}.{BRANCH[branch][part]}.{tensor}'
    if conv := TORCHVISION_CONV.fullmatch(name):
        which, part, tensor = conv.groups()
        layer = 'layers.0.conv' if which == '1' else 'layers.4'
        return f'{layer}.{PLAIN[part]}.{tensor}'
    return name


def _from_mmpretrain(name: str) -> str:
    if name.startswith(MMPRETRAIN_STEM):
        return f'layers.0.conv.{name.removeprefix(MMPRETRAIN_STEM)}'
    # stages there do not count the stem
    return re.sub(r'^layers\.(\d+)\.', lambda number: f'layers.{int(number[1]) + 1}.', name)
