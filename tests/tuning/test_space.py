"""The search space: keys found in a config, distributions, and one clear error for each mistake."""

import re

import pytest
from mmengine.config import Config
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from tiny_coco import REPO

from mmyolo_ext.apis import load_config
from mmyolo_ext.tuning import read_space, resolve_space
from mmyolo_ext.tuning.space import MissingKeyError, encode, find_places

LR = 'optim_wrapper.optimizer.lr'
AFFINE = ('train_dataloader', 'dataset', 'dataset', 'pipeline', 0, 'scale')


@pytest.fixture
def cfg() -> Config:
    inner = {'type': 'Inner', 'pipeline': [{'type': 'my.Affine', 'scale': 0.5}, {'type': 'my.Flip', 'prob': 0.5}]}
    return Config(
        {
            'optim_wrapper': {'optimizer': {'type': 'SGD', 'lr': 0.01, 'betas': (0.9, 0.999)}},
            'model': {'head': {'mode': 'ciou', 'smoothing': None}},
            'train_dataloader': {'batch_size': 4, 'dataset': {'type': 'Outer', 'dataset': inner}},
            'val_dataloader': {'dataset': {'type': 'Inner', 'pipeline': [{'type': 'my.Affine', 'scale': 0.5}]}},
        }
    )


def resolve_one(cfg, entry, key=LR):
    (parameter,) = resolve_space({key: entry}, cfg)[0]
    return parameter


def test_keys_are_found_through_wrappers(cfg):
    val = ('val_dataloader', 'dataset', 'pipeline', 0, 'scale')
    cases = {
        LR: [('optim_wrapper', 'optimizer', 'lr')],
        'train_dataloader...Affine.scale': [AFFINE],
        'train_dataloader...pipeline.0.scale': [AFFINE],
        '...Affine.scale': [AFFINE, val],
        'train_dataloader...Inner...Flip.prob': [(*AFFINE[:4], 1, 'prob')],
    }
    for key, places in cases.items():
        assert list(find_places(cfg._cfg_dict, key)) == places
    assert list(find_places(cfg._cfg_dict, 'model.head.new', may_be_new=True)) == [('model', 'head', 'new')]
    scale = resolve_one(cfg, {'low': 0.0, 'high': 0.9}, '...Affine.scale')
    assert scale.options == (
        'train_dataloader.dataset.dataset.pipeline.0.scale',
        'val_dataloader.dataset.pipeline.0.scale',
    )


@pytest.mark.parametrize(
    ('key', 'message'),
    [
        ('optim_wraper.optimizer.lr', "did you mean 'optim_wrapper'"),
        ('optim_wrapper.optimizer.rate', r"optim_wrapper.optimizer has \['type', 'lr', 'betas'\]"),
        ('optim_wrapper.optimizer.lr.low', 'optim_wrapper.optimizer.lr has 0.01'),
        ('train_dataloader...HSV.hue', 'there is no HSV in train_dataloader'),
        ('train_dataloader...Affine.scal', "did you mean 'scale'"),
    ],
)
def test_a_missing_key_is_an_error_unless_optional(cfg, key, message):
    with pytest.raises(MissingKeyError, match=message):
        list(find_places(cfg._cfg_dict, key))
    with pytest.raises(ValueError, match='give default=.*or optional=True'):
        resolve_space({key: {'low': 0.0, 'high': 1.0}}, cfg)
    entry = {'low': 0.0, 'high': 1.0, 'optional': True}
    found, missing = resolve_space({key: entry, 'model.head.mode': ['ciou', 'siou']}, cfg)
    assert [one.key for one in found] == ['model.head.mode'] and missing == [key]


@pytest.mark.parametrize('key', ['a..b', '', 'a.', '.a', 'a....b', 'a...'])
def test_a_malformed_key_is_an_error(cfg, key):
    with pytest.raises(MissingKeyError, match='the config has no key'):
        list(find_places(cfg._cfg_dict, key))


def test_distributions(cfg):
    assert resolve_one(cfg, {'low': 1e-3, 'high': 0.1, 'log': True}).distribution == FloatDistribution(
        1e-3, 0.1, log=True
    )
    # 0.01 / 10 and 0.01 * 10; for the integer 4: 4 / 3 rounds up to 2, 4 * 3 = 12
    wide = resolve_one(cfg, {'factor': 10}).distribution
    assert (wide.low, wide.high, wide.log) == (pytest.approx(1e-3), pytest.approx(0.1), True)
    batch = 'train_dataloader.batch_size'
    assert resolve_one(cfg, {'factor': 3}, batch).distribution == IntDistribution(2, 12, log=True)
    assert resolve_one(cfg, {'low': 2, 'high': 8, 'step': 2}, batch).distribution == IntDistribution(2, 8, step=2)
    assert resolve_one(cfg, {'low': 2, 'high': 8, 'step': 2}, batch).choice_text == '2 to 8 in steps of 2'
    assert resolve_one(cfg, {'low': 1e-3, 'high': 0.1, 'log': True}).choice_text == '0.001 to 0.1, logarithmic'
    # integer bounds around a value that is not an integer
    assert resolve_one(cfg, {'low': 0, 'high': 1}).distribution == FloatDistribution(0.0, 1.0)
    new = resolve_one(cfg, {'low': 0.0, 'high': 0.2, 'default': 0.1}, 'model.head.new')
    assert new.current == 0.1 and new.options == ('model.head.new',)
    betas = resolve_one(cfg, [(0.9, 0.999), (0.8, 0.99)], 'optim_wrapper.optimizer.betas')
    assert betas.distribution == CategoricalDistribution(['(0.9, 0.999)', '(0.8, 0.99)'])
    assert betas.choice_text == 'one of (0.9, 0.999), (0.8, 0.99)'
    assert betas.decode(encode((0.8, 0.99))) == (0.8, 0.99)
    assert resolve_one(cfg, ['ciou', 'siou', None], 'model.head.mode').decode('siou') == 'siou'


@pytest.mark.parametrize(
    ('entry', 'message'),
    [
        (0.1, 'must be dict'),
        ({'lo': 0.1, 'high': 1.0}, r"\['lo'\]: allowed are low, high"),
        ({'low': 0.1}, 'either low and high, or factor, or choices'),
        ({'low': 0.001, 'high': 0.1, 'factor': 2}, 'either low and high'),
        ({'choices': [0.01, 0.1], 'step': 1}, 'either low and high'),
        ({'low': 0.1, 'high': 0.001}, 'must contain the current 0.01, got 0.1 to 0.001'),
        ({'low': 0.0, 'high': 0.1, 'log': True}, 'low > 0. must hold for .log=True'),
        ({'low': 0.001, 'high': 0.1, 'log': True, 'step': 0.01}, 'step.*log'),
        ({'low': 'small', 'high': 0.1}, "could not convert string to float: 'small'"),
        ({'low': 0.0, 'high': float('inf')}, 'got 0.0 to inf'),
        ({'low': 0.05, 'high': 0.1}, 'got 0.05 to 0.1'),
        ({'factor': 1}, 'got 0.01 to 0.01'),
        ({'factor': 0}, 'division by zero'),
        ({'factor': [2]}, 'unsupported operand'),
        ([0.01], 'two or more choices'),
        ([0.1, 0.2], 'one of them the current 0.01'),
    ],
)
def test_a_faulty_entry_is_named(cfg, entry, message):
    with pytest.raises(ValueError, match=message) as error:
        resolve_one(cfg, entry)
    assert LR in str(error.value)


def test_faults_across_entries(cfg):
    with pytest.raises(ValueError, match='which is no number: give it choices'):
        resolve_one(cfg, {'low': 0, 'high': 1}, 'model.head.mode')
    with pytest.raises(ValueError, match='part of a tuple'):
        resolve_one(cfg, {'low': 0.5, 'high': 1.0}, 'optim_wrapper.optimizer.betas.0')
    with pytest.raises(ValueError, match='both set train_dataloader'):
        resolve_space(
            {'train_dataloader...Affine.scale': {'factor': 2}, '...Outer...Affine.scale': {'factor': 2}}, cfg
        )
    cfg.val_dataloader.dataset.pipeline[0].scale = 0.7
    with pytest.raises(ValueError, match=r'has different values \[0.5, 0.7\]'):
        resolve_one(cfg, {'factor': 2}, '...Affine.scale')
    with pytest.raises(ValueError, match='is a shortcut for several keys'):
        resolve_one(cfg, [4, 8], 'batch_size')
    with pytest.raises(ValueError, match='contains none of the keys of the space: model.x'):
        resolve_space({'model.x': {'factor': 2, 'optional': True}}, cfg)


def test_a_space_file(tmp_path, cfg):
    with pytest.raises(ValueError, match='there is no space'):
        read_space(tmp_path / 'none.py')
    for name, text, message in (
        ('a.py', 'space = {', 'cannot be read: SyntaxError'),
        ('b.py', 'spaces = dict(a=1)', 'must define space = .* got None'),
        ('c.yaml', 'space: 3', 'got 3'),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=message):
            read_space(tmp_path / name)
    (tmp_path / 'd.yaml').write_text(f'space:\n  {LR}: {{low: 1e-4, high: 1e-1, log: true}}\n')
    ((parameter,), _) = resolve_space(read_space(tmp_path / 'd.yaml'), cfg)
    assert parameter.distribution == FloatDistribution(1e-4, 0.1, log=True)


@pytest.mark.parametrize(
    'name', ['yolov5/yolov5_n_320_bccd', 'yolov5/yolov5_m_640_coco', 'quickstart/yolov5_n_digits']
)
def test_the_default_space_fits_our_configs(name):
    entries = read_space(REPO / 'configs' / '_base_' / 'tuning' / 'yolov5.py')
    found, missing = resolve_space(entries, load_config(REPO / 'configs' / f'{name}.py'))
    keys = {one.key for one in found}
    assert LR in keys and len(keys) + len(missing) == len(entries)
    assert ('train_dataloader...MixUp.prob' in keys) == ('m_640' in name)
    assert ('train_dataloader...HSVJitter.hue' in missing) == ('digits' in name)


def test_the_space_in_the_documentation(tmp_path):
    page = (REPO / 'docs' / 'guides' / 'tuning.md').read_text(encoding='utf-8')
    (tmp_path / 'space.py').write_text(re.search(r'```python\n(space = .*?)```', page, re.DOTALL)[1])
    found, missing = resolve_space(
        read_space(tmp_path / 'space.py'), load_config(REPO / 'configs' / 'yolov5' / 'yolov5_n_320_bccd.py')
    )
    assert len(found) == 6 and missing == ['train_dataloader...MixUp.prob']
