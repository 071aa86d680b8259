"""The names of mmpretrain's backbones in the order in which they are registered, which is torchvision's order too.

So the weights of a torchvision file, taken in turn, make an mmpretrain checkpoint without any rule of renaming.
"""

from collections.abc import Iterator

from torch import Tensor

NORM = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
# MobileNetV3-small: does block 1, 2, ... 11 expand, does it squeeze (table 2 of arXiv 1905.02244)
SMALL_EXPANDS = (False,) + (True,) * 10
SMALL_SQUEEZES = (True, False, False) + (True,) * 8


def conv_module(prefix: str) -> Iterator[str]:
    yield f'{prefix}.conv.weight'
    yield from (f'{prefix}.bn.{tensor}' for tensor in NORM)


def shufflenet_v2() -> Iterator[str]:
    yield from conv_module('conv1')
    for stage, num_units in enumerate((4, 8, 4)):
        for unit in range(num_units):
            for branch, num_convs in (('branch1', 2 if unit == 0 else 0), ('branch2', 3)):
                for conv in range(num_convs):
                    yield from conv_module(f'layers.{stage}.{unit}.{branch}.{conv}')
    yield from conv_module('layers.3')


def mobilenet_v3_small() -> Iterator[str]:
    yield from conv_module('layer0')
    for number, (expands, squeezes) in enumerate(zip(SMALL_EXPANDS, SMALL_SQUEEZES, strict=True), start=1):
        if expands:
            yield from conv_module(f'layer{number}.expand_conv')
        yield from conv_module(f'layer{number}.depthwise_conv')
        if squeezes:
            yield from (f'layer{number}.se.conv{i}.conv.{tensor}' for i in (1, 2) for tensor in ('weight', 'bias'))
        yield from conv_module(f'layer{number}.linear_conv')
    yield from conv_module('layer12')


def mmpretrain_state_dict(torchvision_weights: dict[str, Tensor], names: Iterator[str]) -> dict[str, Tensor]:
    """Under ``backbone.``, and the classifier's under ``head.``."""
    tensors = iter(torchvision_weights.items())
    renamed = {f'backbone.{name}': next(tensors)[1] for name in names}
    return renamed | {f'head.{name}': tensor for name, tensor in tensors}
