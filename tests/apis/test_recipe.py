"""The recipe by data: which numbers it chooses, where they go, and what stays the user's."""

import json
import math

import pytest
import torch
from tiny_coco import REPO

from mmyolo_ext.apis import batch_size, load_config, recipe
from mmyolo_ext.apis.config import explicit_settings
from mmyolo_ext.apis.recipe import Facts, choose_recipe
from mmyolo_ext.registry import MODELS

NANO = REPO / 'configs' / 'yolov5' / 'yolov5_n_640_coco.py'
BCCD = REPO / 'configs' / 'yolov5' / 'yolov5_n_320_bccd.py'
FLIP, SCALE = 'train_dataloader.dataset.pipeline.2.prob', 'train_dataloader.dataset.pipeline.0.scale'


def chosen(facts: Facts) -> dict:
    return {choice.path: choice.value for choice in choose_recipe(facts)}


def write_data(folder, images, classes=('RBC', 'WBC', 'Platelets'), side=40, **settings):
    """A COCO file of images of 640 x 480 with a box each, and a config of five lines for it."""
    coco = {
        'images': [{'id': i, 'file_name': f'{i}.jpg', 'width': 640, 'height': 480} for i in range(images)],
        'annotations': [
            {'id': i, 'image_id': i, 'category_id': i % len(classes), 'bbox': [9, 9, side, side], 'area': side**2}
            for i in range(images)
        ],
        'categories': [{'id': label, 'name': name} for label, name in enumerate(classes)],
    }
    (folder / 'data.json').write_text(json.dumps(coco))
    base = settings.pop('base', NANO)
    lines = {
        'class_names': classes,
        'data_root': f'{folder}/',
        'train_ann': 'data.json',
        'val_ann': 'data.json',
        'recipe': 'auto',
        **settings,
    }
    path = folder / 'mine.py'
    path.write_text(f"_base_ = '{base}'\n" + ''.join(f'{key} = {value!r}\n' for key, value in lines.items()))
    return path


@pytest.mark.parametrize(
    ('images', 'batch', 'nominal', 'epochs', 'optimizer', 'horizon', 'closed'),
    [
        # steps per epoch: 8/4 = 2; 500 epochs are the most; a tenth of 1000 steps
        (8, 4, 4, 500, 'AdamW', 100, 50),
        (30, 8, 8, 480, 'AdamW', 200, 48),  # 4 steps: 1900 / 4 = 475
        (100, 16, 16, 270, 'AdamW', 200, 27),  # 7 steps: 1900 / 7 = 271
        (300, 16, 16, 100, 'AdamW', 200, 10),  # 19 steps
        # log(5000 / 292) / log(118000 / 292) = 0.473: 16 * 4^0.473 = 31, 100 * 3^0.473 = 168; 157 steps, 26,690 in all
        (5000, 16, 32, 170, 'AdamW', 3000, 10),
        (118_000, 16, 64, 300, 'SGD', 10_000, 10),
    ],
)
def test_the_table_of_the_documentation(images, batch, nominal, epochs, optimizer, horizon, closed):
    found = chosen(Facts(images))
    assert found.get('train_dataloader.batch_size', 16) == batch
    assert found['default_hooks.accumulate.nominal_batch_size'] == nominal
    assert found['train_cfg.max_epochs'] == epochs
    assert found['optim_wrapper.optimizer']['type'] == optimizer
    assert found['default_hooks.ema']['momentum'] == pytest.approx(1 / horizon, rel=1e-2)
    assert found['default_hooks.ema']['gamma'] == min(horizon, 2000)
    assert found['default_hooks.close_mosaic.num_last_epochs'] == closed
    assert found['train_cfg.val_interval'] == 10
    row = f'| {images:,} | {batch} | {nominal} | {epochs} | {optimizer} | {horizon:,} | {closed} |'
    assert row in (REPO / 'docs' / 'guides' / 'recipe.md').read_text(encoding='utf-8')


def test_the_recipe_has_no_jumps():
    """From one number of images to the next, no training becomes much shorter, and none needs an epoch without end."""
    counts = sorted({round(1.1**power) for power in range(130)})
    lengths = []
    for images in counts:
        found = chosen(Facts(images))
        step = found['default_hooks.accumulate.nominal_batch_size']
        lengths.append(found['train_cfg.max_epochs'] * math.ceil(images / step))
    assert all(after > 0.5 * before for before, after in zip(lengths, lengths[1:], strict=False))


def test_bccd_gets_the_settings_that_were_measured_on_it(tmp_path):
    auto = load_config(write_data(tmp_path, 292, input_size=320))
    measured = load_config(BCCD)
    assert auto.optim_wrapper == measured.optim_wrapper
    assert auto.train_cfg == measured.train_cfg
    (schedule,), (expected,) = auto.param_scheduler, measured.param_scheduler
    assert {**expected, 'min_warmup_iters': 100} == schedule  # the default of the scheduler
    for name in ('accumulate', 'ema', 'close_mosaic'):
        assert auto.default_hooks[name] == measured.default_hooks[name]
    assert auto.model == measured.model
    assert auto.train_dataloader.dataset.pipeline == measured.train_dataloader.dataset.pipeline
    assert auto.train_dataloader.batch_size == measured.train_dataloader.batch_size


def test_coco_keeps_its_recipe(monkeypatch):
    monkeypatch.setattr(recipe, 'read_data', lambda cfg: (118_287, ('person',), 20.0, (640, 640)))
    auto, published = load_config(NANO, {'recipe': 'auto'}), load_config(NANO)
    published.default_hooks.ema.update(momentum=1e-4, gamma=2000)  # the defaults of the hook
    for key in ('optim_wrapper', 'param_scheduler', 'train_cfg', 'default_hooks', 'model'):
        assert auto[key] == published[key], key
    assert auto.train_dataloader.dataset.pipeline == published.train_dataloader.dataset.pipeline


def test_what_the_user_sets_stays(tmp_path):
    own = {
        'default_hooks': {'ema': {'momentum': 0.3}, 'close_mosaic': None},
        'optim_wrapper': {'optimizer': {'lr': 0.005}},
        'batch_size': 2,
    }
    cfg = load_config(write_data(tmp_path, 30, **own), {'max_epochs': 7, 'train_dataloader.num_workers': 3})
    assert cfg.default_hooks.ema.momentum == 0.3 and 'close_mosaic' not in cfg.default_hooks
    assert dict(cfg.optim_wrapper.optimizer) == {'type': 'AdamW', 'lr': 0.005, 'weight_decay': 0.05}
    assert cfg.train_dataloader.batch_size == 2 and cfg.default_hooks.accumulate.nominal_batch_size == 8
    assert cfg.train_cfg.max_epochs == 7 and cfg.train_dataloader.num_workers == 3
    # what was left open follows: 7 epochs of 4 steps (batches of 2, 8 images per step), a tenth of them is 3 steps
    assert cfg.default_hooks.ema.gamma == 3 and cfg.train_cfg.val_interval == 1
    assert cfg.param_scheduler[0].warmup_epochs == 0.7
    paths = {choice['path'] for choice in cfg.chosen_recipe}
    assert not {'train_cfg.max_epochs', 'train_dataloader.batch_size', 'train_dataloader.num_workers'} & paths


def test_what_a_base_of_the_user_sets_stays(tmp_path):
    write_data(tmp_path, 30, train_cfg={'val_interval': 3}).rename(tmp_path / 'team.py')
    (tmp_path / 'mine.py').write_text("_base_ = './team.py'\nmax_epochs = 9\n")
    cfg = load_config(tmp_path / 'mine.py')
    assert (cfg.train_cfg.val_interval, cfg.train_cfg.max_epochs) == (3, 9)


def test_an_optimizer_of_the_user_stays_whole_and_its_schedule_fits(tmp_path):
    cfg = load_config(write_data(tmp_path, 30, optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.5}}))
    assert cfg.optim_wrapper.optimizer.momentum == 0.937 and cfg.optim_wrapper.optimizer.lr == 0.5
    assert cfg.param_scheduler[0].bias_start == 0.1 and len(cfg.param_scheduler) == 2
    adam = chosen(Facts(118_000, optimizer='AdamW'))
    assert 'optim_wrapper.optimizer' not in adam and adam['param_scheduler'][0]['bias_start'] == 0


def test_a_number_of_a_schedule_is_set_in_the_schedule_of_the_recipe(tmp_path):
    path = write_data(tmp_path, 30)
    (rates,) = load_config(path, {'param_scheduler.0.final_factor': 0.5}).param_scheduler
    assert (rates['final_factor'], rates['bias_start']) == (0.5, 0.0)
    path.write_text(path.read_text() + '_base_.param_scheduler[0].final_factor = 0.25\n')
    assert load_config(path).param_scheduler[0].final_factor == 0.25


def test_a_recipe_is_dumped_and_read_back(tmp_path):
    cfg = load_config(write_data(tmp_path, 30))
    cfg.dump(tmp_path / 'dumped.py')
    again = load_config(tmp_path / 'dumped.py')
    assert again.to_dict() == cfg.to_dict() and 'recipe' not in again
    assert all(set(choice) == {'path', 'value', 'reason'} and choice['reason'] for choice in cfg.chosen_recipe)


def test_a_tool_that_does_not_train_needs_no_training_data(tmp_path):
    path = write_data(tmp_path, 30)
    (tmp_path / 'data.json').unlink()
    assert load_config(path, with_recipe=False).train_cfg.max_epochs == 300
    with pytest.raises((ValueError, FileNotFoundError), match=r'data\.json'):
        load_config(path)


def test_the_optimizer_of_another_detector_stays(tmp_path):
    path = write_data(tmp_path, 30, base='mmdet::retinanet/retinanet_r18_fpn_1x_coco.py')
    plain = load_config(path, {'recipe': None})
    cfg = load_config(path)
    assert cfg.optim_wrapper == plain.optim_wrapper
    # two images per step, 15 steps per epoch: 1900 / 15 = 127; its schedules move along
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[1].end == 130


@pytest.mark.parametrize(
    ('names', 'mirrored'),
    [
        (('3', '8'), False),
        (('turn_left', 'stop'), False),
        (('Arrow-up',), False),
        (('cat', 'dog'), True),
        (('overturned truck', 'bright'), True),
    ],
)
def test_classes_with_a_direction_are_not_mirrored(names, mirrored):
    assert (FLIP not in chosen(Facts(300, names))) == mirrored


@pytest.mark.parametrize(('side', 'scale'), [(40.0, None), (8.1, None), (6.0, 0.3), (5.0, 0.2), (2.0, 0.1)])
def test_small_objects_are_not_shrunk_below_half_a_cell(side, scale):
    found = chosen(Facts(300, small_side=side))
    assert found.get(SCALE) == scale
    assert scale is None or scale == 0.1 or side * (1 - scale) >= 4


def test_boxes_are_measured_at_the_input_size(tmp_path):
    cfg = load_config(write_data(tmp_path, 5, side=40), {'input_size': 320, 'recipe': None})
    # 640 x 480 fits into 320 x 320 at half its size
    assert recipe.read_data(cfg) == (5, ('RBC', 'WBC', 'Platelets'), pytest.approx(20.0), (320, 320))


@pytest.mark.parametrize(
    ('images', 'memory', 'gb', 'text'),
    [(1000, 8.0, 1.3, '1.2 GB at most'), (5000, 8.0, 4.0, 'half of the free memory is 4.0 GB')],
)
def test_the_cache_holds_the_images_or_half_of_the_memory(images, memory, gb, text):
    (choice,) = (c for c in choose_recipe(Facts(images, memory_gb=memory)) if c.path.endswith('max_gb'))
    assert choice.value == gb and text in choice.reason  # 1000 * 640 * 640 * 3 = 1.23e9 bytes


def test_several_processes_share_a_step():
    found = chosen(Facts(300, ranks=4, device='cuda', cores=12))
    assert found['train_dataloader.batch_size'] == 4 and found['train_dataloader.num_workers'] == 8
    assert found['train_cfg.max_epochs'] == 100


def test_weights_halve_the_training():
    found = chosen(Facts(300, pretrained=True))
    assert found['train_cfg.max_epochs'] == 50 and found['param_scheduler'][0]['warmup_epochs'] == 1


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'recipe': 'best'}, "recipe must be 'auto' or None, got 'best'"),
        ({'patience': 0}, 'patience must be a whole number of at least 1, got 0'),
        ({'batch_size': 'all'}, "batch_size must be.*got 'all'"),
        (
            {'train_cfg': {'_delete_': True, 'by_epoch': False, 'max_iters': 9}},
            'needs a training of train_cfg.max_epochs',
        ),
    ],
)
def test_settings_that_cannot_be_meant(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        load_config(write_data(tmp_path, 30, **options))


def test_patience_is_counted_in_epochs(tmp_path):
    hook = load_config(write_data(tmp_path, 30, patience=25)).default_hooks.early_stopping
    assert (hook.patience, hook.monitor) == (3, 'coco/bbox_mAP')  # a validation every 10 epochs


def test_settings_of_a_file_are_found_by_their_paths(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(
        "_base_ = './base.py'\ntrain_cfg = dict(max_epochs=5)\nmodel = {'neck': {'widen_factor': 1}}\n"
        "_base_.optim_wrapper.optimizer.lr = 3\ndefault_hooks['ema'] = dict(_delete_=True, type='A')\nsteps = [1]\n"
    )
    assert explicit_settings(path) == {
        *(
            'train_cfg.max_epochs',
            'model.neck.widen_factor',
            'optim_wrapper.optimizer.lr',
            'default_hooks.ema',
            'steps',
        )
    }
    (tmp_path / 'mine.yaml').write_text('_base_: base.py\ntrain_cfg: {max_epochs: 5}\n')
    assert explicit_settings(tmp_path / 'mine.yaml') == {'train_cfg.max_epochs'}


# the batch size by memory


@pytest.mark.parametrize(
    ('limit', 'expected'),
    # 1 + 0.3 b <= limit for b < 8, 1 + 0.28 b from 8 on, where another kernel is faster; 40 GB are all there is
    [(1.3, 1), (1.6, 2), (2.9, 4), (3.3, 8), (10.0, 32), (100.0, 136)],
)
def test_the_largest_batch_that_fits(limit, expected):
    calls = []

    def used(size):
        calls.append(size)
        gb = 1 + (0.3 if size < 8 else 0.28) * size
        return gb if gb < 40 else math.inf  # out of memory

    assert batch_size.largest_batch(used, limit) == expected and len(calls) <= 7
    assert batch_size.largest_batch(used, limit, most=expected) == expected


def test_a_gpu_too_small_for_one_image():
    with pytest.raises(ValueError, match=r'one image needs more than 1\.2 GB'):
        batch_size.largest_batch(lambda size: math.inf, 1.2)


def test_a_gpu_takes_what_fits_but_not_more_than_a_step(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_size, 'get_device', lambda: 'cuda')
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda: (10e9, 80e9))
    for gb_per_image, expected in ((0.1, 16), (0.8, 8), (1.6, 4)):  # of 7 GB: 70, 8, 4 images; a step has 16
        monkeypatch.setattr(batch_size, 'step_memory', lambda cfg, device, gb=gb_per_image: lambda size: size * gb)
        cfg = load_config(write_data(tmp_path, 100, batch_size='auto'))
        assert cfg.train_dataloader.batch_size == expected and cfg.val_dataloader.batch_size == 16
        assert '70% of 10.0 GB' in cfg.chosen_recipe[0]['reason']


def test_without_a_gpu_the_batch_stays(tmp_path, monkeypatch):
    assert load_config(write_data(tmp_path, 100, batch_size='auto')).train_dataloader.batch_size == 16
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(ValueError, match='needs one process, got 2'):
        load_config(write_data(tmp_path, 100, batch_size='auto'))


def test_the_measured_step_is_a_training_step(tmp_path, monkeypatch):
    """The random batch passes the preprocessor, the losses and the optimizer; only the memory is simulated."""
    cfg = load_config(write_data(tmp_path, 30, input_size=64, model={'backbone': {'widen_factor': 0.125}}))
    for name in ('empty_cache', 'reset_peak_memory_stats'):
        monkeypatch.setattr(torch.cuda, name, lambda *args: None)
    monkeypatch.setattr(torch.cuda, 'max_memory_reserved', lambda device: 3e9)
    used = batch_size.step_memory(cfg, torch.device('cpu'))
    # float32: parameters, norm statistics; int64: counts of the batches
    state = MODELS.build(cfg.model).state_dict().values()
    count = sum(tensor.numel() * (8 if tensor.dtype == torch.int64 else 4) for tensor in state)
    assert used(2) == pytest.approx(3 + count / 1e9, rel=1e-9)
