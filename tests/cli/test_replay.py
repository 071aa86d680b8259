"""A training that stopped over numbers that are not finite is replayed from its dump."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from tiny_coco import REPO, make_tiny_coco, write_user_config

# the largest float32 is 3.4e38: the box loss of a batch of two overflows in the forward pass
EXTRA = """
model['bbox_head'] = dict(loss_bbox=dict(loss_weight=3e38))
default_hooks = dict(report=None, curves=None, accumulate=dict(nominal_batch_size=4))
step_guard = dict(max_skips=1)
"""


@pytest.fixture
def tool(monkeypatch, capfd):
    def run(name: str, *arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, 'argv', [name, *map(str, arguments)])
        monkeypatch.delenv('MMYOLO_EXT_DEBUG', raising=False)
        code = 0
        try:
            runpy.run_path(str(REPO / 'tools' / name), run_name='__main__')
        except SystemExit as end:
            code = end.code
        streams = capfd.readouterr()
        return code, streams.out + streams.err

    return run


def test_training_stops_with_one_line_and_the_dump_shows_the_same(tool, tmp_path):
    config = write_user_config(tmp_path / 'mine.py', make_tiny_coco(tmp_path / 'data'), extra=EXTRA)
    code, output = tool('train.py', config, '--work-dir', tmp_path / 'run')
    last = output.strip().splitlines()[-1]
    assert code == 1 and 'Traceback' not in output
    # 3 iterations an epoch: steps after the 2nd and the 3rd
    assert last.startswith('Training stopped at epoch 1, iteration 3 after 2 optimizer step(s)')
    assert 'loss_bbox is inf' in last and '.png' in last and 'AMP scale: none' in last
    dump = tmp_path / 'run' / 'non_finite_iter_3.pth'
    assert f'python tools/replay.py {dump}' in last
    content = torch.load(dump, weights_only=True)
    assert content['losses']['loss_bbox'] == float('inf') and all(Path(name).is_file() for name in content['images'])

    code, output = tool('replay.py', dump, '--device', 'cpu')
    assert code == 0
    assert 'epoch 1, iteration 3, rank 0 of 1' in output and 'loss_bbox: inf, in the training inf' in output
    shown = next(line for line in output.splitlines() if line.startswith('loss_cls'))
    again, before = (float(part.split()[-1]) for part in shown.replace('loss_cls: ', '').split(', in the training '))
    assert again == pytest.approx(before, rel=1e-5) and 'that is not finite is that of bbox_head' in output
    assert tool('replay.py', dump, '--config', config, '--device', 'cpu')[1] == output


@pytest.mark.parametrize('content', [b'', b'text', {'state_dict': {}}], ids=['empty', 'text', 'checkpoint'])
def test_other_files_are_refused(tool, tmp_path, content):
    file = tmp_path / 'other.pth'
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    code, output = tool('replay.py', file)
    assert code == 2 and 'is not a dump of a stopped training' in output
