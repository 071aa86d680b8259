"""The command ``mmyolo-ext``: its table, its start, and that it does what the functions of the API do."""

import importlib
import subprocess
import sys

import pytest
import torch
from mmengine.device import utils as devices
from tiny_coco import make_tiny_coco, write_user_config

from mmyolo_ext.apis.config import load_config
from mmyolo_ext.apis.training import build_config
from mmyolo_ext.cli import train
from mmyolo_ext.cli.main import COMMANDS, main


@pytest.fixture(scope='module')
def user_config(tmp_path_factory):
    folder = tmp_path_factory.mktemp('user')
    return write_user_config(folder / 'mine.py', make_tiny_coco(folder / 'data'))


def test_help_is_fast_and_imports_nothing_heavy():
    script = (
        'import sys, time; from mmyolo_ext.cli.main import main; main([]);'
        'print(sorted({"torch", "mmengine", "mmcv", "mmdet", "cv2", "numpy"} & set(sys.modules)), time.process_time())'
    )
    done = [
        subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=True) for _ in range(2)
    ]
    *lines, last = done[0].stdout.splitlines()
    assert last.startswith('[]')
    assert min(float(one.stdout.split()[-1]) for one in done) < 0.3  # seconds of the processor
    for name, (_, text, example) in COMMANDS.items():
        assert any(line.split()[:1] == [name] and text in line and example in line for line in lines), name


@pytest.mark.parametrize('name', COMMANDS)
def test_each_command_exists_and_shows_an_example(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['mmyolo-ext'])
    module, _, example = COMMANDS[name]
    assert callable(importlib.import_module(f'mmyolo_ext.cli.{module}').main) and example.startswith(
        f'mmyolo-ext {name}'
    )
    try:
        main([name, '--help'])
    except SystemExit as end:
        assert end.code == 0
    assert f'example: {example}' in capsys.readouterr().out


def test_a_misspelt_command(capsys):
    with pytest.raises(SystemExit) as end:
        main(['trian'])
    assert end.value.code == 2 and "there is no command 'trian': did you mean 'train'?" in capsys.readouterr().err


def test_options_and_arguments_of_python_are_one_training(user_config, monkeypatch, tmp_path):
    monkeypatch.setattr(devices, 'DEVICE', devices.DEVICE)
    made = []
    monkeypatch.setattr(train, 'run_config', made.append)
    words = '--epochs 3 --batch-size 1 --img-scale 96x64 --patience 4 --seed 7 --device cpu --amp'
    options = ['--cfg-options', 'optim_wrapper.optimizer.lr=0.5']
    data = user_config.parent / 'data'
    train.main([str(user_config), *words.split(), str(data), '--work-dir', str(tmp_path), *options])
    python = build_config(
        user_config,
        data,
        **{'optim_wrapper.optimizer.lr': 0.5},
        epochs=3,
        batch_size=1,
        img_scale=(96, 64),
        patience=4,
        seed=7,
        device='cpu',
        amp=True,
        work_dir=tmp_path,
    )
    command = made[0]
    assert (command.pop('launcher'), command.pop('check')) == ('none', 'on')
    assert command.to_dict() == python.to_dict()
    assert command.model.bbox_head.input_size == (64, 96) and command.chosen_recipe


def checkpoint_with(path, text):
    torch.save({'state_dict': {}, 'meta': {'cfg': text} if text else {}}, path)
    return path


def test_the_config_of_a_checkpoint_is_that_of_the_training(user_config, tmp_path):
    cfg = load_config(user_config)
    saved = load_config(checkpoint_with(tmp_path / 'best.pth', cfg.pretty_text))
    assert {**saved.to_dict(), 'work_dir': None} == {**cfg.to_dict(), 'work_dir': None}


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (None, 'holds no config: give the config file too'),
        ("import os\nmodel = dict(type=os.system('touch {folder}/executed'))", 'nothing was executed'),
        ("model = dict(type=open('{folder}/executed', 'w'))", 'Call, which is not allowed'),
        ("custom_imports = dict(imports=['antigravity'])", 'its config imports antigravity: give the config file'),
    ],
)
def test_a_checkpoint_executes_nothing(tmp_path, text, message, capsys):
    path = checkpoint_with(tmp_path / 'best.pth', text and text.replace('{folder}', str(tmp_path)))
    with pytest.raises(SystemExit) as end:
        main(['test', str(path)])
    error = capsys.readouterr().err
    assert end.value.code == 2 and message in error and error.count('\n') == 1
    assert not (tmp_path / 'executed').exists()


@pytest.mark.parametrize('words', ['configs', '--help'])
def test_a_reader_that_has_seen_enough_ends_the_command(words: str) -> None:
    command = f'{sys.executable} -m mmyolo_ext {words} | true; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(['bash', '-c', command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (141, '')
