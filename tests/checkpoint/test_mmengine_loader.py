"""Check that training and test read any checkpoint, report what is loaded, and stop where nothing fits."""

import os
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import CheckpointLoader, Runner
from mmengine.runner.checkpoint import get_external_models, get_mmcls_models
from torch import nn
from yolov5_networks import build_small

from mmyolo_ext.apis import Detector
from mmyolo_ext.checkpoint import mmengine_loader as reader
from mmyolo_ext.checkpoint.matching import fit
from mmyolo_ext.checkpoint.mmengine_loader import install_reader, read_weights
from mmyolo_ext.checkpoint.network import describe
from mmyolo_ext.checkpoint.resuming import read_resumable
from mmyolo_ext.checkpoint.ultralytics import to_ultralytics


class Intruder:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f'touch {self.marker}',)


@pytest.fixture(scope='module')
def weights() -> dict[str, torch.Tensor]:
    return build_small('P5', 'v6').state_dict()


@pytest.fixture
def foreign(tmp_path: Path, weights: dict) -> str:
    path = tmp_path / 'foreign.pt'
    torch.save({'model': to_ultralytics(weights, describe(weights)), 'epoch': -1}, path)
    return str(path)


def runner_of(tmp_path: Path, model: nn.Module, mode: str = 'train', **settings) -> Runner:
    """A runner that comes as far as loading; its hooks are those of every config of ours."""
    loop = {'train_cfg': {'by_epoch': True, 'max_epochs': 1}, 'train_dataloader': loader()}
    loop['optim_wrapper'] = {'type': 'OptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 0.1}}
    runner = Runner(
        model=model,
        work_dir=str(tmp_path / 'run'),
        **(loop if mode == 'train' else {}),
        custom_hooks=[{'type': 'mmyolo_ext.PreflightHook'}],
        default_scope='mmdet',
        experiment_name=f'{tmp_path.name}_{mode}_{len(os.listdir(tmp_path))}',
        cfg=Config({}),
        **settings,
    )
    if mode == 'train':
        runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.call_hook('before_run')
    runner.load_or_resume()
    return runner


def loader() -> dict:
    dataset = torch.utils.data.TensorDataset(torch.zeros(2))
    return {'dataset': dataset, 'sampler': {'type': 'DefaultSampler', 'shuffle': False}, 'batch_size': 1}


def zeroed(classes: int = 2) -> nn.Module:
    model = build_small('P5', 'v6', classes=classes)
    for tensor in model.state_dict().values():
        tensor.zero_()
    return model


def test_load_from_a_checkpoint_of_ultralytics(tmp_path: Path, foreign: str, weights: dict) -> None:
    given = runner_of(tmp_path, zeroed(), load_from=foreign).model.state_dict()
    assert all(torch.equal(given[name], tensor) for name, tensor in weights.items())


def test_a_test_takes_it_too(tmp_path: Path, foreign: str, weights: dict) -> None:
    given = runner_of(tmp_path, zeroed(), 'test', load_from=foreign).model.state_dict()
    assert torch.equal(given['bbox_head.convs_pred.0.weight'], weights['bbox_head.convs_pred.0.weight'])


def test_other_classes_start_anew_and_it_is_said(tmp_path: Path, foreign: str, weights: dict) -> None:
    model = zeroed(classes=3)
    runner = runner_of(tmp_path, model, load_from=foreign)
    log = (tmp_path / 'run' / runner.timestamp / f'{runner.timestamp}.log').read_text()
    assert 'the checkpoint has 2 classes, the model 3: the class outputs of bbox_head.convs_pred start anew' in log
    prior_by_output = weights['bbox_head.convs_pred.1.bias'].view(3, 7)
    # (24,) -> (A, 5 + C): boxes and objectness of the file, classes as the model had them
    bias = model.bbox_head.convs_pred[1].bias.view(3, 8)
    assert torch.equal(bias[:, :5], prior_by_output[:, :5]) and not bias[:, 5:].any()
    assert torch.equal(model.state_dict()['backbone.layers.0.conv.weight'], weights['backbone.layers.0.conv.weight'])


def test_other_classes_stop_a_test_and_a_resumed_training(tmp_path: Path, foreign: str) -> None:
    message = r'have another shape \(bbox_head\.convs_pred'
    with pytest.raises(ValueError, match=message):
        runner_of(tmp_path, zeroed(classes=3), 'test', load_from=foreign)
    with pytest.raises(ValueError, match=message):
        runner_of(tmp_path, zeroed(classes=3), load_from=foreign, resume=True)


def test_weights_alone_cannot_be_resumed(foreign: str) -> None:
    with pytest.raises(ValueError, match='weights alone: start from it by load_from'):
        read_resumable(foreign)


@pytest.mark.parametrize('address', ['mmcls', 'open-mmlab', 'openmmlab'])
def test_what_the_lists_of_mmengine_name_is_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    torch.save({'state_dict': {}, 'x': Intruder(tmp_path / 'ran')}, tmp_path / 'some.pth')
    monkeypatch.setattr(reader, 'downloaded', lambda url: tmp_path / 'some.pth')
    names = get_mmcls_models() if address == 'mmcls' else get_external_models()
    name = next(name for name, url in names.items() if url.startswith('http'))
    install_reader()
    with pytest.raises(ValueError, match='is refused, and nothing of it has run'):
        CheckpointLoader.load_checkpoint(f'{address}://{name}')
    assert not (tmp_path / 'ran').exists()
    with pytest.raises(ValueError, match='nothing is not in the list of MMEngine'):
        CheckpointLoader.load_checkpoint(f'{address}://nothing')


@pytest.mark.parametrize('address', ['s3://a/b.pth', 'petrel://a/b.pth', 'pavi://a/b.pth'])
def test_storages_whose_readers_execute_are_refused(address: str) -> None:
    install_reader()
    with pytest.raises(ValueError, match='download the file, and give its path'):
        CheckpointLoader.load_checkpoint(address)


def test_another_architecture_is_an_error(tmp_path: Path, foreign: str) -> None:
    with pytest.raises(ValueError, match=r'does not fit the model: 0 of \d+ tensors match'):
        runner_of(tmp_path, nn.Sequential(nn.Linear(2, 2)), load_from=foreign)
    with pytest.raises(ValueError, match='does not fit the model'):
        runner_of(tmp_path, build_small('P5', 'v6', width=0.25), 'test', load_from=foreign)


def test_a_part_of_the_weights_starts_a_training(tmp_path: Path, weights: dict) -> None:
    path = tmp_path / 'part.pth'
    torch.save({name: tensor for name, tensor in weights.items() if name.startswith('backbone.')}, path)
    runner = runner_of(tmp_path, zeroed(), load_from=str(path))
    given = runner.model.state_dict()
    assert torch.equal(given['backbone.layers.1.0.conv.weight'], weights['backbone.layers.1.0.conv.weight'])
    log = (tmp_path / 'run' / runner.timestamp / f'{runner.timestamp}.log').read_text()
    assert 'missing in the checkpoint:' in log and 'bbox_head.convs_pred.0: weight, bias' in log
    with pytest.raises(ValueError, match='are missing'):
        runner_of(tmp_path, zeroed(), 'test', load_from=str(path))


def test_anchors_of_the_file_and_of_the_config(tmp_path: Path, foreign: str) -> None:
    model = zeroed()
    model.bbox_head.anchors_wh[0, 0, 0] = 99
    with pytest.raises(ValueError, match=r'trained with the anchors \(\(\(10, 13\).*set base_sizes'):
        runner_of(tmp_path, model, 'test', load_from=foreign)
    runner = runner_of(tmp_path, model, load_from=foreign)
    log = (tmp_path / 'run' / runner.timestamp / f'{runner.timestamp}.log').read_text()
    assert 'set base_sizes of bbox_head.prior_generator' in log


@pytest.mark.parametrize('resume', [False, True])
def test_a_hostile_file_stops_the_run_and_nothing_has_run(tmp_path: Path, weights: dict, resume: bool) -> None:
    path, marker = tmp_path / 'hostile.pth', tmp_path / 'ran'
    torch.save({'state_dict': weights, 'meta': {'epoch': 1, 'iter': 1}, 'optimizer': Intruder(marker)}, path)
    with pytest.raises(ValueError, match=r'hostile\.pth is refused, and nothing of it has run: it asks for posix'):
        runner_of(tmp_path, zeroed(), load_from=str(path), resume=resume)
    assert not marker.exists()


@pytest.mark.parametrize('content', [b'', b'PK\x03\x04cut', b'nothing'], ids=['empty', 'cut short', 'another kind'])
def test_broken_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / 'broken.pt'
    path.write_bytes(content)
    install_reader()
    with pytest.raises(ValueError, match=r'broken\.pt (is empty|cannot be read)'):
        CheckpointLoader.load_checkpoint(str(path))


def test_a_model_that_ours_cannot_be_is_named_with_its_file(tmp_path: Path, weights: dict) -> None:
    there = to_ultralytics(weights, describe(weights))
    path = tmp_path / 'fused.pt'
    torch.save({name: tensor for name, tensor in there.items() if '.bn.' not in name}, path)
    with pytest.raises(ValueError, match=r'fused\.pt cannot be taken: its batch norms are fused'):
        read_weights(path)


def test_what_is_not_ours_comes_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / 'some.pth'
    for content in ({'meta': {'epoch': 3}, 'state_dict': {'a': torch.ones(1)}, 'optimizer': {'x': 1}}, {'a': 3}):
        torch.save(content, path)
        assert read_weights(path) == content
    torch.save({'a': torch.ones(1)}, path)
    assert read_weights(path) == {'state_dict': {'a': torch.ones(1)}, 'meta': {}}


class Named(nn.Module):
    """A model with a head of mmdet's kind and a backbone that knows another naming."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone = nn.Linear(2, 2)
        self.backbone.translate = lambda state: {name.replace('fc.', ''): value for name, value in state.items()}
        self.bbox_head = nn.Linear(2, classes)


def test_weights_of_a_backbone_alone() -> None:
    checkpoint = {'state_dict': {'fc.weight': torch.ones(2, 2), 'other': torch.ones(1)}}
    report, notes = fit(Named(3), checkpoint, start_anew=True)
    assert (report.matched, report.unexpected, notes) == (('backbone.weight',), (), [])
    assert list(checkpoint['state_dict']) == ['backbone.weight']


def test_heads_of_mmdet_start_anew_too() -> None:
    checkpoint = {'state_dict': dict(Named(3).state_dict())}
    report, notes = fit(Named(5), checkpoint, start_anew=True)
    assert report.missing == ('bbox_head.weight', 'bbox_head.bias') and not report.reshaped
    assert notes == [
        'of the head, bbox_head.weight, bbox_head.bias have another shape, as with other classes, and start anew'
    ]
    report, notes = fit(Named(5), {'state_dict': dict(Named(3).state_dict())}, start_anew=False)
    assert list(report.reshaped) == ['bbox_head.weight', 'bbox_head.bias'] and not notes


def test_a_darknet_file_needs_its_model(tmp_path: Path) -> None:
    path = tmp_path / 'yolov3.weights'
    path.write_bytes(b'\0' * 20)
    with pytest.raises(ValueError, match=r'must be a mmyolo_ext\.DarknetCfg .* got Named'):
        fit(Named(3), read_weights(path), start_anew=True)


def test_the_detector_loads_it(tmp_path: Path, foreign: str, weights: dict) -> None:
    config = Path(__file__).parents[2] / 'configs' / 'yolov5' / 'yolov5_n_320_bccd.py'
    with pytest.raises(ValueError, match='does not fit the config'):
        Detector(config, foreign)


def test_a_download_is_read_in_the_same_way(tmp_path: Path, foreign: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def download(url: str, path: str, *_: object, **__: object) -> None:
        fetched.append(url)
        if 'absent' in url:
            raise OSError('404')
        Path(path).write_bytes(Path(foreign).read_bytes())

    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    install_reader()
    for _ in range(2):
        read = CheckpointLoader.load_checkpoint('https://x.org/releases/yolov5.pt?raw=1')
        assert 'backbone.layers.0.conv.weight' in read['state_dict']
    assert fetched == ['https://x.org/releases/yolov5.pt?raw=1']
    with pytest.raises(ValueError, match=r'absent\.pt cannot be downloaded \(404\): put the file at'):
        CheckpointLoader.load_checkpoint('https://x.org/absent.pt')
