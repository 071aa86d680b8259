"""mmdet's inference API and tools, SAHI and mim on our configs and checkpoints."""

import json
import subprocess
import sys
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

import cv2
import mmengine
import numpy as np
import pytest
from forked import run_python
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmengine.config import Config
from mmengine.registry import DefaultScope
from tiny_coco import CLASSES, REPO, make_tiny_coco, write_user_config
from tiny_detector import save_untrained

from mmyolo_ext.apis import Detector, load_config
from mmyolo_ext.cli.mmdet_tool import find_tools, main
from mmyolo_ext.datasets.transforms import Letterbox, Resize
from mmyolo_ext.engine.rect_batches import inference_pipeline
from mmyolo_ext.registry import DATASETS, MODELS, TASK_UTILS

SHIPPED = sorted(path for path in (REPO / 'configs').glob('[!_]*/*.py') if 'mixed' not in path.parts)


@pytest.fixture(scope='module')
def user(tmp_path_factory):
    """(folder, config with shortcuts, config as a run writes it, checkpoint), with scores over the threshold."""
    folder = tmp_path_factory.mktemp('mmdet_tools')
    data = make_tiny_coco(folder / 'data')
    config = write_user_config(folder / 'mine.py', data)
    cfg = load_config(config)
    cfg.dump(folder / 'full.py')
    save_untrained(cfg, folder / 'weights.pth', CLASSES)
    return folder, config, folder / 'full.py', folder / 'weights.pth'


def test_the_inference_api_of_mmdet_predicts_as_ours(user):
    folder, _, config, weights = user
    image = str(folder / 'data/val/001.png')
    ours = next(iter(Detector(load_config(config), weights, 'cpu', nms_iou=None)([image], score_thr=0.001)))
    model = init_detector(config, str(weights), device='cpu')
    assert tuple(model.dataset_meta['classes']) == CLASSES
    found = [
        inference_detector(model, image).pred_instances,
        inference_detector(model, cv2.imread(image)).pred_instances,
    ]
    both = [(config, weights), (None, weights)]  # the second reads the config of the checkpoint
    for inferencer in (DetInferencer(c and str(c), str(w), device='cpu', show_progress=False) for c, w in both):
        found.append(inferencer(image, return_datasamples=True)['predictions'][0].pred_instances)
    size = min(len(ours.scores), 20)
    for instances in found:
        np.testing.assert_allclose(instances.scores[:size], ours.scores[:size], rtol=1e-4)
        np.testing.assert_allclose(instances.bboxes[:size], ours.boxes_xyxy[:size], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize('path', SHIPPED, ids=lambda path: path.stem)
def test_every_config_states_its_pipeline_where_mmdet_reads_it(path):
    plain, ours = Config.fromfile(path), load_config(path)
    for cfg in (plain, ours):
        outer = cfg.test_dataloader.dataset
        assert outer.pipeline == inference_pipeline(outer.dataset.pipeline) and len(outer.pipeline) == 3
        # no annotation file is there, and mmdet only asks for the metainfo
        classes = DATASETS.build({**outer, 'lazy_init': True, '_scope_': 'mmdet'}).metainfo['classes']
        assert len(classes) == cfg.model.bbox_head.get('num_classes', 80)


def test_resize_is_the_letterbox_with_width_and_height_swapped():
    image = np.random.RandomState(0).randint(0, 256, (30, 50, 3), np.uint8)
    steps = [Letterbox((64, 96), centred=True), Resize((96, 64), centred=True)]
    one, other = (step({'img': image, 'img_shape': (30, 50), 'ori_shape': (30, 50)}) for step in steps)
    assert one['img'].shape == (64, 96, 3) and (one['img'] == other['img']).all()
    step = inference_pipeline([{'type': 'mmyolo_ext.Letterbox', 'size_hw': (64, 96)}])[0]
    assert step == {'type': 'mmyolo_ext.Resize', 'scale': (96, 64)}  # (height, width) -> (width, height)


def test_bare_names_of_mmdet_resolve_without_a_default_scope(monkeypatch):
    monkeypatch.setattr(DefaultScope, 'get_current_instance', classmethod(lambda cls: None))
    assert TASK_UTILS.get('YOLOAnchorGenerator').__module__.startswith('mmdet.')
    assert MODELS.get('FocalLoss').__module__.startswith('mmyolo_ext.')  # ours come first
    assert MODELS.get('Nothing') is None
    model = MODELS.build(
        {
            'type': 'YOLODetector',
            'backbone': {'type': 'ResNet', 'depth': 18, 'out_indices': (1, 2, 3)},
            'neck': {'type': 'FPN', 'in_channels': 'auto', 'out_channels': 32, 'num_outs': 3},
            'bbox_head': {
                'type': 'YOLOv5Head',
                'num_classes': 2,
                'in_channels': 'auto',
                'loss_cls': {'type': 'CrossEntropyLoss', 'use_sigmoid': True},
                'prior_generator': {
                    'type': 'YOLOAnchorGenerator',
                    'base_sizes': [[(10, 13)], [(30, 61)], [(116, 90)]],
                    'strides': [8, 16, 32],
                },
            },
        }
    )
    assert type(model.bbox_head.loss_cls).__module__.startswith('mmdet.')


def tool(*words, cwd):
    done = run_python('-m', 'mmyolo_ext.cli.main', 'mmdet', *words, cwd=cwd)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


def test_browse_dataset(user):
    folder, config, *_ = user
    tool('browse_dataset', config, '--output-dir', 'seen', '--not-show', cwd=folder)
    assert len(list((folder / 'seen').glob('*.png'))) == 6  # images of the training set


def test_test_and_confusion_matrix(user):
    folder, config, _, weights = user
    tool('test', config, weights, '--work-dir', 'tested', '--out', 'found.pkl', cwd=folder)
    assert len(mmengine.load(folder / 'found.pkl')) == 5  # of the validation set
    tool('confusion_matrix', config, 'found.pkl', 'matrix', cwd=folder)
    assert cv2.imread(str(folder / 'matrix/confusion_matrix.png')).std() > 10


def test_train_log_curves_and_flops(user):
    folder, config, *_ = user
    options = ['train_cfg.max_epochs=1', 'default_hooks.logger.interval=1']
    tool('train', config, '--work-dir', 'trained', '--cfg-options', *options, cwd=folder)
    log = next((folder / 'trained').glob('*/vis_data/2*.json'))
    assert {'loss_cls', 'loss_bbox', 'loss_obj'} <= json.loads(log.read_text().splitlines()[0]).keys()
    words = ['--keys', 'loss_cls', '--style', 'default', '--out', 'curve.png']
    tool('analyze_logs', 'plot_curve', log, *words, cwd=folder)
    assert cv2.imread(str(folder / 'curve.png')) is not None
    assert 'Flops' in tool('get_flops', config, cwd=folder)


@pytest.mark.skipif(find_spec('psutil') is None, reason="mmdet's benchmark.py needs psutil")
@pytest.mark.parametrize('task', ['dataloader', 'dataset'])  # the third, inference, needs a GPU
def test_benchmark(user, task):
    folder, config, *_ = user
    words = ['--task', task, '--max-iter', 3, '--num-warmup', 1, '--log-interval', 1]
    assert 'fps' in tool('benchmark', config, *words, cwd=folder)


def test_an_unknown_tool_has_a_hint(capsys):
    assert {'browse_dataset', 'confusion_matrix', 'analyze_logs', 'get_flops', 'benchmark'} <= find_tools().keys()
    with pytest.raises(SystemExit):
        main(['browse_datset'])
    assert "did you mean 'browse_dataset'?" in capsys.readouterr().err


def test_sahi(user):
    sahi = pytest.importorskip('sahi')
    from sahi.predict import get_prediction, get_sliced_prediction

    folder, _, config, weights = user
    image = str(folder / 'data/val/000.png')
    model = sahi.AutoDetectionModel.from_pretrained(
        'mmdet',
        model_path=str(weights),
        config_path=str(config),
        device='cpu',
        confidence_threshold=0.3,
        image_size=64,
    )
    found = get_prediction(image, model).object_prediction_list
    ours = next(iter(Detector(load_config(config), weights, 'cpu', nms_iou=None)([image], score_thr=0.3)))
    assert len(found) > 0 and abs(max(f.score.value for f in found) - ours.scores.max()) < 1e-3
    assert {f.category.name for f in found} <= set(CLASSES)
    assert get_sliced_prediction(image, model, 48, 48, verbose=0).object_prediction_list


@pytest.mark.parametrize('command', ['train', 'test'])
def test_mim(user, command):
    pytest.importorskip('mim')
    installed = distributions(name='mmyolo_ext', path=[path for path in sys.path if Path(path).resolve() != REPO])
    if not any(Path(one.locate_file('mmyolo_ext/.mim/tools/train.py')).exists() for one in installed):
        pytest.skip('mim needs an installed wheel: it does not find .mim of an editable installation')
    folder, config, _, weights = user
    words = ['--checkpoint', str(weights)] if command == 'test' else []
    done = subprocess.run(
        [sys.executable, '-m', 'mim', command, 'mmyolo_ext', str(config), *words, '--work-dir', f'mim_{command}'],
        cwd=folder, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert list((folder / f'mim_{command}').iterdir())
