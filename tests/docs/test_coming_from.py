"""The pages for users of Ultralytics and MMYOLO: the names they give exist."""

import re
from pathlib import Path

import pytest
from mmengine import registry as root

import mmyolo_ext.registry  # noqa: F401
from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.config import FOREIGN_KEYS, KNOWN_KEYS

REPO = Path(__file__).parents[2]
PAGES = {name: (REPO / f'docs/coming_from/{name}.md').read_text() for name in ('ultralytics', 'mmyolo')}
KEYS_PAGE = (REPO / 'docs/reference/config_keys.md').read_text()
ROOTS = ('model', 'optim_wrapper', 'param_scheduler', 'train_dataloader', 'default_hooks', 'randomness', 'env_cfg')
# keys that the config leaves at the default of the component
DEFAULTS = {
    'model.frozen_parts',
    'model.backbone.frozen_stages',
    'model.bbox_head.label_smoothing',
    'model.bbox_head.obj_level_weights',
    'model.bbox_head.loss_cls.pos_weight',
    'model.bbox_head.loss_obj.pos_weight',
    'model.test_cfg.nms.class_agnostic',
    'optim_wrapper.paramwise_cfg',
}


def own_cells() -> str:
    """The text of the pages without the first cells of the tables, which are names of others."""
    own = '\n'.join(re.sub(r'^\|[^|]*\|', '|', page, flags=re.MULTILINE) for page in PAGES.values())
    return own + KEYS_PAGE


def test_the_keys_are_those_of_the_configs():
    cfg = load_config(REPO / 'configs/yolov5/yolov5_n_640_coco.py')
    keys = set(re.findall(rf'`((?:{"|".join(ROOTS)})(?:\.\w+)+)', own_cells()))
    assert len(keys) > 40
    missing = set()
    for key in keys - DEFAULTS:
        node = cfg._cfg_dict
        for name in key.split('.'):
            try:
                node = node[int(name)] if name.isdigit() else node[name]
            except (KeyError, IndexError, TypeError):
                missing.add(key)
                break
    assert missing == set()


def test_the_class_names_are_registered():
    names = set(re.findall(r'mmyolo_ext\.([A-Za-z]\w+)', PAGES['mmyolo'] + PAGES['ultralytics'])) - {'apis', 'cli'}
    assert len(names) > 20
    registries = [value for value in vars(root).values() if isinstance(value, root.Registry)]
    assert {name for name in names if not any(one.get(f'mmyolo_ext.{name}') for one in registries)} == set()


def test_variables_of_mmyolo_work_or_are_refused(tmp_path):
    section = re.search(r'^## Keys of a config\n(.*?)^## ', PAGES['mmyolo'], re.DOTALL | re.MULTILINE)[1]
    cells = re.findall(r'^\|([^|]*)\|', section, re.MULTILINE)
    names = {name for cell in cells for name in re.findall(r'`(\w+)`', cell)}
    assert len(names) > 25
    assert names - {*KNOWN_KEYS, *FOREIGN_KEYS} == {'train_ann_file'}
    text = "_base_ = 'mmyolo_ext::yolov5/yolov5_n_640_coco.py'\n"
    for line, message in (
        ('train_batch_size_per_gpu = 8', 'is read by nothing: docs/coming_from/'),
        ("train_ann_file = 'train.json'", "did you mean 'train_ann'?"),
    ):
        (tmp_path / 'mine.py').write_text(f'{text}{line}\n')
        with pytest.raises(ValueError, match=re.escape(message)):
            load_config(tmp_path / 'mine.py')
    # a variable that the file itself reads is its own business
    lines = 'widen_factor = 0.5\nmodel = dict(backbone=dict(widen_factor=widen_factor))\n'
    (tmp_path / 'mine.py').write_text(text + lines)
    assert load_config(tmp_path / 'mine.py').model.backbone.widen_factor == 0.5
