"""Checkpoints are read whatever they hold besides weights, and nothing in them is executed."""

import os
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer

from mmyolo_ext.checkpoint.pickle_objects import StandIn
from mmyolo_ext.checkpoint.safe_load import read_checkpoint

WEIGHTS = {
    'a.weight': torch.arange(6.0).view(2, 3),
    'a.half': torch.tensor([1.5, -2.0], dtype=torch.float16),
    'a.bfloat': torch.tensor([0.25], dtype=torch.bfloat16),
    'a.count': torch.tensor(7),
    'a.transposed': torch.arange(6.0).view(2, 3).t(),
    'a.parameter': torch.nn.Parameter(torch.ones(2)),
    'a.empty': torch.zeros(0),
}


class Intruder:
    """Calls a function when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


def saved(tmp_path: Path, content: object, **kwargs) -> Path:
    path = tmp_path / 'some.pth'
    torch.save(content, path, **kwargs)
    return path


def same(given: dict[str, torch.Tensor]) -> bool:
    return list(given) == list(WEIGHTS) and all(
        torch.equal(value, given[name]) and value.dtype == given[name].dtype for name, value in WEIGHTS.items()
    )


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'before torch 1.6'])
def test_plain_state_dict(tmp_path: Path, zipped: bool) -> None:
    path = saved(tmp_path, OrderedDict(WEIGHTS), _use_new_zipfile_serialization=zipped)
    assert same(read_checkpoint(path))


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'before torch 1.6'])
def test_weights_beside_objects_of_mmengine(tmp_path: Path, zipped: bool) -> None:
    buffer = HistoryBuffer([1.0, 2.0], [1, 1])
    content = {
        'meta': {'cfg': Config({'model': {'type': 'X', 'sizes': [1, 2]}}), 'epoch': 3, 'path': tmp_path, 'set': {1}},
        'message_hub': {'log_scalars': OrderedDict(loss=buffer)},
        'state_dict': OrderedDict(WEIGHTS),
    }
    path = saved(tmp_path, content, _use_new_zipfile_serialization=zipped)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    read = read_checkpoint(path)
    assert same(read['state_dict'])
    meta = read['meta']
    assert (meta['epoch'], meta['set'], str(meta['path'])) == (3, {1}, str(tmp_path))
    assert isinstance(meta['cfg'], StandIn)
    assert meta['cfg'].state[0] == {'model': {'type': 'X', 'sizes': [1, 2]}}
    log = read['message_hub']['log_scalars']['loss']
    assert log.data[0].tolist() == [1.0, 2.0] and log.data[1].tolist() == [1, 1]
    assert log.mean() == 1.5


def test_nothing_is_executed(tmp_path: Path) -> None:
    marker = tmp_path / 'was_here'
    path = saved(tmp_path, {'state_dict': WEIGHTS, 'meta': Intruder(marker)})
    with pytest.raises(ValueError, match=r'some\.pth is refused, .*: it asks for posix\.mkdir, which is not data'):
        read_checkpoint(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()


def test_a_whole_model_comes_as_a_stand_in_of_its_name(tmp_path: Path) -> None:
    read = read_checkpoint(saved(tmp_path, torch.nn.Sequential(torch.nn.Linear(2, 2))))
    assert isinstance(read, StandIn)
    assert (type(read).__module__, type(read).__name__) == ('torch.nn.modules.container', 'Sequential')


def test_no_file_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'no checkpoint .*absent\.pth$'):
        read_checkpoint(tmp_path / 'absent.pth')
    with pytest.raises(ValueError, match='it is a folder'):
        read_checkpoint(tmp_path)


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / 'some.pth').touch()
    with pytest.raises(ValueError, match=r'some\.pth is empty'):
        read_checkpoint(tmp_path / 'some.pth')


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'before torch 1.6'])
@pytest.mark.parametrize('share', [0.02, 0.5, 0.97])
def test_file_cut_short(tmp_path: Path, zipped: bool, share: float) -> None:
    path = saved(tmp_path, {'w': torch.zeros(1000)}, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=r'some\.pth cannot be read .*cut short'):
        read_checkpoint(path)


@pytest.mark.parametrize('content', [b'<html>404</html>', b'version https://git-lfs.github.com', b'\x80\x02}q'])
def test_file_of_another_kind(tmp_path: Path, content: bytes) -> None:
    (tmp_path / 'some.pth').write_bytes(content)
    with pytest.raises(ValueError, match=r'some\.pth cannot be read as a file of torch\.save'):
        read_checkpoint(tmp_path / 'some.pth')


def test_program_of_torch_script(tmp_path: Path) -> None:
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(str(tmp_path / 'some.pth'))
    with pytest.raises(ValueError, match=r'some\.pth is refused, .*TorchScript'):
        read_checkpoint(tmp_path / 'some.pth')
