"""Test fine-tuning from three classes to two: what is kept, initialised again, frozen and trained."""

from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from tiny_coco import REPO, make_tiny_coco, tiny_options

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.start import check_start
from mmyolo_ext.checkpoint.mmengine_loader import install_reader, read_weights

CONFIGS = REPO / 'configs/yolov5'
FROZEN = ('backbone.layers.0.', 'backbone.layers.1.')  # frozen_stages=1
WITH_CLASSES = 'bbox_head.convs_pred.'
EPOCHS = 2


class Start(Hook):
    """Keep the weights before the first step."""

    def before_train(self, runner: Runner) -> None:
        self.weights = {name: value.clone() for name, value in runner.model.state_dict().items()}


@pytest.fixture(scope='module')
def tiny(tmp_path_factory) -> Path:
    return make_tiny_coco(tmp_path_factory.mktemp('coco') / 'data')


def finetune(work_dir: Path, tiny: Path, weights: Path, **options) -> tuple[Runner, dict]:
    """Train yolov5_n_finetune_320_bccd.py on two classes; return the runner and its initial weights."""
    options = {
        **tiny_options(tiny, 64),
        'max_epochs': EPOCHS,
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'default_hooks.accumulate.nominal_batch_size': 2,
        'default_hooks.close_mosaic.num_last_epochs': 1,
        'load_from': str(weights),
        **options,
    }
    cfg = load_config(CONFIGS / 'yolov5_n_finetune_320_bccd.py', options)
    cfg.work_dir, cfg.experiment_name = str(work_dir), work_dir.name
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    install_reader()
    runner, start = Runner.from_cfg(cfg), Start()
    runner.register_hook(start)
    runner.train()
    return runner, start.weights


@pytest.fixture(scope='module')
def whole(golden_dir, tiny, tmp_path_factory) -> tuple[Path, Runner, dict]:
    """A finished training: its folder, its runner, its initial weights."""
    folder = tmp_path_factory.mktemp('finetune') / 'whole'
    return folder, *finetune(folder, tiny, golden_dir / 'yolov5n_bccd.pt')


def log_of(work_dir: Path) -> str:
    return next(work_dir.rglob('*.log')).read_text()


def saved(work_dir: Path, epoch: int) -> dict:
    return torch.load(work_dir / f'epoch_{epoch}.pth', weights_only=False)


def test_three_classes_become_two(golden_dir, whole):
    folder, _, start = whole
    given = read_weights(golden_dir / 'yolov5n_bccd.pt')['state_dict']
    # all but the class outputs equals the file, to the bit
    named = [name for name in given if not name.endswith('num_batches_tracked')]
    assert all(torch.equal(start[name], given[name]) for name in named if not name.startswith(WITH_CLASSES))
    for level in range(3):
        # (A * (5 + C), ...) -> (A, 5 + C, ...): 3 anchors of 8 outputs there and 7 here, 5 of them box and objectness
        before = given[f'{WITH_CLASSES}{level}.weight'].unflatten(0, (3, 8))
        now = start[f'{WITH_CLASSES}{level}.weight'].unflatten(0, (3, 7))
        assert torch.equal(before[:, :5], now[:, :5]) and not torch.equal(before[:, 5:7], now[:, 5:])
    assert 'the checkpoint has 3 classes, the model 2: the class outputs' in log_of(folder)
    assert 'random initialisation' not in log_of(folder)


def test_frozen_parameters_stay_and_all_others_move(whole):
    folder, runner, start = whole
    end = runner.model.state_dict()
    unchanged = {name for name in end if torch.equal(end[name], start[name])}
    frozen_names = {name for name in end if name.startswith(FROZEN)}
    assert frozen_names <= unchanged
    # so few steps may move the weight of a norm, which is about 1, by less than its last bit
    assert {name for name in unchanged - frozen_names if not name.endswith('bn.weight')} == set()
    ema = saved(folder, EPOCHS)['state_dict']
    assert all(torch.equal(ema[name], start[name]) for name in frozen_names)
    # widths 16, 32, one bottleneck: stem 6*6*3*16 + 2*16; conv 9*16*32 + 64; CSP 2 * (32*16 + 32), 16*16 + 32,
    # 9*16*16 + 32, 32*32 + 64
    frozen = 1728 + 32 + 4608 + 64 + 2 * (512 + 32) + (256 + 32) + (2304 + 32) + (1024 + 64)
    assert f'{frozen:,} are frozen ({frozen:,} of backbone)' in log_of(folder)


def test_each_stage_learns_at_its_rate(whole):
    _, runner, _ = whole
    groups = runner.optim_wrapper.optimizer.param_groups
    rates = {id(parameter): group['initial_lr'] for group in groups for parameter in group['params']}
    by_name = {name: rates.get(id(parameter)) for name, parameter in runner.model.named_parameters()}
    # five levels: stage i of the backbone has 0.01 * 0.9 ** (5 - i), stem and stage 1 are frozen
    for name, rate in by_name.items():
        place = name.split('.')
        level = int(place[2]) if place[0] == 'backbone' else 5
        assert rate is None if level < 2 else rate == pytest.approx(0.01 * 0.9 ** (5 - level), rel=1e-12), name
    assert 'backbone.layers.4.0.conv.weight' in by_name


def test_a_resumed_run_equals_the_uninterrupted_one(whole, tiny, tmp_path):
    finetune(tmp_path / 'again', tiny, whole[0] / 'epoch_1.pth', resume=True)
    straight, again = saved(whole[0], EPOCHS), saved(tmp_path / 'again', EPOCHS)
    for part in ('state_dict', 'ema_state_dict'):
        assert all(torch.equal(value, again[part][name]) for name, value in straight[part].items()), part


def test_freezing_initialised_weights_is_logged(golden_dir, tiny, tmp_path):
    options = {'model.frozen_parts': ['bbox_head'], 'max_epochs': 1}
    finetune(tmp_path / 'run', tiny, golden_dir / 'yolov5n_bccd.pt', **options)
    assert '6 frozen tensors are not in it and keep their random initialisation' in log_of(tmp_path / 'run')


@pytest.mark.parametrize('name', ['yolov5_n_finetune_320_bccd', 'yolov5_s_finetune_640_custom'])
def test_missing_weights_give_an_error_with_a_cure(name, tmp_path):
    cfg = load_config(CONFIGS / f'{name}.py')
    with pytest.raises(ValueError, match=rf'there are no weights {cfg.load_from} to start from.*need no conversion'):
        check_start(cfg)


def test_the_template_sets_what_it_names():
    cfg = load_config(CONFIGS / 'yolov5_s_finetune_640_custom.py')
    assert cfg.model.bbox_head.num_classes == 2
    assert cfg.val_evaluator.ann_file == 'data/custom/annotations/val.json'
    assert cfg.default_hooks.accumulate.nominal_batch_size == 16
