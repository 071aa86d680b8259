"""Weights of any YOLOv5 network, from one naming to another and back; what does not fit is named."""

from collections import OrderedDict

import pytest
import torch
from torch import Tensor
from yolov5_networks import build_small

from mmyolo_ext.checkpoint.conversion import convert, detect
from mmyolo_ext.checkpoint.network import describe, find_deepen_factor, find_widen_factor
from mmyolo_ext.checkpoint.pickle_objects import StandIn, stand_in_class
from mmyolo_ext.checkpoint.ultralytics import model_yaml, to_ultralytics
from mmyolo_ext.models.layers import scaled_depth, scaled_width

KINDS = [('P5', 'v6'), ('P5', 'v5'), ('P6', 'v6'), ('P6', 'v5')]


@pytest.mark.parametrize(('arch', 'version'), KINDS)
def test_to_ultralytics_and_back(arch: str, version: str) -> None:
    detector = build_small(arch, version, depth=0.67)
    ours = detector.state_dict()
    # (levels, A, 2) px
    network = describe(ours, {'anchors': detector.bbox_head.anchors_wh.tolist()})
    # 0.12 gives the channels that 0.125 gave: 64 x 0.12 = 7.7 -> 8, 1024 x 0.12 = 122.9 -> 128
    assert (network.arch, network.version, network.deepen_factor, network.widen_factor) == (arch, version, 0.67, 0.12)
    there = to_ultralytics(ours, network)
    numbers = {int(name.split('.')[1]) for name in there}
    assert (min(numbers), max(numbers)) == (0, 24 if arch == 'P5' else 33)
    # anchors alone are new
    assert len(there) == len(ours) + (2 if version == 'v5' else 1)
    back = convert(there)
    assert back.network == network
    assert sorted(back.state_dict) == sorted(ours)
    for name, tensor in ours.items():
        assert torch.equal(back.state_dict[name], tensor) and back.state_dict[name].dtype == tensor.dtype, name


def test_a_state_dict_of_ultralytics_under_a_key() -> None:
    there = to_ultralytics(state := build_small('P5', 'v6').state_dict(), describe(state))
    for content in ({'model': OrderedDict(there), 'epoch': 3}, {'state_dict': there}, there):
        assert detect(content) == 'ultralytics'
        assert len(convert(content).state_dict) == len(state)


def pickled(state_dict: dict[str, Tensor], kind: str = 'DetectionModel', **changed: object) -> StandIn:
    """The stand-in for a model that has such a state dict."""
    root = module(kind)
    for name, tensor in state_dict.items():
        *path, last = name.split('.')
        inner = root
        for part in path:
            inner = inner.state['_modules'].setdefault(part, module({'bn': 'BatchNorm2d'}.get(part, 'Conv')))
        inner.state['_buffers'][last] = tensor
    root.state.update(changed)
    return root


def module(kind: str) -> StandIn:
    made = stand_in_class('models.yolo', kind)()
    made.state = {'_modules': {}, '_parameters': {}, '_buffers': {}}
    return made


@pytest.fixture
def there() -> dict[str, Tensor]:
    state = build_small('P5', 'v6').state_dict()
    return to_ultralytics(state, describe(state))


def test_a_pickled_model(there: dict[str, Tensor]) -> None:
    model = pickled(there, names={1: 'dog', 0: 'cat'}, stride=torch.tensor([8.0, 16.0, 32.0]))
    wrapped = module('DataParallel')
    wrapped.state['_modules']['module'] = model
    for content in ({'model': model}, {'ema': model, 'model': module('Broken')}, {'model': wrapped}, model):
        converted = convert(content)
        assert converted.source == 'ultralytics' and converted.network.classes == ('cat', 'dog')


def test_models_that_our_network_is_not(there: dict[str, Tensor]) -> None:
    def stopped(message: str, **changed: object) -> None:
        with pytest.raises(ValueError, match=message):
            convert({'model': pickled(there, **changed)})

    model = pickled(there)
    first = model.state['_modules']['model'].state['_modules']['0'].state['_modules']
    first['act'] = stand_in_class('torch.nn.modules.activation', 'Hardswish')()
    with pytest.raises(ValueError, match=r'model\.0\.act is Hardswish'):
        convert({'model': model})
    del first['act']
    first['bn'].state['eps'] = 1e-5
    with pytest.raises(ValueError, match=r'model\.0\.bn has eps 1e-05'):
        convert({'model': model})
    del first['bn'].state['eps']
    stopped('the strides must be', stride=torch.tensor([4.0, 8.0, 16.0]))
    stopped('has 2 classes, the file names 3', names=['a', 'b', 'c'])


# number: of the pyramid's layer. Release 5 pools by 5, 9, 13 where the last stride is 32, by 3, 5, 7 at 64.
@pytest.mark.parametrize(
    ('arch', 'number', 'ours', 'other'), [('P5', 8, (5, 9, 13), (3, 5, 7)), ('P6', 10, (3, 5, 7), (5, 9, 13))]
)
def test_the_pools_of_release_5(arch: str, number: int, ours: tuple, other: tuple) -> None:
    detector = build_small(arch, 'v5')
    network = describe(detector.state_dict())
    there = to_ultralytics(detector.state_dict(), network)

    def with_pools(sizes: tuple[int, ...]) -> dict:
        model = pickled(there)
        pyramid = model.state['_modules']['model'].state['_modules'][str(number)]
        pyramid.__class__ = stand_in_class('models.common', 'SPP')
        pools = pyramid.state['_modules']['m'] = module('ModuleList')
        for place, size in enumerate(sizes):
            pools.state['_modules'][str(place)] = pool = stand_in_class('torch.nn.modules.pooling', 'MaxPool2d')()
            pool.state = {'kernel_size': size}
        return {'model': model}

    converted = convert(with_pools(ours))
    assert (converted.network.arch, converted.network.version) == (arch, 'v5')
    detector.load_state_dict(converted.state_dict)
    # the pools of the network are those of its yaml and of the file
    pyramid = detector.backbone.layers[-1][1]
    assert tuple(pool.kernel_size for pool in pyramid.poolings) == ours
    assert f'[-1, 1, "SPP", [1024, {list(ours)}]]' in model_yaml(network)
    with pytest.raises(ValueError, match=rf'model\.{number} \(SPP\) pools by .{other[0]}, .* our network of'):
        convert(with_pools(other))


def test_names_and_shapes_that_do_not_fit(there: dict[str, Tensor]) -> None:
    def stopped(message: str, weights: dict[str, Tensor]) -> None:
        with pytest.raises(ValueError, match=message):
            convert(weights)

    stopped('segmentation', {**there, 'model.24.proto.cv1.conv.weight': torch.zeros(1)})
    stopped(r'model\.11\.conv\.weight is not part of YOLOv5', {**there, 'model.11.conv.weight': torch.zeros(1)})
    stopped(r'model\.2\.cv9\.x is not part', {**there, 'model.2.cv9.x': torch.zeros(1)})
    stopped('fused', {name: value for name, value in there.items() if '.bn.' not in name})
    stopped('has the number 23', {name: value for name, value in there.items() if not name.startswith('model.24')})
    fewer = {name: value for name, value in there.items() if not name.startswith('model.4.m.1')}
    stopped('blocks .* are not .* times one factor', fewer)
    stopped('channels .* are not', {**there, 'model.5.conv.weight': torch.zeros(100, 32, 3, 3)})
    stopped('the backbone is not that of YOLOv5', {k: v for k, v in there.items() if not k.startswith('model.5.')})
    stopped('outputs, not 3 x', {**there, 'model.24.m.1.weight': torch.zeros(22, 64, 1, 1)})
    with pytest.raises(ValueError, match='holds 1 tensors, layer1'):
        convert({'layer1.weight': torch.zeros(1)})
    with pytest.raises(ValueError, match='holds no tensors by name, but an object of int'):
        convert(3)
    with pytest.raises(ValueError, match='no model of Ultralytics'):
        convert({'layer1.weight': torch.zeros(1)}, 'ultralytics')


def mmyolo_names(ours: dict[str, Tensor], levels: int) -> dict[str, Tensor]:
    """Written from the names in the golden file; a table by hand, for three levels."""
    assert levels == 3
    table = [
        ('backbone.layers.0.', 'backbone.stem.'),
        *((f'backbone.layers.{stage}.', f'backbone.stage{stage}.') for stage in range(1, 5)),
        ('neck.reduce_layers.1.', 'neck.reduce_layers.2.'),
        ('neck.reduce_layers.0.', 'neck.top_down_layers.0.1.'),
        ('neck.top_down_layers.1.', 'neck.top_down_layers.0.0.'),
        ('neck.top_down_layers.0.', 'neck.top_down_layers.1.'),
        ('neck.', 'neck.'),
        ('bbox_head.', 'bbox_head.head_module.'),
    ]
    renamed = {}
    for name, tensor in ours.items():
        here, other = next(pair for pair in table if name.startswith(pair[0]))
        renamed[other + name.removeprefix(here)] = tensor
    return renamed


def test_mmyolo_with_facts_in_meta() -> None:
    ours = build_small('P5', 'v6').state_dict()
    weights = {f'module.{name}': tensor for name, tensor in mmyolo_names(ours, 3).items()}
    anchors = [[(1, 2), (3, 4), (5, 6)], [(7, 8), (9, 10), (11, 12)], [(13, 14), (15, 16), (17, 18.5)]]
    config = f'import os\nmodel = dict(bbox_head=dict(prior_generator=dict(base_sizes={anchors}, strides=[8])))\n'
    meta = {'cfg': config, 'dataset_meta': {'CLASSES': ('cat', 'dog')}}
    converted = convert({'meta': meta, 'state_dict': weights})
    assert (converted.source, converted.has_anchors) == ('mmyolo', True)
    assert converted.network.anchors[2][2] == (17, 18.5) and converted.network.classes == ('cat', 'dog')
    assert sorted(converted.state_dict) == sorted(ours)
    assert all(torch.equal(converted.state_dict[name], tensor) for name, tensor in ours.items())


@pytest.mark.parametrize('config', ['model = dict(base_sizes=open("x"))', 'not python (', 'base_sizes = 3', None])
def test_a_config_is_never_executed(config: str | None) -> None:
    weights = mmyolo_names(build_small('P5', 'v6').state_dict(), 3)
    converted = convert({'meta': {'cfg': config}, 'state_dict': weights})
    assert not converted.has_anchors
    assert converted.network.anchors[0] == ((10, 13), (16, 30), (33, 23))


def test_factors_are_those_of_our_layers() -> None:
    for factor in (0.125, 0.25, 0.33, 0.5, 0.67, 1.0, 1.25):
        channels = [scaled_width(base, factor) for base in (64, 128, 256, 512, 768, 1024)]
        found = find_widen_factor((64, 128, 256, 512, 768, 1024), channels)
        assert [scaled_width(base, found) for base in (64, 128, 256, 512, 768, 1024)] == channels
    for factor in (0.1, 0.33, 0.5, 0.67, 1.0, 1.33, 2.0):
        blocks = [scaled_depth(base, factor) for base in (3, 6, 9, 3)]
        found = find_deepen_factor((3, 6, 9, 3), blocks)
        assert [scaled_depth(base, found) for base in (3, 6, 9, 3)] == blocks
    # the factor in the file is preferred to common ones if it fits: 64 x 0.26 = 16.6 -> 24
    assert find_widen_factor((64,), (24,), stated=0.26) == 0.26
    assert find_widen_factor((64,), (24,), stated=0.25) == 0.26
