"""A space read and fitted to a config, and values written as a config on top of it."""

import copy
import re

import pytest
from mmengine.config import ConfigDict
from tiny_coco import REPO
from tuning_case import CONFIG, write_case

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.tuning.delta import check_effect, delta_text
from mmyolo_ext.apis.tuning.keys import NoSuchKeyError, places_of, value_at
from mmyolo_ext.apis.tuning.memory import decode, distribution, encode
from mmyolo_ext.apis.tuning.plan import flat
from mmyolo_ext.apis.tuning.space import fit_space, read_space
from mmyolo_ext.apis.tuning.words import short_names

DEFAULT = REPO / 'configs' / '_base_' / 'tuning' / 'yolov5.py'
AFFINE = ('train_dataloader', 'dataset', 'dataset', 'pipeline', 0, 'scale')


@pytest.fixture
def cfg(tmp_path) -> ConfigDict:
    return load_config(write_case(tmp_path) / 'config.py')._cfg_dict


def fit_one(cfg, entry, key='optim_wrapper.optimizer.lr'):
    (parameter,) = fit_space({key: entry}, cfg)[0].values()
    return parameter


def test_keys_lead_to_their_places(cfg):
    assert places_of(cfg, 'optim_wrapper.optimizer.lr') == [('optim_wrapper', 'optimizer', 'lr')]
    assert places_of(cfg, 'train_dataloader.dataset.dataset.pipeline.1.prob') == [(*AFFINE[:4], 1, 'prob')]
    assert places_of(cfg, 'train_dataloader...Affine.scale') == [AFFINE]
    assert places_of(cfg, 'train_dataloader...pipeline.0.scale') == [AFFINE]
    # two loaders have one; training's stands first
    assert places_of(cfg, '...Affine.scale') == [AFFINE, ('val_dataloader', 'dataset', 'pipeline', 0, 'scale')]
    assert places_of(cfg, 'train_dataloader...Inner...Flip.prob') == [(*AFFINE[:4], 1, 'prob')]
    assert places_of(cfg, 'model.head.new', may_be_new=True) == [('model', 'head', 'new')]
    assert value_at(cfg, AFFINE) == 0.5 and value_at(cfg, ('model', 'head', 'new')) is None


@pytest.mark.parametrize(
    ('key', 'message'),
    [
        ('optim_wraper.optimizer.lr', "did you mean 'optim_wrapper'"),
        ('optim_wrapper.optimizer.rate', 'in optim_wrapper.optimizer there are type, lr, momentum, betas'),
        ('optim_wrapper.optimizer.lr.low', 'in optim_wrapper.optimizer.lr there is 0.01, which holds nothing'),
        ('train_dataloader.dataset.dataset.pipeline.2.scale', "pipeline there is a list of 2, which '2' does not"),
        ('train_dataloader...HSV.hue', 'there is no HSV in train_dataloader'),
        ('train_dataloader...Affine.scal', "did you mean 'scale'"),
    ],
)
def test_a_key_that_is_not_there(cfg, key, message):
    with pytest.raises(NoSuchKeyError, match=message):
        places_of(cfg, key)
    with pytest.raises(ValueError, match='default=.*optional=True'):
        fit_space({key: {'low': 0.0, 'high': 1.0}}, cfg)
    found, left_out = fit_space(
        {key: {'low': 0.0, 'high': 1.0, 'optional': True}, 'model.head.mode': ['ciou', 'x']}, cfg
    )
    assert list(found) == ['model.head.mode'] and left_out == [key]


@pytest.mark.parametrize('key', ['a..b', '', 'a.', '.a', 'a....b', 'a...'])
def test_a_key_that_is_none(cfg, key):
    with pytest.raises(ValueError, match='is no key'):
        places_of(cfg, key)


def test_ranges(cfg):
    lr = fit_one(cfg, {'low': 1e-3, 'high': 0.1, 'log': True})
    assert (lr.present, lr.low, lr.high, lr.log, lr.whole) == (0.01, 1e-3, 0.1, True, False)
    assert lr.another() == 0.1 and lr.rounded(0.0123456) == 0.01235 and lr.rounded(0.01) == 0.01
    # never rounded out of the range
    assert fit_one(cfg, {'low': 0.00123444, 'high': 0.1}).rounded(0.00123444) == 0.00123444
    # whole numbers in the space, none in the config
    assert fit_one(cfg, {'low': 0, 'high': 1}).whole is False
    batch = fit_one(cfg, {'low': 2, 'high': 8, 'step': 2}, 'train_dataloader.batch_size')
    assert batch.whole and batch.step == 2 and distribution(batch).step == 2
    # 0.01 / 10 and 0.01 * 10; of 4: 4 / 3 rounds up to 2, 12
    lr = fit_one(cfg, {'factor': 10})
    assert (lr.low, lr.high, lr.log) == (pytest.approx(1e-3), pytest.approx(0.1), True)
    batch = fit_one(cfg, {'factor': 3}, 'train_dataloader.batch_size')
    assert (batch.low, batch.high, batch.whole) == (2, 12, True)
    new = fit_one(cfg, {'low': 0.0, 'high': 0.2, 'default': 0.0}, 'model.head.smoothing')
    assert new.present == 0.0 and new.places == (('model', 'head', 'smoothing'),)
    assert fit_one(cfg, {'choices': [32, 64], 'default': 64}, 'input_size').places == (('input_size',),)


def test_choices_of_any_kind_are_kept_and_found_again(cfg):
    betas = fit_one(cfg, [(0.9, 0.999), (0.8, 0.99)], 'optim_wrapper.optimizer.betas')
    assert betas.present == (0.9, 0.999) and betas.another() == (0.8, 0.99)
    kept = [encode(betas, value) for value in betas.choices]
    assert kept == ['(0.9, 0.999)', '(0.8, 0.99)'] == list(distribution(betas).choices)
    assert [decode(betas, value) for value in kept] == list(betas.choices)
    mode = fit_one(cfg, ['ciou', 'siou', None], 'model.head.mode')
    assert [encode(mode, value) for value in mode.choices] == ['ciou', 'siou', None]


@pytest.mark.parametrize(
    ('entry', 'message'),
    [
        (0.1, 'must be dict'),
        ({'lo': 0.1, 'high': 1.0}, r"words \['lo'\]: allowed are low, high"),
        ({'low': 0.1}, 'low and high, or factor, or choices'),
        ({'low': 0.001, 'high': 0.1, 'factor': 2}, 'one of these alone'),
        ({'factor': 2, 'log': True}, 'one of these alone'),
        ({'choices': [0.01, 0.1], 'step': 1}, 'one of these alone'),
        ({'low': 0.1, 'high': 0.001}, 'low must be below high'),
        ({'low': 0.0, 'high': 0.1, 'log': True}, 'above 0 with log'),
        ({'low': 0.0, 'high': 0.1, 'step': 0.2}, 'step goes without log'),
        ({'low': 0.001, 'high': 0.1, 'step': 0.01, 'log': True}, 'step goes without log'),
        ({'low': 'small', 'high': 0.1}, "low must be a number, got 'small'"),
        ({'low': 0.0, 'high': float('inf')}, 'high must be a number, got inf'),
        ({'low': 0.05, 'high': 0.1}, 'is 0.01 in the config, outside of 0.05 to 0.1'),
        ({'factor': 1}, 'factor must be above 1'),
        ([0.01], 'two or more different choices'),
        ([0.01, 0.01], 'two or more different choices'),
        ([0.1, 0.2], r'the config has 0.01: add that'),
    ],
)
def test_a_bad_entry_is_named(cfg, entry, message):
    with pytest.raises(ValueError, match=message) as error:
        fit_one(cfg, entry)
    assert 'optim_wrapper.optimizer.lr' in str(error.value)


def test_other_faults_of_a_space(cfg):
    with pytest.raises(ValueError, match='which has no range: give it choices'):
        fit_one(cfg, {'low': 0, 'high': 1}, 'model.head.mode')
    with pytest.raises(ValueError, match="lies in a tuple.*give 'optim_wrapper.optimizer.betas' choices"):
        fit_one(cfg, {'low': 0.5, 'high': 1.0}, 'optim_wrapper.optimizer.betas.0')
    with pytest.raises(ValueError, match='are the same place'):
        fit_space({'train_dataloader...Affine.scale': {'factor': 2}, '...Outer...Affine.scale': {'factor': 2}}, cfg)
    with pytest.raises(ValueError, match='several places with different values'):
        other = copy.deepcopy(cfg)
        other.val_dataloader.dataset.pipeline[0].scale = 0.7
        fit_one(other, {'factor': 2}, '...Affine.scale')
    with pytest.raises(ValueError, match='is a shortcut for several keys'):
        fit_one(cfg, [4, 8], 'batch_size')
    with pytest.raises(ValueError, match='the config has none of the keys of the space: model.x'):
        fit_space({'model.x': {'factor': 2, 'optional': True}}, cfg)


def test_the_file_of_a_space(tmp_path):
    with pytest.raises(ValueError, match='there is no space'):
        read_space(tmp_path / 'none.py')
    for name, text, message in (
        ('a.py', 'space = {', 'cannot be read: SyntaxError'),
        ('b.py', 'spaces = dict(a=1)', r'must hold space = .* got None'),
        ('c.yaml', 'space: 3', 'got 3'),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=message):
            read_space(tmp_path / name)
    # YAML reads 1e-4 as text
    (tmp_path / 'd.yaml').write_text('space:\n  optim_wrapper.optimizer.lr: {low: 1e-4, high: 1e-1, log: true}\n')
    cfg = load_config(write_case(tmp_path) / 'config.py')._cfg_dict
    found, _ = fit_space(read_space(tmp_path / 'd.yaml'), cfg)
    assert (found['optim_wrapper.optimizer.lr'].low, found['optim_wrapper.optimizer.lr'].high) == (1e-4, 0.1)


SETTINGS = {
    'optim_wrapper.optimizer.lr': 0.02,
    'optim_wrapper.optimizer.betas': (0.8, 0.99),
    'train_dataloader...Affine.scale': 0.25,
    'train_dataloader.batch_size': 8,
    'model.head.loss_cls.loss_weight': 0.75,
    'model.head.smoothing': 0.1,
}


def test_a_config_on_top_has_the_values_and_nothing_else_changed(tmp_path):
    config = write_case(tmp_path) / 'config.py'
    cfg = load_config(config)
    entries = {key: {'low': 0, 'high': 9, 'default': 0.0} for key in SETTINGS}
    entries['optim_wrapper.optimizer.betas'] = [(0.9, 0.999), (0.8, 0.99)]
    space, _ = fit_space(entries, cfg._cfg_dict)
    values = {key: (space[key], value) for key, value in SETTINGS.items()}
    (tmp_path / 'out').mkdir()
    out = tmp_path / 'out' / 'best.py'
    out.write_text(delta_text(config, out.parent, values, ['a note']))
    lines = out.read_text().splitlines()
    assert lines[:2] == ['# a note', "_base_ = ['../config.py']"]
    assert 'optim_wrapper = dict(optimizer=dict(lr=0.02, betas=(0.8, 0.99)))' in lines
    assert 'train_dataloader.dataset.dataset.pipeline[0].scale = 0.25' in lines
    before, after = flat(cfg.to_dict()), flat(check_effect(out, values, None).to_dict())
    assert {key: text for key, text in after.items() if before.get(key) != text} == {
        'optim_wrapper.optimizer.lr': '0.02', 'optim_wrapper.optimizer.betas.0': '0.8',
        'optim_wrapper.optimizer.betas.1': '0.99', 'train_dataloader.dataset.dataset.pipeline.0.scale': '0.25',
        'train_dataloader.batch_size': '8', 'model.head.loss_cls.loss_weight': '0.75', 'model.head.smoothing': '0.1',
    }  # fmt: skip
    assert before.keys() - after.keys() == set()


def test_long_lines_are_broken_and_odd_names_quoted(tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(
        "model = {'custom_keys': {'a b': {'lr_mult': 1.0}}, 'items': {'x': 1.0}, 'list': [{'keys': 1.0}]}\n"
    )
    cfg = load_config(config)
    space, _ = fit_space(
        {f'model.{key}': {'factor': 2} for key in ('custom_keys.a b.lr_mult', 'items.x')}, cfg._cfg_dict
    )
    text = delta_text(config, tmp_path, {key: (one, 1.5) for key, one in space.items()})
    assert "model = dict(custom_keys={'a b': dict(lr_mult=1.5)}, items=dict(x=1.5))" in text
    space, _ = fit_space({f'model.{key}': {'factor': 2} for key in ('list.0.keys', 'items.x')}, cfg._cfg_dict)
    (tmp_path / 'best.py').write_text(delta_text(config, tmp_path, {key: (one, 1.5) for key, one in space.items()}))
    assert "model.list[0]['keys'] = 1.5" in (tmp_path / 'best.py').read_text()
    cfg = check_effect(tmp_path / 'best.py', {key: (one, 1.5) for key, one in space.items()}, None)
    assert cfg.model['items'].x == 1.5
    config = write_case(tmp_path) / 'config.py'
    keys = ['loss_cls.loss_weight', 'loss_obj.loss_weight', *(f'a_rather_long_name_{number}' for number in range(3))]
    entries = {f'model.head.{key}': {'low': 0.0, 'high': 2.0, 'default': 1.0} for key in keys}
    space, _ = fit_space(entries, load_config(config)._cfg_dict)
    (tmp_path / 'best.py').write_text(delta_text(config, tmp_path, {key: (one, 2.0) for key, one in space.items()}))
    text = (tmp_path / 'best.py').read_text()
    assert '\nmodel = dict(\n    head=dict(\n        loss_cls=dict(loss_weight=2.0),\n' in text
    assert load_config(tmp_path / 'best.py').model.head.a_rather_long_name_2 == 2.0


def test_a_value_that_a_shortcut_sets_again_is_refused(tmp_path):
    config = write_case(tmp_path) / 'config.py'
    config.write_text(f'{CONFIG}\nbatch_size = 4\n')
    space, _ = fit_space({'train_dataloader.batch_size': {'low': 2, 'high': 8}}, load_config(config)._cfg_dict)
    values = {key: (one, 8) for key, one in space.items()}
    (tmp_path / 'best.py').write_text(delta_text(config, tmp_path, values))
    with pytest.raises(ValueError, match="setting 'train_dataloader.batch_size' to 8 changes nothing: it is 4 still"):
        check_effect(tmp_path / 'best.py', values, None)
    with pytest.raises(ValueError, match='in the space and in --cfg-options'):
        check_effect(tmp_path / 'best.py', values, {'train_dataloader.batch_size': 8})
    # as a shortcut it can be searched
    space, _ = fit_space({'batch_size': {'choices': [4, 8], 'default': 4}}, load_config(config)._cfg_dict)
    values = {key: (one, 8) for key, one in space.items()}
    (tmp_path / 'best.py').write_text(delta_text(config, tmp_path, values))
    assert check_effect(tmp_path / 'best.py', values, None).val_dataloader.batch_size == 8


@pytest.mark.parametrize('config', ['yolov5/n_320_bccd', 'yolov5/m_640_coco', 'quickstart/yolov5n_digits'])
def test_the_default_space_fits_our_configs(config, tmp_path):
    path = REPO / 'configs' / f'{config}.py'
    space, left_out = fit_space(read_space(DEFAULT), load_config(path)._cfg_dict)
    assert 'optim_wrapper.optimizer.lr' in space and len(space) + len(left_out) == len(read_space(DEFAULT))
    assert ('train_dataloader...MixUp.prob' in space) == ('m_640' in config)
    assert ('train_dataloader...HSVJitter.hue' in left_out) == ('digits' in config)
    values = {key: (parameter, parameter.another()) for key, parameter in space.items()}
    (tmp_path / 'best.py').write_text(delta_text(path, tmp_path, values))
    check_effect(tmp_path / 'best.py', values, {'max_epochs': 3})


def test_the_space_of_the_digits_fits_their_config(tmp_path):
    path = REPO / 'configs' / 'quickstart' / 'yolov5n_digits.py'
    space, left_out = fit_space(read_space(DEFAULT.with_name('digits.py')), load_config(path)._cfg_dict)
    # 0.003 / 5 and * 5; 0.05 / 10 and * 10; 8 / 8 and * 8; 0.4 / 4 and * 4; by the numbers the last two
    ranges = [(0.0006, 0.015), (0.005, 0.5), (1, 64), (0.1, 1.6), (0, 0.5), (0, 0.3)]
    assert [(one.low, one.high) for one in space.values()] == [pytest.approx(ends) for ends in ranges]
    assert [one.log for one in space.values()] == [True] * 4 + [False] * 2 and left_out == []
    assert [one.present for one in space.values()] == [0.003, 0.05, 8.0, 0.4, 0.1, 0.1]
    values = {key: (parameter, parameter.another()) for key, parameter in space.items()}
    (tmp_path / 'best.py').write_text(delta_text(path, tmp_path, values))
    check_effect(tmp_path / 'best.py', values, {'max_epochs': 4, 'train_cfg.val_interval': 1})


def test_the_space_of_the_docs(tmp_path):
    page = (REPO / 'docs' / 'tuning.md').read_text()
    (tmp_path / 'space.py').write_text(re.search(r'```python\n(space = .*?)```', page, re.DOTALL)[1])
    path = REPO / 'configs' / 'yolov5' / 'n_320_bccd.py'
    space, left_out = fit_space(read_space(tmp_path / 'space.py'), load_config(path)._cfg_dict)
    assert len(space) == 6 and left_out == ['train_dataloader...MixUp.prob']
    values = {key: (parameter, parameter.another()) for key, parameter in space.items()}
    (tmp_path / 'best.py').write_text(delta_text(path, tmp_path, values))
    check_effect(tmp_path / 'best.py', values, None)


def test_short_names():
    keys = ['a.loss_cls.loss_weight', 'a.loss_obj.loss_weight', 'b.lr', 'c...HSV.hue', 'd.betas.0']
    assert list(short_names(keys).values()) == [
        'loss_cls.loss_weight',
        'loss_obj.loss_weight',
        'lr',
        'HSV.hue',
        'betas.0',
    ]
