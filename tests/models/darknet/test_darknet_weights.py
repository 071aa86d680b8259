"""Darknet's .weights files: the layout by hand, round trips to the last bit, files that end too early or too late."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from darknet_files import EVERY_SECTION, tiny, write

from mmyolo_ext.models.darknet import DarknetCfg

# EVERY_SECTION's layers as they stand in a file: (number of layer, numbers of each part)
LAYOUT = [
    (0, [8, 8, 8, 8, 8 * 3 * 9]),
    (2, [16, 16, 16, 16, 16 * 8 * 9]),
    (3, [16, 16, 16, 16, 16 * 4 * 9]),
    (6, [24, 24 * 8]),
    (7, [3]),
    (8, [32, 32, 32, 32, 32 * 24 * 9]),
    (10, [21, 21 * 32]),
    (15, [16, 16, 16, 16, 16 * 56]),
    (16, [2 * 16]),
    (17, [21, 21 * 16]),
]
TOTAL = sum(sum(parts) for _, parts in LAYOUT)


def build(folder: Path, text: str = EVERY_SECTION, seed: int = 0, **kwargs) -> DarknetCfg:
    """Return a detector with random values everywhere."""
    model = DarknetCfg(cfg_file=write(folder, text), **kwargs)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if tensor.dtype == torch.float32 and 'weights_of_levels' not in name:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    return model


def file_of(folder: Path, numbers: np.ndarray, header: bytes | None = None, name: str = 'net.weights') -> Path:
    path = folder / name
    path.write_bytes((header or struct.pack('<3iQ', 0, 2, 5, 1234567)) + numbers.astype('<f4').tobytes())
    return path


def test_layout_by_hand(tmp_path) -> None:
    model = build(tmp_path)
    assert model.load_weights(file_of(tmp_path, np.arange(TOTAL))) == 1234567
    start, parts_of = 0, {}
    for layer, sizes in LAYOUT:
        parts_of[layer] = np.split(np.arange(start, start + sum(sizes)), np.cumsum(sizes)[:-1])
        start += sum(sizes)
    state = model.state_dict()
    for layer, names in {
        0: ['bn.bias', 'bn.weight', 'bn.running_mean', 'bn.running_var', 'conv.weight'],
        3: ['bn.bias', 'bn.weight', 'bn.running_mean', 'bn.running_var', 'conv.weight'],
        6: ['conv.bias', 'conv.weight'],
        7: ['weights'],
        15: ['bn.bias', 'bn.weight', 'bn.running_mean', 'bn.running_var', 'conv.weight'],
        16: ['weights'],
    }.items():
        for name, numbers in zip(names, parts_of[layer], strict=True):
            assert state[f'backbone.layers.{layer}.{name}'].flatten().tolist() == numbers.tolist()
    for level, layer in enumerate((10, 17)):
        for name, numbers in zip(['bias', 'weight'], parts_of[layer], strict=True):
            assert state[f'bbox_head.convs_pred.{level}.{name}'].flatten().tolist() == numbers.tolist()


def test_round_trip_to_the_last_bit(tmp_path) -> None:
    first, second = build(tmp_path, seed=1), build(tmp_path, seed=2)
    first.save_weights(tmp_path / 'a.weights', seen=2**40)
    assert second.load_weights(tmp_path / 'a.weights') == 2**40
    for (name, ours), theirs in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    second.save_weights(tmp_path / 'b.weights', seen=2**40)
    content = (tmp_path / 'a.weights').read_bytes()
    assert content == (tmp_path / 'b.weights').read_bytes()
    assert len(content) == 20 + 4 * TOTAL


def test_tiny_file_has_the_published_size(tmp_path) -> None:
    model = DarknetCfg(cfg_file=write(tmp_path, tiny()))
    model.save_weights(tmp_path / 'tiny.weights')
    assert (tmp_path / 'tiny.weights').stat().st_size == 35_434_956


def test_old_header_counts_images_in_32_bits(tmp_path) -> None:
    model = build(tmp_path)
    assert model.load_weights(file_of(tmp_path, np.arange(TOTAL), struct.pack('<3iI', 0, 1, 0, 99))) == 99
    assert model.backbone.layers['0'].bn.bias.tolist() == list(range(8))


@pytest.mark.parametrize('count', [0, 247, TOTAL - 1, TOTAL + 3])
def test_a_file_of_the_wrong_length_changes_nothing(tmp_path, count: int) -> None:
    model = build(tmp_path)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=rf'has {count} values, the first .* {TOTAL}: the file is trunc'):
        model.load_weights(file_of(tmp_path, np.arange(count)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'\0' * 15,
        struct.pack('<3iI', 0, 2, 5, 0),
        struct.pack('<3iQ', 0, 2, 5, 0) + b'\0\0',
        b'PK\3\4' + b'x' * 60,
    ],
)
def test_another_file(tmp_path, content: bytes) -> None:
    model = build(tmp_path)
    (tmp_path / 'net.weights').write_bytes(content)
    with pytest.raises(ValueError, match='is not a Darknet .weights file'):
        model.load_weights(tmp_path / 'net.weights')


def test_first_layers_alone(tmp_path) -> None:
    """As in partial files for fine-tuning, whose name has the number of layers."""
    count = 248 + 1216 + 640  # layers 0, 2 and 3
    model = build(tmp_path)
    before = model.backbone.layers['6'].conv.weight.clone()
    model.load_weights(file_of(tmp_path, np.arange(count), name='net.conv.4'))
    assert model.backbone.layers['3'].conv.weight.flatten()[-1] == count - 1
    assert torch.equal(model.backbone.layers['6'].conv.weight, before)
    with pytest.raises(ValueError, match=rf'has {count} values, the first 3 layers of .* {248 + 1216}: the file'):
        model.load_weights(file_of(tmp_path, np.arange(count), name='net.conv.3'))


def test_start_from_a_file_with_other_classes(tmp_path) -> None:
    path = file_of(tmp_path, np.arange(TOTAL))
    model = DarknetCfg(write(tmp_path, EVERY_SECTION), bbox_head={'num_classes': 5}, weights=path)
    model.init_weights()
    assert model.backbone.layers['7'].weights.flatten().tolist() == [2320, 2321, 2322]
    assert model.backbone.layers['16'].weights.flatten()[-1] == TOTAL - 21 * 17 - 1
    assert model.bbox_head.convs_pred[0].weight.abs().max() < 1
    with pytest.raises(ValueError, match='layer 10 .*differs in this detector'):
        model.save_weights(tmp_path / 'other.weights')


def test_weights_need_a_batch_norm(tmp_path) -> None:
    model = DarknetCfg(write(tmp_path, EVERY_SECTION), norm_cfg={'type': 'GN', 'num_groups': 4})
    with pytest.raises(ValueError, match='layer 0 .*differs in this detector'):
        model.save_weights(tmp_path / 'other.weights')


@pytest.mark.parametrize('groups', [1, 4])
def test_layout_of_a_mixed_convolution(tmp_path, groups: int) -> None:
    """The norm's four rows of 4 filters, then the kernels of 3 (2 + 0 of 4 filters) and 5 one after the other."""
    first = '[convolutional]\nfilters=4\nsize=1\nactivation=linear\n'
    mixed = f'[convolutional]\nbatch_normalize=1\nfilters=4\nsize=3,5\npad=1\ngroups={groups}\nactivation=leaky\n'
    predicting = '[convolutional]\nfilters=6\nactivation=linear\n[yolo]\nanchors=4,5\nclasses=1\n'
    text = '[net]\nwidth=64\nheight=64\n' + first + mixed + predicting
    model = build(tmp_path, text)
    model.save_weights(tmp_path / 'net.weights')
    numbers = np.frombuffer((tmp_path / 'net.weights').read_bytes(), '<f4', offset=20)
    per_filter = 4 // groups
    # 4 + 4 * 3, the mixed layer, 6 + 6 * 4
    assert len(numbers) == 16 + 4 * 4 + 2 * per_filter * 9 + 2 * per_filter * 25 + 30
    convs = model.backbone.layers['1'].conv.convs
    start = 16 + 16
    for conv, side in zip(convs, (3, 5), strict=True):
        end = start + 2 * per_filter * side * side
        np.testing.assert_array_equal(numbers[start:end], conv.weight.detach().numpy().ravel())
        start = end
    other = build(tmp_path, text, seed=1)
    other.load_weights(tmp_path / 'net.weights')
    for name, value in model.state_dict().items():
        if 'num_batches' not in name:
            assert torch.equal(other.state_dict()[name], value), name
