"""``build_config`` and ``train`` from Python."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.device import utils as devices
from mmengine.registry import RUNNERS
from tiny_coco import CLASSES, make_tiny_coco, write_user_config

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.training import build_config, train


@pytest.fixture(autouse=True)
def own_device(monkeypatch):
    monkeypatch.setattr(devices, 'DEVICE', devices.DEVICE)


@pytest.fixture(scope='module')
def config_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp('user')
    return write_user_config(folder / 'mine.py', make_tiny_coco(folder / 'data'), extra="recipe = 'auto'")


def test_arguments_are_those_of_the_config(config_file, tmp_path):
    cfg = build_config(
        config_file,
        **{'optim_wrapper.optimizer.lr': 0.5},
        epochs=3,
        batch_size=1,
        img_scale=(96, 64),
        seed=7,
        device='cpu',
        work_dir=tmp_path,
    )
    assert isinstance(cfg, Config) and cfg.train_cfg.max_epochs == 3 and cfg.train_dataloader.batch_size == 1
    assert cfg.model.bbox_head.input_size == (64, 96)  # (height, width); configs write (width, height)
    assert cfg.randomness.seed == 7 and cfg.optim_wrapper.optimizer.lr == 0.5 and cfg.work_dir == str(tmp_path)
    assert get_device() == 'cpu'


def test_a_name_and_a_file_are_the_same_training(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    cfg = build_config('yolov5_n', recipe=None)
    assert cfg.work_dir == str(Path('work_dirs') / 'yolov5_n')
    file = load_config(cfg.filename)
    assert cfg.model == file.model and cfg.optim_wrapper == file.optim_wrapper and 'chosen_recipe' not in cfg


def test_data_brings_its_classes_and_the_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = make_tiny_coco(tmp_path / 'pets')
    cfg = build_config('yolov5_n', folder, img_scale=64)
    assert cfg.model.bbox_head.num_classes == 2 and cfg.work_dir == str(Path('work_dirs') / 'yolov5_n_pets')
    assert cfg.default_hooks.accumulate.nominal_batch_size == 4 and cfg.train_dataloader.batch_size == 4  # 6 images
    assert 'chosen_recipe' not in build_config('yolov5_n', folder, recipe=None)
    # the same in a config of the user's, where the key data alone turns the recipe on
    (tmp_path / 'mine.py').write_text(f"_base_ = '{cfg.filename}'\ndata, input_size = 'pets', 64\n")
    assert load_config('mine.py').chosen_recipe == cfg.chosen_recipe
    assert 'chosen_recipe' not in load_config('mine.py', {'recipe': None})


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        ({'epoch': 3}, "no setting 'epoch': did you mean 'epochs'"),
        ({'zebra': 3}, "no setting 'zebra': the usual ones are epochs, img_scale"),
        ({'device': 'gpu'}, "device must be 'cpu', 'cuda' or 'cuda:NUMBER', got 'gpu'"),
        ({'device': f'cuda:{torch.cuda.device_count()}'}, "no device 'cuda:"),
        ({'optim_wraper.optimizer.lr': 3}, "did you mean 'optim_wrapper'"),
        ({'epochs': 'ten'}, "max_epochs must be a whole number of at least 1, got 'ten'"),
        ({'load_from': 'nowhere.pth'}, 'there are no weights nowhere.pth'),
    ],
)
def test_arguments_that_cannot_be_meant(config_file, tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        train(config_file, work_dir=tmp_path / 'run', **overrides)


def test_a_training_by_the_recipe(config_file, tmp_path, capsys):
    run = train(config_file, work_dir=tmp_path / 'run', epochs=3, patience=1, log_level='INFO')
    printed = ''.join(capsys.readouterr())
    # 6 images: 2 steps of 4 per epoch, 6 steps, a tenth of them is less than the 2 that are the least
    assert 'recipe: default_hooks.ema = momentum=0.5, gamma=2 (over the last 2 steps' in printed
    assert run.work_dir == tmp_path / 'run' and run.best.name.startswith('best_coco_bbox_mAP_epoch_')
    content = torch.load(run.best, weights_only=False)
    assert content['meta']['dataset_meta']['classes'] in (CLASSES, list(CLASSES))
    assert 'chosen_recipe' in content['meta']['cfg']
    # the scores are those of the validation of the best checkpoint
    (log,) = run.work_dir.glob('*/vis_data/scalars.json')
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    scores = [row['coco/bbox_mAP'] for row in rows if 'coco/bbox_mAP' in row]
    assert run.metrics['coco/bbox_mAP'] == pytest.approx(max(scores)) and 'coco/bbox_mAP_50' in run.metrics
    # without progress, the first validation is the best, and one more ends the training
    assert len(scores) == 2 if max(scores) == scores[0] else len(scores) == 3


def test_a_resumed_training_goes_to_its_end(config_file, tmp_path):
    """The recipe chooses the same for the same data, so nothing about the checkpoint is refused."""
    first = train(config_file, work_dir=tmp_path / 'run', epochs=1)
    again = train(config_file, work_dir=tmp_path / 'run', epochs=1, resume=True)
    assert again.work_dir == first.work_dir and again.best is not None


def test_a_test_with_early_stopping_needs_no_training_data(tmp_path):
    cfg = load_config(write_user_config(tmp_path / 'mine.py', make_tiny_coco(tmp_path / 'data'), extra='patience = 5'))
    (tmp_path / 'data' / 'train.json').unlink()
    cfg.work_dir = str(tmp_path / 'run')
    assert 'coco/bbox_mAP' in RUNNERS.build(cfg).test()
