"""The names that torchvision and mmpretrain give to the weights of MobileNetV3.

Both number the blocks from 1 through all stages, 0 being the stem and the number after the last block the last
convolution. We number them by stage, so the built backbone says which block is which.
"""

import re
from collections import defaultdict

from torch import Tensor, nn

NUM_STAGES = 4
STEM, LAST = 'layers.0.conv', f'layers.{NUM_STAGES + 1}'

TORCHVISION_BLOCK = re.compile(r'features\.(\d+)\.block\.(\d+)\.(0|1|fc1|fc2)\.(\w+)')
TORCHVISION_CONV = re.compile(r'features\.(\d+)\.([01])\.(\w+)')
TORCHVISION_HEAD = 'classifier.'
MMPRETRAIN_LAYER = re.compile(r'layer(\d+)\.(.+)')
PARTS = {'0': 'conv', '1': 'bn', 'fc1': 'conv1.conv', 'fc2': 'conv2.conv'}


def translate(state_dict: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """Weights of torchvision, mmpretrain or ourselves -> by our names; torchvision's classifier is left out.

    Which of the three it is shows in the names; a name that is none of these stays as it is. Blocks after the last
    one that the ``backbone`` has are numbered on: in its last stage if all are built, else in the stage after.
    """
    if any(TORCHVISION_BLOCK.fullmatch(name) for name in state_dict):
        renamed = _from_torchvision(state_dict)
    elif any(MMPRETRAIN_LAYER.fullmatch(name) for name in state_dict):
        renamed = {name: MMPRETRAIN_LAYER.fullmatch(name) for name in state_dict}
        renamed = {name: (int(found[1]), found[2]) for name, found in renamed.items() if found}
    else:
        return dict(state_dict)
    places = _Places(backbone, max(number for number, _ in renamed.values()), renamed.values())
    return {
        places.name(*renamed[name]) if name in renamed else name: tensor
        for name, tensor in state_dict.items()
        if not name.startswith(TORCHVISION_HEAD)
    }
