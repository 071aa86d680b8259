"""Our weights as Ultralytics YOLOv5 takes them: a state dict in its names, and the ``.yaml`` of its model."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmyolo_ext.weights.network import NECK_DEPTH, POOLS, STAGE_DEPTHS, STAGE_WIDTHS, Network
from mmyolo_ext.weights.ultralytics_names import from_ours, head_number

# channels of the neck's outputs at full width
OUT_WIDTHS = {3: (256, 512, 1024), 4: (256, 512, 768, 1024)}


def to_ultralytics(state_dict: Mapping[str, Tensor], network: Network) -> dict[str, Tensor]:
    """Every tensor under its name there, bit by bit the same, and the buffers that its head holds: the anchors.

    Raises:
        ValueError: a tensor that YOLOv5 does not have.
    """
    renamed = from_ours(state_dict, network.levels, network.version)
    head = f'model.{head_number(network.levels)}'
    # (levels, A, 2) px
    anchors = torch.tensor(network.anchors, dtype=torch.float32)
    renamed[f'{head}.anchors'] = anchors / torch.tensor(network.strides).view(-1, 1, 1)
    if network.version == 'v5':
        # (levels, 1, A, 1, 1, 2) px
        renamed[f'{head}.anchor_grid'] = anchors[:, None, :, None, None]
    return renamed


def model_yaml(network: Network) -> str:
    """The text of the ``.yaml`` from which Ultralytics builds this network; one layer a line."""
    anchors = [[side for prior in level for side in prior] for level in network.anchors]
    lines = [
        f'nc: {network.num_classes}',
        f'depth_multiple: {network.deepen_factor}',
        f'width_multiple: {network.widen_factor}',
        'anchors:',
        *(f'  - {_text(level)}' for level in anchors),
        'backbone:  # from, number, module, arguments',
        *(f'  - {_text(layer)}' for layer in backbone_layers(network)),
        'head:',
        *(f'  - {_text(layer)}' for layer in head_layers(network.levels)),
    ]
    if network.classes:
        lines += ['names:', *(f'  {number}: {_quoted(name)}' for number, name in enumerate(network.classes))]
    return '\n'.join(lines) + '\n'


def backbone_layers(network: Network) -> list[list[Any]]:
    """(from, number, module, arguments) of the layers of the backbone, at full width and depth."""
    is_v5 = network.version == 'v5'
    widths, depths = STAGE_WIDTHS[network.levels], STAGE_DEPTHS[network.version, network.levels]
    rows: list[list[Any]] = [[-1, 1, 'Focus', [widths[0], 3]] if is_v5 else [-1, 1, 'Conv', [widths[0], 6, 2, 2]]]
    for width, depth in zip(widths[1:], depths, strict=True):
        rows += [[-1, 1, 'Conv', [width, 3, 2]], [-1, depth, 'C3', [width]]]
    pools = list(POOLS[network.version, network.levels])
    if is_v5:
        rows[-1:] = [[-1, 1, 'SPP', [widths[-1], pools]], [-1, depths[-1], 'C3', [widths[-1], False]]]
    else:
        rows.append([-1, 1, 'SPPF', [widths[-1], *pools]])
    return rows


def head_layers(levels: int) -> list[list[Any]]:
    """(from, number, module, arguments) of neck and head."""
    widths = OUT_WIDTHS[levels]
    start = 2 * levels + 4
    rows: list[list[Any]] = []
    for joint in reversed(range(levels - 1)):
        # the block of a stage stands right after its convolution
        lateral = 2 * (joint + 2)
        rows += [
            [-1, 1, 'Conv', [widths[joint], 1, 1]],
            [-1, 1, 'nn.Upsample', ['None', 2, 'nearest']],
            [[-1, lateral], 1, 'Concat', [1]],
            [-1, NECK_DEPTH, 'C3', [widths[joint], False]],
        ]
    outputs = [start + len(rows) - 1]
    for joint in range(levels - 1):
        reduced = start + 4 * (levels - 2 - joint)
        rows += [
            [-1, 1, 'Conv', [widths[joint], 3, 2]],
            [[-1, reduced], 1, 'Concat', [1]],
            [-1, NECK_DEPTH, 'C3', [widths[joint + 1], False]],
        ]
        outputs.append(start + len(rows) - 1)
    return [*rows, [outputs, 1, 'Detect', ['nc', 'anchors']]]


def _text(value: Any) -> str:
    return '[' + ', '.join(map(_text, value)) + ']' if isinstance(value, list) else str(value)


def _quoted(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"
