"""docs/guides/mixing.md: its examples work as they stand there, and its messages are those of the code."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import mmengine
import numpy as np
import pytest
import torch
from bccd_step import REPO, load_for_bccd, step_on_bccd
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import Runner

from mmyolo_ext.apis import load_config
from mmyolo_ext.models.backbones import staged_backbone
from mmyolo_ext.registry import TRANSFORMS

DOC = (REPO / 'docs/guides/mixing.md').read_text()
BLOCKS = re.findall(r'^```python\n(.*?)^```', DOC, re.DOTALL | re.MULTILINE)
CONFIG_BLOCKS = [block for block in BLOCKS if '_base_' in block]
MIXED = REPO / 'configs/mixed'
RETINANET = MIXED / 'retinanet_shufflenetv2-1.0_fpn_1x_coco.py'
YOLOX = MIXED / 'yolox_tiny_shufflenetv2-1.0_8xb8-300e_coco.py'
YOLOX_PAFPN = MIXED / 'yolox_s_yolov5-pafpn_8xb8-300e_coco.py'
YOLOV5_HEAD = MIXED / 'yolov5-head_r50_fpn_1x_coco.py'


def title(block: str) -> str:
    """Section and base of a block, for the names of the tests."""
    section = re.findall(r'^## (.*)', DOC[: DOC.index(block)], re.MULTILINE)[-1]
    base = re.search(r"_base_ = '(.*)\.py'", block)[1]
    return f'{section.replace(" ", "-").lower()}-{base.rpartition("/")[2]}'


@pytest.fixture
def written(tmp_path, monkeypatch) -> Callable[[str], Path]:
    """Write an example as a user does, with the module of own components beside it."""
    (parts,) = (block for block in BLOCKS if block.startswith('# my_parts.py'))
    (tmp_path / 'my_parts.py').write_text(parts)
    monkeypatch.syspath_prepend(tmp_path)

    def write(block: str) -> Path:
        (tmp_path / 'mine.py').write_text(block.replace("'configs/", f"'{REPO}/configs/"))
        return tmp_path / 'mine.py'

    yield write
    sys.modules.pop('my_parts', None)
    from mmdet.registry import TASK_UTILS

    TASK_UTILS.module_dict.pop('OwnCellAssigner', None)


def test_all_examples_are_found():
    assert len(BLOCKS) == DOC.count('```python') == len(CONFIG_BLOCKS) + 1


@pytest.mark.parametrize('block', [pytest.param(block, id=title(block)) for block in CONFIG_BLOCKS])
def test_an_example_takes_a_step(block, written, bccd_coco):
    model = step_on_bccd(written(block), bccd_coco)
    (code,) = re.findall(r'^model = dict\(.*?\)$', block, re.DOTALL | re.MULTILINE) or ['']
    kinds = {type(part).__name__ for part in (*model.modules(), getattr(model.bbox_head, 'assigner', None))}
    assert {name for name in re.findall(r"type='(?:mmyolo_ext\.)?(\w+)'", code) if name != 'Pretrained'} <= kinds


@pytest.mark.slow
def test_the_example_of_hooks_runs(written, bccd_coco, tmp_path):
    (block,) = (block for block in BLOCKS if 'PreflightHook' in block)
    options = {'train_dataloader.num_workers': 0, 'train_dataloader.persistent_workers': False, 'max_epochs': 1}
    cfg = load_for_bccd(written(block), bccd_coco, options=options)
    cfg.work_dir, cfg.val_cfg, cfg.val_dataloader, cfg.val_evaluator = str(tmp_path / 'work'), None, None, None
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert {'PreflightHook', 'StepEMAHook', 'CurvesHook'} <= {type(h).__name__ for h in runner.hooks}
    # of 3 iterations the first has the rate 0, and the warm-up of 100 goes up to 0.01 less 0.99 of what is done
    (rate,) = {group['lr'] for group in runner.optim_wrapper.optimizer.param_groups}
    assert 0 < rate < 0.01 and len(runner.optim_wrapper.optimizer.param_groups) == 3
    assert (tmp_path / 'work/epoch_1.pth').exists()


def test_the_channels_of_the_table():
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in DOC.splitlines() if 'stride 4: ' in line]
    assert len(rows) == 6
    for text, _, _, channels in rows:
        kind = 'ShuffleNetV2' if re.search(r'\d\.\d', text) else 'MobileNetV3'
        choice = {'widen_factor': float(re.search(r'\d\.\d', text)[0])} if kind == 'ShuffleNetV2' else {
            'arch': re.search(r"'(\w+)'", text)[1]
        }  # fmt: skip
        first = 0 if kind == 'ShuffleNetV2' else 1
        indices = tuple(range(first, first + 4))
        backbone = MODELS.build({'type': f'mmyolo_ext.{kind}', 'out_indices': indices, **choice})
        deep, stride4 = channels.split('; stride 4: ')
        assert backbone.out_channels == (int(stride4), *map(int, deep.split(', ')))
        assert backbone.out_strides == (4, 8, 16, 32)
        assert f'({str(indices[1:])[1:-1]}); with stride 4: {indices}' in DOC


def build(path: Path, change: dict) -> torch.nn.Module:
    """Build the model of a config with dotted options as mmdet's tools do, without pretrained weights."""
    cfg = load_config(path, {'model.backbone.init_cfg': None, **{f'model.{key}': v for key, v in change.items()}})
    with mmengine.registry.DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(cfg.model)


def run_blank(path: Path, change: dict) -> None:
    model = build(path, change).eval()
    with torch.no_grad():
        model(torch.zeros(1, 3, 320, 320), mode='tensor')


def message_of(call: Callable, *arguments: object) -> str:
    with pytest.raises(Exception) as caught:
        call(*arguments)
    return f'{type(caught.value).__name__} {caught.value}'


def assert_documented(message: str) -> None:
    """Check that a first cell of the table quotes this message, all its parts in their order."""
    cells = [line.split('|')[1].strip() for line in DOC.split('## Errors')[1].splitlines() if '| ' in line]
    quotes = [[part.strip('` ') for part in cell.split('` ... `')] for cell in cells if cell.startswith('`')]
    assert any(re.search('.*'.join(map(re.escape, quote)), message, re.DOTALL) for quote in quotes), message


BUILD_FAULTS = {
    'scope': (build, RETINANET, {'backbone.type': 'ShuffleNetV2'}),
    'old argument': (build, RETINANET, {'bbox_head.loss_cls.type': 'mmyolo_ext.BCELoss'}),
    'strides': (build, YOLOV5_HEAD, {'backbone.out_indices': (0, 1, 2)}),
    'channels': (run_blank, RETINANET, {'neck.in_channels': [116, 232, 488]}),
    'channels, checked': (build, YOLOV5_HEAD, {'neck.in_channels': [256, 512, 1024]}),
    'gap': (run_blank, YOLOX, {'backbone.out_indices': (1, 3, 4), 'neck.in_channels': [116, 464, 1024]}),
    'auto elsewhere': (build, YOLOX_PAFPN, {'neck.in_channels': 'auto'}),
    'unequal': (
        build,
        YOLOX_PAFPN,
        {
            'type': 'mmyolo_ext.YOLODetector',
            'neck.out_channels': [128, 256, 512],
            'bbox_head.in_channels': 'auto',
        },
    ),
    'levels': (build, YOLOV5_HEAD, {'neck.num_outs': 5}),
}


@pytest.mark.parametrize('fault', BUILD_FAULTS)
def test_messages_of_models(fault):
    call, path, change = BUILD_FAULTS[fault]
    assert_documented(message_of(call, path, change))


def test_components_of_mmdet_with_auto():
    assert message_of(build, RETINANET, {'neck.in_channels': 'auto'}).strip() == 'AssertionError'
    text = message_of(build, RETINANET, {'bbox_head.in_channels': 'auto'})
    assert text == 'TypeError not all arguments converted during string formatting' and text[10:] in DOC


def test_a_detector_of_mmdet_takes_any_strides():
    """The row without a message: maps of strides 4, 8, 16 under anchors of 8, 16, 32."""
    run_blank(RETINANET, {'backbone.out_indices': (0, 1, 2), 'neck.in_channels': [24, 116, 232]})


def test_messages_of_pretrained_weights(golden_dir, monkeypatch):
    lines = []
    monkeypatch.setattr(staged_backbone, 'print_log', lambda text, **_: lines.append(text))

    def start(file: str) -> None:
        init_cfg = {'type': 'Pretrained', 'checkpoint': str(golden_dir / file)}
        MODELS.build({'type': 'mmyolo_ext.ShuffleNetV2', 'init_cfg': init_cfg}).init_weights()

    assert_documented(message_of(start, 'torchvision_mobilenet_v3_small.pth'))
    start('torchvision_shufflenet_v2_x0_5.pth')
    assert_documented(lines[0])


def test_messages_of_transforms():
    image = {'img': np.zeros((640, 640, 3), np.uint8)}
    mosaic = TRANSFORMS.build({'type': 'mmyolo_ext.Mosaic', 'size': 640})
    assert_documented(message_of(mosaic.transform, dict(image)))
    mixup = TRANSFORMS.build({'type': 'mmyolo_ext.MixUp', 'prob': 1.0})
    partner = {'img': np.zeros((480, 640, 3), np.uint8)}
    assert_documented(message_of(mixup.transform, {**image, 'mix_results': [partner]}))


def test_messages_of_hooks(bccd_coco, tmp_path):
    options = {'train_dataloader.num_workers': 0, 'train_dataloader.persistent_workers': False}
    cfg = load_for_bccd(RETINANET, bccd_coco, options=options)
    cfg.work_dir = str(tmp_path)
    runner = Runner.from_cfg(cfg)
    runner.train_loop, runner.optim_wrapper  # noqa: B018  (built when first asked for)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    for name in ('CloseMosaicHook', 'SampleSeedHook', 'AccumulateHook'):
        assert_documented(message_of(HOOKS.build({'type': f'mmyolo_ext.{name}'}).before_train, runner))
    runner.model.bbox_head.num_classes = 80
    assert_documented(message_of(HOOKS.build({'type': 'mmyolo_ext.PreflightHook'}).before_train, runner))


def test_every_documented_message_is_tested():
    """The quotes of the table: those above, and that of mmcv's missing ops, which has its own test."""
    rows = [line for line in DOC.split('## Errors')[1].splitlines() if line.startswith('| `')]
    quoted = rows[: next(i for i, row in enumerate(rows) if 'yolov5-head' in row)]
    assert len(quoted) == len(BUILD_FAULTS) + len(['ops', '0 matched', 'few matched', 'mosaic', 'mixup', *range(4)])


def test_the_documented_configs_exist():
    text = DOC.split('## Ready configs')[1]
    assert set(re.findall(r'[\w.-]+_coco\.py', text)) == {path.name for path in MIXED.glob('*.py')}
