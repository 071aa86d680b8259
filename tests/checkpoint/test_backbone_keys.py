"""Names and URLs become files; nothing here goes to the network."""

from pathlib import Path
from urllib.error import URLError

import pytest
import torch

from mmyolo_ext.checkpoint import backbone_keys
from mmyolo_ext.checkpoint.backbone_keys import fetch, torchvision_url
from mmyolo_ext.checkpoint.mmengine_loader import install_reader


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str | None]]:
    """Downloads write a small checkpoint, and are kept as (URL, digest)."""
    calls = []

    def download(url: str, path: str, digest: str | None, progress: bool) -> None:
        calls.append((url, digest))
        torch.save({'a': torch.ones(1)}, path)

    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    return calls


# what the enums of torchvision 0.25 say
@pytest.mark.parametrize(
    ('name', 'file'),
    [
        ('shufflenet_v2_x0_5', 'shufflenetv2_x0.5-f707e7126e.pth'),
        ('shufflenet_v2_x1_0', 'shufflenetv2_x1-5666bf0f80.pth'),
        ('shufflenet_v2_x1_5', 'shufflenetv2_x1_5-3c479a10.pth'),
        ('shufflenet_v2_x2_0.imagenet1k_v1', 'shufflenetv2_x2_0-8be3c8ee.pth'),
        ('ShuffleNet_V2_X1_0_Weights.IMAGENET1K_V1', 'shufflenetv2_x1-5666bf0f80.pth'),
        ('shufflenetv2_x1.0', 'shufflenetv2_x1-5666bf0f80.pth'),
        ('mobilenet_v3_small', 'mobilenet_v3_small-047dcff4.pth'),
        ('mobilenet_v3_large', 'mobilenet_v3_large-8738ca79.pth'),
        ('mobilenet_v3_large.default', 'mobilenet_v3_large-5c1a4163.pth'),
        ('MobileNet_V3_Large_Weights.IMAGENET1K_V2', 'mobilenet_v3_large-5c1a4163.pth'),
    ],
)
def test_names_of_torchvision(name: str, file: str) -> None:
    assert torchvision_url(name) == f'https://download.pytorch.org/models/{file}'


@pytest.mark.parametrize('name', ['shufflenet_v2', 'resnet50', 'mobilenet_v3_small.imagenet1k_v2', ''])
def test_an_unknown_name_lists_the_known(name: str) -> None:
    with pytest.raises(
        ValueError, match=rf'torchvision://{name} is not known.*shufflenet_v2_x1_0.imagenet1k_v1,.*mobilenet_v3_'
    ):
        torchvision_url(name)


def test_names_of_mmpretrain(downloads: list) -> None:
    fetch('mmcls://mobilenet_v3_small')
    assert downloads[0][0].endswith('mobilenet_v3_small-8427ecf0.pth')
    with pytest.raises(ValueError, match=r'mmcls://mobilenet is not known.*shufflenet_v2, mobilenet_v3_small'):
        fetch('mmcls://mobilenet')


def test_a_download_is_checked_kept_and_not_repeated(downloads: list, tmp_path: Path) -> None:
    for _ in range(2):
        assert fetch('torchvision://shufflenet_v2_x0_5')['a'].tolist() == [1.0]
    assert downloads == [('https://download.pytorch.org/models/shufflenetv2_x0.5-f707e7126e.pth', 'f707e7126e')]
    assert (tmp_path / 'checkpoints' / 'shufflenetv2_x0.5-f707e7126e.pth').is_file()


@pytest.mark.parametrize('checkpoint', ['mmcls://shufflenet_v2', 'https://host/some/light-2.pth?token=1'])
def test_other_downloads(downloads: list, checkpoint: str) -> None:
    assert fetch(checkpoint)['a'].tolist() == [1.0]
    assert len(downloads) == 1
    assert downloads[0][1] is None


def test_no_network(downloads: list, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise URLError('no route')

    monkeypatch.setattr(torch.hub, 'download_url_to_file', refuse)
    with pytest.raises(ValueError, match=r'cannot be downloaded.*no route.*put the file at .*047dcff4\.pth'):
        fetch('torchvision://mobilenet_v3_small')


def test_a_broken_download_names_the_file_to_delete(downloads: list, tmp_path: Path) -> None:
    (tmp_path / 'checkpoints').mkdir()
    (tmp_path / 'checkpoints' / 'light.pth').write_bytes(b'<html>')
    with pytest.raises(ValueError, match=r'checkpoints/light\.pth cannot be read.*copy or download it again'):
        fetch('https://host/light.pth')


def test_a_url_without_a_file(downloads: list) -> None:
    with pytest.raises(ValueError, match='https://host/ does not end with a file name'):
        fetch('https://host/')


def test_other_schemes_go_to_mmengine(monkeypatch: pytest.MonkeyPatch) -> None:
    install_reader()
    with pytest.raises(ValueError, match='there is no checkpoint nowhere:/x'):
        fetch('nowhere://x')
    monkeypatch.setattr(
        backbone_keys.CheckpointLoader, 'load_checkpoint', lambda name, map_location: (name, map_location)
    )
    assert fetch('petrel://bucket/x.pth', 'cpu') == ('petrel://bucket/x.pth', 'cpu')
