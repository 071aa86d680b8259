"""Files that are not there, not whole or not writable are named before anything slow."""

import pytest
import torch
from mmengine.config import Config

from mmyolo_ext.apis.config_errors import one_line
from mmyolo_ext.apis.start import check_checkpoint, check_start, check_work_dir, set_start

TRACEBACK = 'Original Traceback (most recent call last):\n  File x.py\nValueError: no image a.jpg\n'


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / 'epoch_1.pth'
    torch.save({'state_dict': {'w': torch.zeros(100_000)}}, path)
    return path


def test_a_whole_checkpoint_passes_in_both_formats(checkpoint, tmp_path):
    check_checkpoint(str(checkpoint))
    old = tmp_path / 'old.pth'
    torch.save({'w': torch.zeros(3)}, old, _use_new_zipfile_serialization=False)
    check_checkpoint(str(old))
    check_checkpoint('https://example.org/weights.pth')


def test_a_checkpoint_with_a_flipped_byte_is_named(checkpoint):
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 0xFF
    checkpoint.write_bytes(content)
    with pytest.raises(ValueError, match='epoch_1.pth is broken: the sum over its part'):
        check_checkpoint(str(checkpoint))


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(ValueError, match='there is no checkpoint .*y.pth'):
        check_checkpoint(str(tmp_path / 'y.pth'))


def start_of(work_dir, resume=None, load_from=None, **hook) -> tuple[bool, str | None]:
    cfg = Config({'work_dir': str(work_dir), 'load_from': load_from, 'default_hooks': {'checkpoint': hook}})
    if resume:
        set_start(cfg, resume)
    if cfg.load_from:
        check_start(cfg)
    return cfg.get('resume', False), cfg.load_from


def test_missing_weights_to_start_from_differ_from_a_missing_checkpoint(tmp_path):
    missing = str(tmp_path / 'yolov5n.pt')
    with pytest.raises(ValueError, match=r'there are no weights .*yolov5n.pt to start from.*--cfg-options load_from='):
        start_of(tmp_path, load_from=missing)
    with pytest.raises(ValueError, match='there is no checkpoint .*yolov5n.pt'):
        start_of(tmp_path, resume=missing)


def test_resuming_what_never_began_starts_from_the_weights_of_the_config(checkpoint, tmp_path):
    weights, run = str(checkpoint), tmp_path / 'run'
    assert start_of(run, 'auto', weights) == (False, weights)
    assert start_of(run, 'auto') == (False, None)
    assert start_of(tmp_path, 'auto', weights) == (True, None)
    assert start_of(run, weights, 'yolov5n.pt') == (True, weights)


@pytest.mark.parametrize('name', ['best_coco_bbox_mAP_epoch_3.pth', 'iter_7.pth'])
def test_no_pointer_is_needed_to_see_that_a_run_began(tmp_path, name):
    (tmp_path / 'out' / 'run').mkdir(parents=True)
    (tmp_path / 'out' / 'run' / name).touch()
    assert start_of(tmp_path / 'run', 'auto', out_dir=str(tmp_path / 'out')) == (True, None)
    assert start_of(tmp_path / 'run', 'auto') == (False, None)


def test_a_work_dir_below_a_file_is_named(tmp_path):
    check_work_dir(str(tmp_path / 'new' / 'folder'))
    (tmp_path / 'file').touch()
    with pytest.raises(ValueError, match='file/work cannot be written: Not a directory; choose another by --work-dir'):
        check_work_dir(str(tmp_path / 'file' / 'work'))


@pytest.mark.parametrize(
    ('text', 'line'),
    [
        ('two\n  lines', 'two lines'),
        ('class `A` in mmdet/x.py: class `B` in y/z.py: deep', 'deep'),
        (f'Caught ValueError in worker 0.\n{TRACEBACK}', 'no image a.jpg'),
        ('', 'ValueError'),
    ],
)
def test_errors_become_one_line(text, line):
    assert one_line(ValueError(text)) == line
