"""How a checkpoint gets on the disk, and what is believed of a manifest."""

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmyolo_ext.checkpoint.resuming import find_newest, history_of, known_hub, known_meta
from mmyolo_ext.checkpoint.writing import MANIFEST, CheckpointFolder, WriteError, is_plain_name, plain, read_manifest

AT = {'epoch': 1, 'iter': 5, 'batch': 0, 'kind': 'periodic'}


def content(epoch: int, iteration: int) -> dict:
    meta = {'epoch': epoch, 'iter': iteration}
    return {'meta': meta, 'state_dict': {'w': torch.ones(3)}, 'optimizer': {'state': {}}}


def noting(name: str, real: Callable, steps: list) -> Callable:
    def call(*args):
        path = os.readlink(f'/proc/self/fd/{args[0]}') if isinstance(args[0], int) else args[-1]
        steps.append((name, Path(path).name))
        return real(*args)

    return call


def test_the_order_of_a_write(tmp_path, monkeypatch):
    steps = []
    for name in ('fsync', 'replace', 'unlink'):
        monkeypatch.setattr(os, name, noting(name, getattr(os, name), steps))
    monkeypatch.setattr(Path, 'unlink', lambda self: os.unlink(self))
    folder = CheckpointFolder(tmp_path)
    (tmp_path / 'epoch_0.pth').touch()
    folder.write('epoch_1.pth', content(1, 5), **AT)
    folder.point(tmp_path, 'epoch_1.pth')
    folder.delete(['epoch_0.pth'])
    expected = []
    for name in ('epoch_1.pth', MANIFEST):
        expected += [('fsync', f'.{name}.writing'), ('replace', name), ('fsync', tmp_path.name)]
    assert steps == [*expected, ('replace', 'last_checkpoint'), ('unlink', 'epoch_0.pth')]
    digest = hashlib.sha256((tmp_path / 'epoch_1.pth').read_bytes()).hexdigest()
    assert json.loads((tmp_path / MANIFEST).read_text())['epoch_1.pth'] == {
        **AT,
        'sha256': digest,
        'size': (tmp_path / 'epoch_1.pth').stat().st_size,
    }


@pytest.mark.parametrize('call', ['fsync', 'replace'])
@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch, call, code):
    folder = CheckpointFolder(tmp_path)
    folder.write('epoch_1.pth', content(1, 5), **AT)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(WriteError, match=rf'cannot write .*epoch_2.pth: {os.strerror(code)}'):
        folder.write('epoch_2.pth', content(2, 10), **AT)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_reads_back_differently_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr('mmyolo_ext.checkpoint.writing.digest_of', lambda path: '0' * 64)
    with pytest.raises(WriteError, match='reads back differently'):
        CheckpointFolder(tmp_path).write('epoch_1.pth', content(1, 5), **AT)


def test_a_file_written_again_is_never_taken_for_damaged(tmp_path, monkeypatch):
    """Killed between the rename and the manifest, the new file is judged by its own checksums."""
    folder = CheckpointFolder(tmp_path)
    folder.write('epoch_1.pth', content(1, 5), **AT)
    monkeypatch.setattr(
        'mmyolo_ext.checkpoint.writing.digest_of', lambda path: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        folder.write('epoch_1.pth', {**content(1, 5), 'second': True}, **AT)
    monkeypatch.undo()
    path, found = find_newest(tmp_path, pytest.fail)
    assert path == str(tmp_path / 'epoch_1.pth') and found['second']


@pytest.mark.parametrize('name', ['', '.', '..', '../a.pth', '/a.pth', 'a/b.pth', 'a\0b', 3, None])
def test_names_that_lead_elsewhere(tmp_path, name):
    assert not is_plain_name(name)
    (tmp_path / 'run').mkdir()
    (tmp_path / 'a.pth').touch()
    CheckpointFolder(tmp_path / 'run').delete([name])
    assert (tmp_path / 'a.pth').exists()


def test_links_are_neither_followed_nor_deleted(tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'mine.pth').write_text('mine')
    (tmp_path / 'run' / 'epoch_1.pth').symlink_to(tmp_path / 'mine.pth')
    folder = CheckpointFolder(tmp_path / 'run')
    folder.delete(['epoch_1.pth'])
    assert folder.set_aside(['epoch_1.pth'], 'x') is None
    assert find_newest(tmp_path / 'run', pytest.fail) is None
    assert (tmp_path / 'run' / 'epoch_1.pth').is_symlink() and (tmp_path / 'mine.pth').read_text() == 'mine'


@pytest.mark.parametrize(
    'text', ['', '[]', '{"a.pth": 3}', '[' * 100_000, '{"a.pth": {"epoch": "1", "sha256": 5, "score": "x", "odd": 1}}']
)
def test_a_damaged_manifest_is_ignored(tmp_path, text):
    (tmp_path / MANIFEST).write_text(text)
    assert read_manifest(tmp_path) in ({}, {'a.pth': {}})


def test_plain_data():
    odd = object()
    dropped = []
    value = {
        'a': [np.float32(0.5), np.arange(3), (1, 'x'), {2}],
        'b': {'c': odd, 1: Path('p') / 'q', odd: 1},
        'd': torch.nn.Parameter(torch.ones(2)),
    }
    found = plain(value, dropped)
    assert found['a'][0] == 0.5 and type(found['a'][0]) is float
    assert found['a'][1].tolist() == [0, 1, 2] and found['a'][2:] == [(1, 'x'), [2]]
    assert found['b'] == {'c': None, 1: 'p/q'} and dropped == ['b.c (object)']
    assert type(found['d']) is torch.Tensor and not found['d'].requires_grad


def test_histories_come_back():
    history = HistoryBuffer([1.0, 2.0, 3.0], [1, 1, 2], 10)
    for form in (history, plain(history)):
        found = history_of(form)
        assert [part.tolist() for part in found.data] == [[1, 2, 3], [1, 1, 2]] and found.max_length == 10
    assert history_of({'log': torch.ones(3), 'count': torch.ones(2), 'max_length': 5}) is None
    assert history_of({'log': torch.ones(3), 'count': torch.ones(3), 'max_length': -1}) is None
    assert history_of('text') is None


def test_of_a_message_hub_only_known_data_is_taken():
    hub = {
        'log_scalars': {'train/loss': plain(HistoryBuffer([1.0], [1], 10)), 'odd': 'text', 3: None},
        'runtime_info': {
            'best_score': 0.5,
            'best_score_x': float('nan'),
            'best_ckpt': '/elsewhere/best_coco_epoch_3.pth',
            'best_ckpt_x': '/elsewhere/thesis.pth',
            'last_ckpt': '/elsewhere/x.pth',
            'keep_ckpt_ids': [1],
            'cfg': 'import os',
        },
        'resumed_keys': {'cfg': True},
    }
    histories, info = known_hub(hub)
    assert list(histories) == ['train/loss']
    assert info == {'best_score': 0.5, 'best_ckpt': 'best_coco_epoch_3.pth'}
    assert known_hub(None) == known_hub({'log_scalars': 3, 'runtime_info': []}) == ({}, {})


def test_of_meta_only_known_data_is_taken():
    meta = {'epoch': 2, 'iter': 13, 'seed': 7, 'config': 'x', 'hook': 1, 'dataset_meta': {'CLASSES': ('a', 'b')}}
    assert known_meta(meta) == {'epoch': 2, 'iter': 13, 'seed': 7, 'classes': ['a', 'b'], 'batch': 1}
    run = {'epoch_length': 5, 'by_epoch': True}
    assert known_meta({**meta, 'run': run})['batch'] == 3
