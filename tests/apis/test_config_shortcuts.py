"""A user's five lines reach every place they matter; a wrong letter is named."""

import pytest
from mmengine.config import Config
from tiny_coco import REPO, write_user_config

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.config_nodes import leaf_datasets, walk
from mmyolo_ext.apis.shortcuts import SHORTCUTS

NANO = REPO / 'configs' / 'yolov5' / 'yolov5_n_640_coco.py'
LARGE = REPO / 'configs' / 'yolov5' / 'yolov5_l_640_coco.py'
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def steps(cfg: Config, kind: str) -> list[dict]:
    return [node for loader in LOADERS for node in walk(cfg[loader]) if str(node.get('type')).endswith(kind)]


@pytest.fixture(scope='module')
def cfg(tmp_path_factory):
    folder = tmp_path_factory.mktemp('user')
    return load_config(write_user_config(folder / 'mine.py', folder / 'pets'))


def test_class_names_reach_data_and_head(cfg):
    datasets = [d for loader in LOADERS for d in leaf_datasets(cfg[loader].dataset)]
    assert [d.metainfo.classes for d in datasets] == [('red', 'blue')] * 3
    assert cfg.model.bbox_head.num_classes == 2


def test_files_reach_data_and_metrics(cfg):
    train, val, test = (next(leaf_datasets(cfg[loader].dataset)) for loader in LOADERS)
    assert train.data_root == val.data_root == test.data_root and train.data_root.endswith('/pets/')
    assert (train.ann_file, train.data_prefix) == ('train.json', {'img': 'train/'})
    assert (val.ann_file, val.data_prefix) == (test.ann_file, test.data_prefix) == ('val.json', {'img': 'val/'})
    assert cfg.val_evaluator.ann_file == cfg.test_evaluator.ann_file == train.data_root + 'val.json'


def test_input_size_reaches_transforms_head_and_views(cfg):
    for kind, key in (
        ('CachedDataset', 'size'),
        ('MosaicAffine', 'size'),
        ('Letterbox', 'size_hw'),
        ('RectBatchDataset', 'size'),
    ):
        assert steps(cfg, kind) and {tuple(t[key]) for t in steps(cfg, kind)} == {(64, 64)}
    assert cfg.model.bbox_head.input_size == 64
    # views of 512, 640, 768 px, times 64 / 640, rounded to whole strides of 32: 51, 64 and 77 px
    assert [view['size_hw'] for view in cfg.tta_pipeline[1].transforms[1]] == [(64, 64)] * 3


def test_a_rectangle_is_height_by_width():
    cfg = load_config(NANO, {'input_size': [320, 640]})
    assert steps(cfg, 'MosaicAffine')[0]['size'] == steps(cfg, 'Letterbox')[0]['size_hw'] == (320, 640)
    assert steps(cfg, 'CachedDataset')[0]['size'] == (320, 640)
    assert cfg.model.bbox_head.input_size == (320, 640)
    assert [step['scale'] for step in cfg.inference_pipeline if 'scale' in step] == [(640, 320)]  # width, height
    views = [view['size_hw'] for view in cfg.tta_pipeline[1].transforms[1]]
    assert views == [(256, 512), (320, 640), (384, 768)]


def test_max_epochs_reaches_loop_and_hooks(cfg):
    assert cfg.train_cfg.max_epochs == cfg.train_cfg.val_interval == 2
    assert cfg.default_hooks.close_mosaic.num_last_epochs == 0  # at most a third of the training
    assert load_config(NANO, {'max_epochs': 60}).default_hooks.close_mosaic.num_last_epochs == 10


def test_batch_size_reaches_loaders(cfg):
    assert [cfg[loader].batch_size for loader in LOADERS] == [2, 2, 2]


def test_shortcuts_are_spent(cfg):
    assert not set(SHORTCUTS) & set(cfg.keys())


def test_shortcuts_reach_the_inner_data_set_of_mixup():
    cfg = load_config(LARGE, {'class_names': 'cell', 'input_size': 320})
    (train,) = leaf_datasets(cfg.train_dataloader.dataset)
    assert train.metainfo.classes == ('cell',) and cfg.model.bbox_head.num_classes == 1
    assert steps(cfg, 'MixUp') and steps(cfg, 'MosaicAffine')[0]['size'] == (320, 320)


def test_a_test_split_of_its_own_is_left_alone(tmp_path):
    own = "test_dataloader['dataset'] = dict(dataset=dict(ann_file='t.json'))"
    path = write_user_config(tmp_path / 'mine.py', tmp_path, extra=own)
    cfg = load_config(path)
    assert next(leaf_datasets(cfg.test_dataloader.dataset)).ann_file == 't.json'
    assert cfg.test_evaluator.ann_file == f'{tmp_path}/t.json' and cfg.val_evaluator.ann_file == f'{tmp_path}/val.json'


def test_other_options_come_after_shortcuts():
    cfg = load_config(NANO, {'val_dataloader.batch_size': 1, 'batch_size': 8, 'optim_wrapper.optimizer.lr': 0.5})
    assert [cfg[loader].batch_size for loader in LOADERS] == [8, 1, 8]
    assert cfg.optim_wrapper.optimizer.lr == 0.5


def test_a_dumped_config_reads_the_same(cfg, tmp_path):
    cfg.dump(tmp_path / 'dumped.py')
    assert load_config(tmp_path / 'dumped.py').to_dict() == cfg.to_dict()


def test_schedules_with_an_end_are_moved(tmp_path):
    (tmp_path / 'mine.py').write_text(
        f"_base_ = '{NANO}'\nmax_epochs = 30\n"
        "param_scheduler = [dict(type='CosineAnnealingLR', T_max=300, end=300), dict(type='ConstantLR', end=5),\n"
        "                   dict(type='MultiStepLR', milestones=[5, 40, 200])]\n"
    )
    cosine, constant, steps = load_config(tmp_path / 'mine.py').param_scheduler
    assert (cosine['T_max'], cosine['end'], constant['end']) == (30, 30, 5)
    # 40 * 30 / 300 = 4 would be before 5, which belongs to a warm-up and stays; warm-ups end by half of 30
    assert steps['milestones'] == [5, 15, 20]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'input_size': 100}, 'multiples of 32, the largest stride, got 100'),
        ({'class_names': ['a', 'a']}, 'distinct names'),
        ({'class_names': []}, 'distinct names'),
        ({'max_epochs': 0}, 'max_epochs must be a whole number of at least 1, got 0'),
        ({'batch_size': '8x'}, "batch_size must be.*got '8x'"),
        ({'train_dataloder.batch_size': 4}, "did you mean 'train_dataloader'"),
        ({'train_cfg.max_epoch': 4}, "'max_epoch' is not a key for --cfg-options.*did you mean 'max_epochs'"),
        ({'model.bbox_head.num_class': 4}, "did you mean 'num_classes'"),
        ({'param_scheduler.0.warmup_epoch': 4}, "did you mean 'warmup_epochs'"),
        ({'zebra.stripes': 4}, "has no key 'zebra'"),
    ],
)
def test_options_that_cannot_be_meant(options, message):
    with pytest.raises(ValueError, match=message):
        load_config(NANO, options)


def test_a_new_key_in_an_option_is_allowed():
    assert load_config(NANO, {'model.bbox_head.auto_balance': True}).model.bbox_head.auto_balance is True


@pytest.mark.parametrize(
    ('line', 'meant'),
    [
        ('class_name = ("a",)', 'class_names'),
        ('optim_wraper = dict()', 'optim_wrapper'),
        ('max_epoch = 3', 'max_epochs'),
    ],
)
def test_a_misspelt_key_of_the_file_is_named(tmp_path, line, meant):
    path = tmp_path / 'mine.py'
    path.write_text(f"_base_ = '{NANO}'\n{line}\n")
    with pytest.raises(ValueError, match=f'mine.py.*did you mean {meant!r}'):
        load_config(path)


def test_variables_of_the_author_pass(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(f"_base_ = '{NANO}'\nmax_epoch = 3\ntrain_cfg = dict(max_epochs=max_epoch)\nseed_of_mine = 1\n")
    assert load_config(path).train_cfg.max_epochs == 3


def test_a_misspelt_key_of_a_base_is_named(tmp_path):
    (tmp_path / 'base.py').write_text(f"_base_ = ['{NANO}']\nclass_name = ('a',)\n")
    (tmp_path / 'mine.py').write_text("_base_ = './base.py'\n")
    with pytest.raises(ValueError, match='base.py'):
        load_config(tmp_path / 'mine.py')


def test_a_missing_or_broken_config_is_named(tmp_path):
    with pytest.raises(ValueError, match='there is no config .*yolov5_n_641_coco.py'):
        load_config(NANO.with_name('yolov5_n_641_coco.py'))
    (tmp_path / 'broken.py').write_text('model = dict(\n')
    with pytest.raises(ValueError, match='broken.py cannot be read: SyntaxError'):
        load_config(tmp_path / 'broken.py')
    (tmp_path / 'orphan.py').write_text("_base_ = './nowhere.py'\n")
    with pytest.raises(ValueError, match='orphan.py cannot be read: FileNotFoundError'):
        load_config(tmp_path / 'orphan.py')


def test_shortcuts_serve_mmdet_configs_too(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(
        "_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'\nclass_names = ('a', 'b')\nmax_epochs = 6\n"
    )
    cfg = load_config(path)
    assert cfg.model.bbox_head.num_classes == 2
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[1].end == 6
