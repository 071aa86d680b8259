"""What users get wrong ends as one line that names it, before the first step."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from tiny_coco import REPO, make_tiny_coco, write_user_config


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('errors')
    write_user_config(folder / 'mine.py', make_tiny_coco(folder / 'data'))
    return folder


@pytest.fixture
def tool(monkeypatch, capfd, folder):
    """Run a tool in this process; its one line of error."""

    def run(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, 'argv', [name, *map(str, arguments)])
        monkeypatch.delenv('MMYOLO_EXT_DEBUG', raising=False)
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(REPO / 'tools' / name), run_name='__main__')
        assert end.value.code == 2
        errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith('error: ')]
        assert len(errors) == 1
        return errors[0]

    return run


def test_a_misspelt_key(tool, folder, tmp_path):
    (tmp_path / 'mine.py').write_text(f"_base_ = '{folder / 'mine.py'}'\nmax_epoch = 3\n")
    assert "did you mean 'max_epochs'?" in tool('train.py', tmp_path / 'mine.py')


def test_a_misspelt_option(tool, folder):
    assert "did you mean 'batch_size'?" in tool('train.py', folder / 'mine.py', '--cfg-options', 'batchsize=3')


def test_a_missing_config(tool):
    assert 'there is no config nowhere.py' in tool('train.py', 'nowhere.py')


def test_a_missing_annotation_file(tool, folder, tmp_path):
    line = tool('train.py', folder / 'mine.py', '--work-dir', tmp_path, '--cfg-options', 'train_ann=none.json')
    assert str(folder / 'data' / 'none.json') in line


def test_a_broken_annotation_file(tool, folder, tmp_path):
    (folder / 'data' / 'cut.json').write_text((folder / 'data' / 'val.json').read_text()[:-20])
    line = tool('train.py', folder / 'mine.py', '--work-dir', tmp_path, '--cfg-options', 'val_ann=cut.json')
    assert 'cut.json' in line


def test_classes_that_the_data_do_not_have(tool, folder, tmp_path):
    line = tool('train.py', folder / 'mine.py', '--work-dir', tmp_path, '--cfg-options', 'class_names=[red,green]')
    assert 'green' in line and 'blue' in line


def test_a_head_of_other_classes(tool, folder, tmp_path):
    options = ('--cfg-options', 'model.bbox_head.num_classes=80')
    line = tool('train.py', folder / 'mine.py', '--work-dir', tmp_path, *options)
    assert 'num_classes=80' in line and "('red', 'blue')" in line


def test_nothing_to_close(tool, folder, tmp_path):
    no_mosaic = "[dict(type='mmyolo_ext.RandomAffine', size=64), dict(type='PackDetInputs')]"
    (tmp_path / 'mine.py').write_text(
        f"_base_ = '{folder / 'mine.py'}'\n"
        f'train_dataloader = dict(dataset=dict(pipeline={no_mosaic}))\n'
        'default_hooks = dict(close_mosaic=dict(num_last_epochs=1))\n'
    )
    line = tool('train.py', tmp_path / 'mine.py', '--work-dir', tmp_path, '--cfg-options', 'max_epochs=3')
    assert "nothing to close: got ['RandomAffine', 'PackDetInputs']" in line


def test_a_broken_image(tool, folder, tmp_path):
    data = make_tiny_coco(tmp_path / 'data')
    (data / 'train' / '001.png').write_bytes((data / 'train' / '001.png').read_bytes()[:200])
    options = ('--cfg-options', f'data_root={data}/')
    line = tool('train.py', folder / 'mine.py', '--work-dir', tmp_path / 'work', *options)
    assert str(data / 'train' / '001.png') in line


def test_a_work_dir_that_cannot_be_written(tool, folder, tmp_path):
    (tmp_path / 'file').touch()
    line = tool('train.py', folder / 'mine.py', '--work-dir', tmp_path / 'file' / 'work')
    assert f'the work dir {tmp_path}/file/work cannot be written' in line


@pytest.mark.parametrize('arguments', [('--resume', 'CHECKPOINT'), ('--cfg-options', 'load_from=CHECKPOINT')])
def test_a_broken_checkpoint(tool, folder, tmp_path, arguments):
    torch.save({'state_dict': {'w': torch.zeros(1000)}}, tmp_path / 'cut.pth')
    (tmp_path / 'cut.pth').write_bytes((tmp_path / 'cut.pth').read_bytes()[:-100])
    arguments = [argument.replace('CHECKPOINT', str(tmp_path / 'cut.pth')) for argument in arguments]
    line = tool('train.py', folder / 'mine.py', '--work-dir', tmp_path / 'work', *arguments)
    assert 'cut.pth cannot be read as a file of torch.save' in line


def test_testing_with_a_missing_or_foreign_checkpoint(tool, folder, tmp_path):
    assert 'there is no checkpoint none.pth' in tool('test.py', folder / 'mine.py', 'none.pth', '--work-dir', tmp_path)
    torch.save({'state_dict': {'w': torch.zeros(3)}}, tmp_path / 'other.pth')
    line = tool('test.py', folder / 'mine.py', tmp_path / 'other.pth', '--work-dir', tmp_path)
    assert 'does not fit the model: 0 of' in line


def test_predicting_on_nothing(tool, folder, tmp_path):
    line = tool('predict.py', folder / 'mine.py', 'none.pth', tmp_path / '*.jpg')
    assert f"no images match '{tmp_path}/*.jpg'" in line


def test_an_out_file_of_another_kind(tool, folder):
    assert '--out must name a .pkl file' in tool('test.py', folder / 'mine.py', 'x.pth', '--out', 'x.json')


def test_a_launcher_without_its_variables(tool, folder, tmp_path, monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    line = tool('train.py', folder / 'mine.py', '--launcher', 'pytorch', '--work-dir', tmp_path)
    assert 'start it with that' in line


def test_debugging_shows_the_traceback(monkeypatch):
    monkeypatch.setenv('MMYOLO_EXT_DEBUG', '1')
    monkeypatch.setattr(sys, 'argv', ['train.py', 'nowhere.py'])
    with pytest.raises(ValueError, match='nowhere'):
        runpy.run_path(str(Path(REPO) / 'tools' / 'train.py'), run_name='__main__')
