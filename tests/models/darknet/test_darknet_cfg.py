"""Detectors from .cfg files: shapes and parameters by hand, training, prediction, equality with configs/yolov3."""

import pytest
import torch
import torch.nn.functional as F
from darknet_files import EVERY_SECTION, tiny, write, yolov3
from mmdet.structures import DetDataSample
from mmengine.registry import MODELS
from mmengine.structures import InstanceData

from mmyolo_ext.models.darknet import DarknetCfg
from mmyolo_ext.models.darknet.cfg import read_graph
from mmyolo_ext.models.darknet.network import ConvLayer, PoolLayer, ShortcutLayer


def build(folder, text: str = EVERY_SECTION, **kwargs) -> DarknetCfg:
    torch.manual_seed(0)
    return DarknetCfg(cfg_file=write(folder, text), **kwargs)


def batch(size_hw: tuple[int, int] = (64, 96), boxes: bool = True) -> tuple[torch.Tensor, list[DetDataSample]]:
    generator = torch.Generator().manual_seed(0)
    meta = {'img_shape': size_hw, 'ori_shape': size_hw, 'batch_input_shape': size_hw, 'scale_factor': (1.0, 1.0)}
    samples = []
    for index in range(2):
        sample = DetDataSample(metainfo=meta)
        rows = torch.tensor([[8.0, 12, 28, 52], [50, 20, 86, 40]][: 2 - index if boxes else 0]).reshape(-1, 4)
        sample.gt_instances = InstanceData(bboxes=rows, labels=torch.arange(len(rows)))
        samples.append(sample)
    return torch.rand(2, 3, *size_hw, generator=generator), samples


def test_shapes_by_hand(tmp_path) -> None:
    shapes = [tuple(layer.shape) for layer in read_graph(write(tmp_path, EVERY_SECTION)).layers]
    assert shapes == [
        (8, 64, 96),
        (8, 32, 48),
        (16, 16, 24),
        (16, 16, 24),
        (16, 16, 24),
        (8, 16, 24),
        (24, 16, 24),
        (24, 16, 24),
        (32, 8, 12),
        (32, 8, 12),
        (21, 8, 12),
        (21, 8, 12),
        (32, 8, 12),
        (32, 16, 24),
        (56, 16, 24),
        (16, 16, 24),
        (16, 16, 24),
        (21, 16, 24),
        (21, 16, 24),
        (16, 16, 24),
        (16, 16, 24),
    ]


def test_parameters_by_hand(tmp_path) -> None:
    expected = {
        'backbone.layers.0': 8 * 3 * 9 + 2 * 8,  # 232
        'backbone.layers.2': 16 * 8 * 9 + 2 * 16,  # 1184
        'backbone.layers.3': 16 * (16 // 4) * 9 + 2 * 16,  # 608
        'backbone.layers.6': 24 * 8 + 24,  # 216
        'backbone.layers.7': 3,  # a weight for each of three maps
        'backbone.layers.8': 32 * 24 * 9 + 2 * 32,  # 6976
        'backbone.layers.15': 16 * 56 + 2 * 16,  # 928
        'backbone.layers.16': 2 * 16,  # a weight for each channel of two maps
        'bbox_head.convs_pred.0': 21 * 32 + 21,  # 693
        'bbox_head.convs_pred.1': 21 * 16 + 21,  # 357
    }
    found = dict.fromkeys(expected, 0)
    for name, parameter in build(tmp_path).named_parameters():
        found['.'.join(name.split('.')[:3])] += parameter.numel()
    assert found == expected
    assert sum(found.values()) == 232 + 1184 + 608 + 216 + 3 + 6976 + 928 + 32 + 693 + 357 == 11229


def test_modules_have_the_shapes_of_the_graph(tmp_path) -> None:
    model = build(tmp_path).eval()
    seen = {}
    for name, module in model.backbone.layers.items():
        module.register_forward_hook(lambda _, __, out, name=name: seen.update({int(name): tuple(out.shape[1:])}))
    (pred_maps,) = model(torch.zeros(2, 3, 64, 96))
    for layer in model.graph.layers:
        if layer.index in seen:
            assert seen[layer.index] == layer.shape
    assert sorted(seen) == [i for i in range(17) if i not in (10, 11)]
    # 3 anchors x (5 + 2 classes)
    assert [tuple(level.shape) for level in pred_maps] == [(2, 21, 8, 12), (2, 21, 16, 24)]


def test_the_head_is_that_of_the_file(tmp_path) -> None:
    head = build(tmp_path).bbox_head
    assert head.strides == (8, 4)
    assert head.anchors_wh.tolist() == [[[20, 16], [30, 40], [60, 50]], [[4, 5], [8, 9], [12, 20]]]
    assert head.num_classes == 2
    # 2 of 80 classes, 3 levels of 2, 64 * 96 of 640 * 640 px
    expected = {'loss_cls': 2 / 80 * 1.5, 'loss_bbox': 1.5, 'loss_obj': 64 * 96 / 640**2 * 1.5}
    assert head.gains == pytest.approx(expected)


def test_forward_pass_by_hand(tmp_path) -> None:
    """The forward pass written out, layer by layer."""
    model = build(tmp_path).eval()
    x = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    layers = model.backbone.layers

    def norm_conv(i: int, x: torch.Tensor, **kwargs) -> torch.Tensor:
        # of a fresh norm in eval mode: mean 0, variance 1
        return F.conv2d(x, layers[str(i)].conv.weight, **kwargs) / (1 + 1e-5) ** 0.5

    with torch.no_grad():
        x1 = F.max_pool2d(F.leaky_relu(norm_conv(0, x, padding=1), 0.1), 2)
        x2 = F.silu(norm_conv(2, x1, stride=2, padding=1))
        x4 = F.mish(norm_conv(3, x2, padding=1, groups=4)) + x2
        x5 = x4[:, 8:]
        x6 = F.relu(F.conv2d(x5, layers['6'].conv.weight, layers['6'].conv.bias))
        x7 = x6.clone()  # weights of zero make factors of one
        x7[:, :8] += x5
        x7[:, :16] += x4
        x7 = F.leaky_relu(x7, 0.1)
        x8 = F.leaky_relu(norm_conv(8, x7, stride=2, padding=1), 0.1)
        x9 = F.pad(x8, (0, 1, 0, 1), mode='replicate')  # of a maximum, the last one twice is the last one
        x9 = F.max_pool2d(x9, 2, stride=1)
        x14 = torch.cat([x9.repeat_interleave(2, 2).repeat_interleave(2, 3), x7], dim=1)
        x16 = (norm_conv(15, x14).sigmoid() + x14[:, :16]) / 2  # softmax over two weights of zero
        first, second = model.backbone(x)
    torch.testing.assert_close(first, x9)
    torch.testing.assert_close(second, x16)


@pytest.mark.parametrize('boxes', [True, False])
def test_a_step_of_training_and_a_prediction(tmp_path, boxes: bool) -> None:
    build(tmp_path)
    model = MODELS.build({'type': 'mmyolo_ext.DarknetCfg', 'cfg_file': str(tmp_path / 'net.cfg')})
    model.init_weights()
    images, samples = batch(boxes=boxes)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = model.train().loss(images, samples)
    sum(losses[f'loss_{term}'] for term in ('cls', 'bbox', 'obj')).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    moved = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert {'backbone.layers.0.conv.weight', 'backbone.layers.7.weights', 'bbox_head.convs_pred.1.bias'} <= set(moved)
    model.eval()
    with torch.no_grad():
        results = model.predict(images, samples)
    for result in results:
        assert result.pred_instances.bboxes.isfinite().all()
        assert len(result.pred_instances) == len(result.pred_instances.scores) <= 300


def test_bias_start(tmp_path) -> None:
    model = build(tmp_path)
    model.init_weights()
    bias = model.bbox_head.convs_pred[0].bias.detach().view(3, 7)
    # log(8 / (640 / 8)^2), log(0.6 / (2 - 0.99))
    assert bias[:, 4].tolist() == pytest.approx([-6.68461] * 3, abs=1e-4)
    assert bias[:, 5:].flatten().tolist() == pytest.approx([-0.52078] * 6, abs=1e-4)


def test_other_classes_without_touching_the_file(tmp_path) -> None:
    model = build(tmp_path, bbox_head={'num_classes': 5})
    assert model.bbox_head.convs_pred[0].weight.shape == (3 * (5 + 5), 32, 1, 1)


def test_image_of_another_size_than_in_the_file(tmp_path) -> None:
    with torch.no_grad():
        (pred_maps,) = build(tmp_path).eval()(torch.zeros(1, 3, 32, 128))
    assert [tuple(level.shape[2:]) for level in pred_maps] == [(4, 16), (8, 32)]


@pytest.mark.parametrize(
    ('text', 'layers', 'size_of_file', 'numbers'),
    [(tiny(), 24, 35_434_956, 8_858_734), (yolov3(), 107, 248_007_048, 62_001_757)],
    ids=['tiny', 'yolov3'],
)
def test_published_networks(tmp_path, text: str, layers: int, size_of_file: int, numbers: int) -> None:
    with torch.device('meta'):
        model = build(tmp_path, text)
    names = ('running_mean', 'running_var')
    statistics = sum(b.numel() for name, b in model.named_buffers() if name.endswith(names))
    # the published file is a header of 20 bytes, and 4 for each number
    assert sum(p.numel() for p in model.parameters()) + statistics == (size_of_file - 20) // 4 == numbers
    assert len(model.graph.layers) == layers


def test_tiny_cfg_equals_the_python_config(tmp_path) -> None:
    """The .cfg file and the components of configs/yolov3 predict the same with the same weights."""
    cfg_model = build(tmp_path, tiny(classes=3)).eval()
    other = MODELS.build(
        {
            'type': 'mmyolo_ext.YOLODetector',
            'backbone': {'type': 'mmyolo_ext.TinyDarknet'},
            'neck': {'type': 'mmyolo_ext.YOLOv3TinyFPN', 'in_channels': 'auto'},
            'bbox_head': {
                **{'type': 'mmyolo_ext.YOLOv3Head', 'num_classes': 3, 'in_channels': 'auto'},
                'prior_generator': {
                    'type': 'mmdet.YOLOAnchorGenerator',
                    'base_sizes': [[(10, 14), (23, 27), (37, 58)], [(81, 82), (135, 169), (344, 319)]],
                    'strides': [16, 32],
                },
            },
        }
    ).eval()
    stages = {'0.0': 0, '1.1': 2, '2.1': 4, '3.1': 6, '4.1': 8, '5.1': 10, '5.3': 12}
    pairs = {f'backbone.layers.{stage}': f'backbone.layers.{i}' for stage, i in stages.items()}
    pairs |= {'neck.reduce': 'backbone.layers.13', 'neck.out_convs.1': 'backbone.layers.14'}
    pairs |= {'neck.laterals.0': 'backbone.layers.18', 'neck.out_convs.0': 'backbone.layers.21'}
    pairs |= {'bbox_head.convs_pred.0': 'bbox_head.convs_pred.1', 'bbox_head.convs_pred.1': 'bbox_head.convs_pred.0'}
    for ours, theirs in pairs.items():
        other.get_submodule(ours).load_state_dict(cfg_model.get_submodule(theirs).state_dict())
    x = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for ours, theirs in zip(other(x), cfg_model(x), strict=True):
            for shallow_first, deep_first in zip(ours, theirs[::-1], strict=True):
                torch.testing.assert_close(shallow_first, deep_first)


@pytest.mark.parametrize(
    ('size', 'stride', 'padding', 'expected'),
    [
        # size - 1 cells of padding, the odd one at the end: of 5 values 3, 1, 4, 1, 5 the maxima of
        (2, 2, 1, [3, 4, 5]),  # (3, 1) (4, 1) (5, -)
        (2, 1, 1, [3, 4, 4, 5, 5]),  # (3, 1) (1, 4) (4, 1) (1, 5) (5, -)
        (3, 1, 2, [3, 4, 4, 5, 5]),  # (-, 3, 1) (3, 1, 4) (1, 4, 1) (4, 1, 5) (1, 5, -)
        (3, 2, 0, [4, 5]),  # (3, 1, 4) (4, 1, 5)
    ],
)
def test_pool_by_hand(size: int, stride: int, padding: int, expected: list[int]) -> None:
    row = torch.tensor([3.0, 1, 4, 1, 5])
    pooled = PoolLayer(size, (stride, stride), padding)(-10 + row.expand(1, 1, 5, 5))
    assert (pooled[0, 0, 0] + 10).tolist() == expected


@pytest.mark.parametrize(
    ('normalization', 'weights', 'expected'),
    [
        # 2 sigma(0) = 1; 2 sigma(ln 3) = 3/2
        ('sigmoid', [0.0, 1.0986123], [1.0, 1.5]),
        # sigma(0) * 2/2 = 1/2; sigma(ln 3) * 2/2 = 3/4
        ('sigmoid_mean', [0.0, 1.0986123], [0.5, 0.75]),
        # e^0 : e^ln 3 = 1 : 3
        ('softmax', [0.0, 1.0986123], [0.25, 0.75]),
        # max(w, 0) over their sum, 2 / 2.0001
        ('relu', [-1.0, 2.0], [0.0, 0.99995]),
        ('none', [-1.0, 2.0], [-1.0, 2.0]),
    ],
)
def test_shortcut_weights_by_hand(normalization: str, weights: list[float], expected: list[float]) -> None:
    layer = ShortcutLayer(2, 3, 'linear', 'per_feature', normalization)
    with torch.no_grad():
        layer.weights.copy_(torch.tensor(weights)[:, None])
    assert layer.factors().flatten().tolist() == pytest.approx(expected, abs=1e-6)
    # of unequal width: three channels plus two
    total = layer(torch.full((1, 3, 1, 1), 10.0), torch.full((1, 2, 1, 1), 100.0)).flatten().tolist()
    first, second = expected
    assert total == pytest.approx([10 * first + 100 * second] * 2 + [10 * first], rel=1e-5)


@pytest.mark.parametrize('weights_type', ['per_feature', 'per_channel'])
def test_sigmoid_shortcut_is_initially_the_sum(weights_type: str) -> None:
    maps = torch.rand(3, 2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    layer = ShortcutLayer(3, 4, 'linear', weights_type, 'sigmoid')
    torch.testing.assert_close(layer(*maps), maps.sum(0))


@pytest.mark.parametrize('weights_type', ['per_feature', 'per_channel'])
def test_sigmoid_mean_shortcut_is_initially_the_mean(weights_type: str) -> None:
    maps = torch.rand(3, 2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    layer = ShortcutLayer(3, 4, 'linear', weights_type, 'sigmoid_mean')
    torch.testing.assert_close(layer(*maps), maps.mean(0))
    with torch.no_grad():
        layer.weights.fill_(1.0986123)
    torch.testing.assert_close(layer.factors(), torch.full_like(layer.weights, 0.75 * 2 / 3))


def test_default_normalization_of_shortcuts(tmp_path) -> None:
    """Layer 7 has no such field, layer 16 has softmax."""
    layers = build(tmp_path, weights_normalization='sigmoid_mean').backbone.layers
    assert (layers['7'].normalization, layers['16'].normalization) == ('sigmoid_mean', 'softmax')
    assert build(tmp_path).backbone.layers['7'].normalization == 'sigmoid'
    with pytest.raises(ValueError, match="weights_normalization must be one of .*'sigmoid_mean'.* got 'mean'"):
        build(tmp_path, weights_normalization='mean')


def test_byte_order_mark_is_skipped(tmp_path) -> None:
    (tmp_path / 'net.cfg').write_bytes(b'\xef\xbb\xbf' + EVERY_SECTION.encode())
    assert len(read_graph(tmp_path / 'net.cfg').layers) == 21


def test_strides_of_rows_and_columns(tmp_path) -> None:
    """64 x 96 px: a convolution halves the rows, a pool the columns; then both by 4, for one stride of 8."""
    conv = '[convolutional]\nfilters=4\nsize=3\npad=1\nactivation=leaky\nstride=4\n'
    text = (
        '[net]\nwidth=96\nheight=64\n'
        + conv.replace('stride=4', 'stride=2\nstride_x=1')
        + '[maxpool]\nsize=2\nstride=2\nstride_y=1\n'
        + conv
        + '[convolutional]\nfilters=6\nactivation=linear\n[yolo]\nanchors=4,5\nclasses=1\n'
    )
    model = build(tmp_path, text).eval()
    assert [tuple(layer.shape) for layer in model.graph.layers[:3]] == [(4, 32, 96), (4, 32, 48), (4, 8, 12)]
    assert model.graph.levels[0].stride == 8
    with torch.no_grad():
        assert model.backbone(torch.zeros(1, 3, 64, 96))[0].shape == (1, 4, 8, 12)


def test_dropout(tmp_path) -> None:
    """In training, kept values are multiplied by 1 / (1 - 0.5) = 2."""
    text = EVERY_SECTION.replace(
        '[maxpool]  # 9: 32 x 8 x 12\nsize=2\nstride=1\npadding=1', '[dropout]\nprobability=.5'
    )
    layer = build(tmp_path, text).backbone.layers['9']
    x = torch.ones(1, 32, 8, 12)
    assert torch.equal(layer.eval()(x), x)
    torch.manual_seed(0)
    dropped = layer.train()(x)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert 0.9 < dropped.mean() < 1.1


@pytest.mark.parametrize('groups', [1, 8])
def test_mixed_convolution_by_hand(groups: int) -> None:
    """8 filters over kernels of 3, 5 and 7: 4, 2 and 2 of them."""
    layer = ConvLayer(8, 8, (3, 5, 7), (2, 2), (1, 2, 3), groups, False, 'linear', {})
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 8, 9, 11, generator=generator)
    with torch.no_grad():
        layer.conv.bias.copy_(torch.arange(8.0))
        parts = []
        for (start, end), size, conv in zip(((0, 4), (4, 6), (6, 8)), (3, 5, 7), layer.conv.convs, strict=True):
            assert conv.weight.shape == (end - start, 8 // groups, size, size)
            given = x if groups == 1 else x[:, start:end]
            parts.append(F.conv2d(given, conv.weight, None, 2, size // 2, 1, 1 if groups == 1 else end - start))
        torch.testing.assert_close(layer(x), torch.cat(parts, 1) + torch.arange(8.0)[:, None, None])


def test_start_objectness(tmp_path) -> None:
    model = build(tmp_path, bbox_head={'start_objectness': -4.5})
    model.init_weights()
    for conv in model.bbox_head.convs_pred:
        bias = conv.bias.detach().view(3, 7)
        assert bias[:, 4].tolist() == [-4.5] * 3
        assert bias[:, 5:].flatten().tolist() == pytest.approx([-0.52078] * 6, abs=1e-4)


def test_epsilon_of_the_norms(tmp_path) -> None:
    model = build(tmp_path, norm_cfg={'type': 'BN', 'momentum': 0.03, 'eps': 1e-4})
    assert {layer.bn.eps for layer in model.backbone.layers.values() if getattr(layer, 'bn', None)} == {1e-4}
