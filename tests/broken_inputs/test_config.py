"""What can be wrong with a config ends as one line with exit code 2, or as a warning, before the first step."""

import json
import re
from pathlib import Path

import mmdet
import pytest
from mmengine.config import Config
from tiny_coco import REPO

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.config_check import check, check_config
from mmyolo_ext.apis.config_errors import config_errors_named, one_line

QUICKSTART = REPO / 'configs' / 'quickstart' / 'yolov5_n_digits.py'
OURS = sorted(path for path in (REPO / 'configs').rglob('*.py') if '_base_' not in path.parts)
THEIRS = Path(mmdet.__file__).parent / '.mim' / 'configs'
# One of each family of heads, losses, samplers and hooks.
SOME_OF_THEIRS = (
    *('atss/atss_r50_fpn_1x_coco', 'autoassign/autoassign_r50-caffe_fpn_1x_coco'),
    *('centernet/centernet_r18_8xb16-crop512-140e_coco', 'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco'),
    *('ddod/ddod_r50_fpn_1x_coco', 'deformable_detr/deformable-detr_r50_16xb2-50e_coco'),
    *('detr/detr_r50_8xb2-150e_coco', 'dino/dino-4scale_r50_8xb2-12e_coco'),
    *('faster_rcnn/faster-rcnn_r50_fpn_1x_coco', 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco'),
    *('foveabox/fovea_r50_fpn_4xb4-1x_coco', 'gfl/gfl_r50_fpn_1x_coco'),
    *('grid_rcnn/grid-rcnn_r50_fpn_gn-head_2x_coco', 'htc/htc_r50_fpn_1x_coco'),
    *('libra_rcnn/libra-retinanet_r50_fpn_1x_coco', 'mask2former/mask2former_r50_8xb2-lsj-50e_coco'),
    *('paa/paa_r50_fpn_1x_coco', 'pisa/faster-rcnn_r50_fpn_pisa_1x_coco'),
    *('reppoints/reppoints-moment_r50_fpn_1x_coco', 'retinanet/retinanet_r50_fpn_1x_coco'),
    *('rtmdet/rtmdet_s_8xb32-300e_coco', 'sabl/sabl-retinanet_r50_fpn_1x_coco'),
    *('ssd/ssd300_coco', 'solo/solo_r50_fpn_1x_coco'),
    *('tood/tood_r50_fpn_1x_coco', 'vfnet/vfnet_r50_fpn_1x_coco'),
    *('yolact/yolact_r50_1xb8-55e_coco', 'yolo/yolov3_d53_8xb8-320-273e_coco'),
    *('yolof/yolof_r50-c5_8xb8-1x_coco', 'yolox/yolox_s_8xb8-300e_coco'),
    'albu_example/mask-rcnn_r50_fpn_albu-1x_coco',
)


def head(settings: str) -> str:
    return f'model = dict(bbox_head=dict({settings}))'


def backbone(settings: str) -> str:
    return f'model = dict(backbone=dict({settings}))'


def dataset(settings: str) -> str:
    return f'train_dataloader = dict(dataset=dict(dataset=dict({settings})))'


def test_cfg(settings: str) -> str:
    return f'model = dict(test_cfg=dict({settings}))'


def optimizer(settings: str) -> str:
    return f'optim_wrapper = dict(optimizer=dict({settings}))'


def sgd(settings: str) -> str:
    return optimizer(f"_delete_=True, type='SGD', lr=0.01, {settings}")


def hook(name: str, settings: str) -> str:
    return f'default_hooks = dict({name}=dict({settings}))'


test_cfg.__test__ = False
MISSPELT = {
    'train_cfg = dict(max_epoch=3)': "train_cfg: 'max_epoch' .* did you mean 'max_epochs'",
    'train_cfg = dict(val_intervall=3)': "did you mean 'val_interval'",
    'val_cfg = dict(fp17=True)': "val_cfg: cannot be built: .* unexpected keyword argument 'fp17'",
    optimizer('lrr=0.1'): "optim_wrapper.optimizer: 'lrr' is not an argument of AdamW: did you mean 'lr'",
    'optim_wrapper = dict(clip_grad=dict(max_nrom=1.0))': "clip_grad: 'max_nrom' .* did you mean 'max_norm'",
    'train_dataloader = dict(batchsize=3)': "train_dataloader: 'batchsize' .* did you mean 'batch_size'",
    'train_dataloader = dict(num_worker=3)': "did you mean 'num_workers'",
    dataset("dat_prefix=dict(img='x')"): "'dat_prefix' .* did you mean 'data_prefix'",
    dataset(
        'filter_cfg=dict(filter_empty_gts=True)'
    ): "filter_cfg: 'filter_empty_gts' .* did you mean 'filter_empty_gt'",
    dataset("metainfo=dict(CLASSES=('0',))"): "metainfo: 'CLASSES' .* did you mean 'classes'",
    hook('loger', 'interval=1'): 'default_hooks.loger: cannot be built: TypeError: type must be a str',
    hook('logger', 'intervall=1'): "default_hooks.logger: 'intervall' .* did you mean 'interval'",
    hook('checkpoint', 'max_keep_ckpt=1'): "did you mean 'max_keep_ckpts'",
    head('loss_cls=dict(loss_wieght=1.0)'): "model.bbox_head.loss_cls: 'loss_wieght' .* did you mean 'loss_weight'",
    head('num_clases=3'): "model.bbox_head: 'num_clases' .* did you mean 'num_classes'",
    head('assigner=dict(prior_match_thresh=3)'): "did you mean 'prior_match_thr'",
    backbone('widen_factr=0.5'): "model.backbone: 'widen_factr' .* did you mean 'widen_factor'",
    'model = dict(backbon=dict(widen_factor=1.0))': "model: 'backbon' .* did you mean 'backbone'",
    'model = dict(data_preprocessor=dict(pad_size_divisr=32))': "did you mean 'pad_size_divisor'",
    test_cfg('score_thrr=0.5'): "model.test_cfg: 'score_thrr' .* did you mean 'score_thr'",
    test_cfg('nms=dict(iou_treshold=0.5)'): "model.test_cfg.nms: 'iou_treshold' .* did you mean 'iou_threshold'",
    test_cfg("nms=dict(type='nsm')"): "model.test_cfg.nms.type must be one of .* got 'nsm'",
    'env_cfg = dict(cudnn_benchmrk=True)': "env_cfg: 'cudnn_benchmrk' .* did you mean 'cudnn_benchmark'",
    'randomness = dict(sed=3)': "randomness: 'sed' .* did you mean 'seed'",
    'auto_scale_lr = dict(base_batch_sise=3)': "did you mean 'base_batch_size'",
    'log_processor = dict(windowsize=3)': "did you mean 'window_size'",
    "val_evaluator = dict(annfile='x')": "val_evaluator: 'annfile' .* did you mean 'ann_file'",
    "param_scheduler = [dict(type='LinearLR', start_facter=0.1)]": "did you mean 'start_factor'",
    'max_epoch = 3': "'max_epoch' is not a top-level key .* did you mean 'max_epochs'",
    'optim_wraper = dict()': "did you mean 'optim_wrapper'",
}
FOREIGN = dict.fromkeys(
    (
        *(
            'learning_rate = 0.1',
            'lr = 0.1',
            'epochs = 3',
            'num_epochs = 3',
            'batch = 4',
            'imgsz = 128',
            'workers = 2',
            'train_batch_size_per_gpu = 8',
            'lr_factor = 0.1',
        ),
        *("names = ['a']", 'seed = 3', "evaluation = dict(interval=1, metric='bbox')"),
    ),
    "' in .*mine.py is read by nothing: docs/coming_from/ lists the keys to use instead",
)
UNKNOWN_TYPES = {
    head("type='YOLOv9Head'"): "model.bbox_head.type: 'YOLOv9Head' .* did you mean 'mmyolo_ext.YOLOv5Head'",
    head("type='YOLOv5Head'"): "did you mean 'mmyolo_ext.YOLOv5Head'",
    head('type=None'): 'model.bbox_head: cannot be built: TypeError: type must be a str',
    head("type='mmpretrain.Head'"): "model.bbox_head: .*'mmpretrain.Head is not in the mmdet::model registry",
    head("loss_cls=dict(type='BCEloss')"): "did you mean 'mmyolo_ext.BCELoss'",
    backbone("type='ResNeet'"): "model.backbone.type: 'ResNeet' .* did you mean 'ResNet'",
    "model = dict(type='YOLODetectr')": "did you mean 'mmyolo_ext.YOLODetector'",
    "custom_hooks = [dict(type='NoSuchHook')]": r"custom_hooks\[0\]: .*'NoSuchHook is not in the mmdet::hook registry",
    "custom_hooks = [dict(type='EMAhook')]": "did you mean 'EMAHook'",
    'custom_hooks = [dict(interval=3)]': r'custom_hooks\[0\]: .*type must be a str',
    optimizer("type='Adamw'"): "did you mean 'AdamW'",
    "optim_wrapper = dict(type='OptimWraper')": "did you mean 'OptimWrapper'",
    "optim_wrapper = dict(constructor='NoConstructor')": "optim_wrapper: .*'NoConstructor is not in the",
    dataset("pipeline=[dict(type='LoadImg')]"): r"pipeline\[0\].type: 'LoadImg' .* 'mmyolo_ext.LoadImage'",
    dataset('pipeline=[dict(scale=1)]'): r'pipeline\[0\]: .* must contain the key "type"',
    "train_dataloader = dict(dataset=dict(pipeline=[dict(type='mmyolo_ext.HSVJitter')]))": 'must end with PackDet',
    dataset('pipeline=[]'): 'train_dataloader.dataset.dataset.pipeline is empty',
    dataset("type='CocoDatset'"): "did you mean 'CocoDataset'",
    "train_dataloader = dict(sampler=dict(type='DefaultSamplr'))": "did you mean 'DefaultSampler'",
    "train_dataloader = dict(collate_fn=dict(type='psuedo_collate'))": "did you mean 'pseudo_collate'",
    "val_evaluator = dict(type='CocoMetrics')": "did you mean 'CocoMetric'",
    "train_cfg = dict(type='EpochBasedTrainLop')": "did you mean 'EpochBasedTrainLoop'",
    "param_scheduler = [dict(type='CosineAnnealing', T_max=3)]": "did you mean 'CosineAnnealingLR'",
    "visualizer = dict(type='NoVisualizer')": "visualizer.type: 'NoVisualizer' is not registered",
    "runner_type = 'NoRunner'": "runner_type: .*'NoRunner is not in the runner registry",
    "default_scope = 'mmdett'": "default_scope must be one of .*, mmdet, got 'mmdett'",
}
VALUES = {
    head('num_classes=7'): 'num_classes=7, but the training data set names 10 classes',
    head('num_classes=0'): 'model.bbox_head.num_classes must be a whole number of at least 1, got 0',
    head('num_classes=-1'): 'at least 1, got -1',
    head("num_classes='10'"): "at least 1, got '10'",
    head('num_classes=10.0'): 'must be a whole number of at least 1, got 10.0',
    head('num_classes=True'): 'got True',
    "class_names = ('a')": "'a' not in the file",
    'class_names = (0, 1, 2)': r'distinct names .* got \(0, 1, 2\)',
    'class_names = ()': r'distinct names .* got \(\)',
    "class_names = ('0', '')": "distinct names .* got .'0', ''.",
    "class_names = ('0', '0', '2')": "distinct names .* got .'0', '0', '2'.",
    "class_names = {0: 'a'}": 'must be a list of distinct names',
    "class_names = '0,1,2'": "'0,1,2' not in the file",
    'class_names = 10': 'must be a list of distinct names .* got 10',
    dataset("metainfo=dict(classes=('a'))"): 'metainfo classes must be a tuple of names',
    dataset('metainfo=dict(classes=(0, 1))'): r'metainfo.classes must be texts, got \(0, 1\)',
    'batch_size = 0': 'batch_size must be a whole number of at least 1, got 0',
    "batch_size = 'four'": "got 'four'",
    'batch_size = 2.5': 'got 2.5',
    'train_dataloader = dict(batch_size=0)': 'train_dataloader.batch_size must be .* at least 1, got 0',
    "train_dataloader = dict(batch_size='4')": "at least 1, got '4'",
    'train_dataloader = dict(num_workers=-1)': 'train_dataloader.num_workers must be .* at least 0, got -1',
    "train_dataloader = dict(num_workers='2')": "at least 0, got '2'",
    'train_dataloader = dict(batch_size=64, drop_last=True)': 'train_dataloader: batch_size=64 .* the 24 images',
    'val_dataloader = dict(batch_size=64, drop_last=True)': 'val_dataloader: batch_size=64 .* the 8 images',
    head('prior_generator=dict(base_sizes=[[(10, 13)], [(30, 61)]])'): r'for 2 levels, but 3 strides \(8, 16, 32\)',
    head('prior_generator=dict(strides=[8, 16])'): r'for 3 levels, but 2 strides \(8, 16\)',
    head('prior_generator=dict(strides=[0, 16, 32])'): 'strides must be a number above 0, got 0',
    head(
        'prior_generator=dict(base_sizes=[[(-10, 13)], [(30, 61)], [(99, 99)]])'
    ): 'base_sizes must be a number above 0, got -10',
    head('prior_generator=dict(base_sizes=[[(0, 13)], [(30, 61)], [(99, 99)]])'): 'above 0, got 0',
    head("prior_generator=dict(base_sizes=[[('a', 13)], [(30, 61)], [(99, 99)]])"): "above 0, got 'a'",
    head("prior_generator=dict(base_sizes=[[(float('nan'), 1)], [(3, 6)], [(9, 9)]])"): 'above 0, got nan',
    head('prior_generator=dict(base_sizes=[[(1, 3), (2, 2)], [(3, 6)], [(9, 9)]])'): 'as many anchors on every level',
    'max_epochs = 0': 'max_epochs must be a whole number of at least 1, got 0',
    "max_epochs = '3'": "got '3'",
    'max_epochs = None\ntrain_cfg = dict(max_epochs=0)': 'train_cfg.max_epochs must be .* at least 1, got 0',
    'input_size = 100': 'multiples of 32, the largest stride, got 100',
    'input_size = 0': 'multiples of 32, the largest stride, got 0',
    "input_size = '128'": "got '128'",
    'input_size = 128.0': 'got 128.0',
    'input_size = (128, 128, 3)': 'one or two multiples of 32',
    optimizer('lr=-1'): 'optim_wrapper.optimizer.lr must be a number of at least 0, got -1',
    optimizer("lr=float('nan')"): 'at least 0, got nan',
    optimizer("lr=float('inf')"): 'at least 0, got inf',
    optimizer("lr='1e-3'"): "lr must be a number of at least 0, got '1e-3'",
    optimizer('betas=(0.9, 1.5)'): 'betas must be a number of at least 0 and at most 1, got 1.5',
    optimizer('weight_decay=-1'): 'weight_decay must be a number of at least 0, got -1',
    sgd('momentum=1.5'): 'momentum must be a number .* at most 1, got 1.5',
    sgd('momentum=-0.5'): 'at most 1, got -0.5',
    'optim_wrapper = dict(clip_grad=dict(max_norm=-1.0))': 'max_norm must be a number .* got -1.0',
    'train_cfg = dict(val_interval=0)': 'train_cfg.val_interval must be .* at least 1, got 0',
    'train_cfg = dict(val_interval=-1)': 'at least 1, got -1',
    "train_cfg = dict(val_interval='1')": "val_interval must be a whole number of at least 1, got '1'",
    'train_cfg = dict(dynamic_intervals=[(0, 0)])': 'dynamic_intervals must be pairs .* of at least 1',
    "train_dataloader = dict(sampler='x')": "train_dataloader.sampler must be a dict with a type, got 'x'",
    'train_dataloader = dict(dataset=None)': 'the shortcuts meet a setting of another type',
    hook('logger', 'interval=0'): 'default_hooks.logger.interval must be .* at least 1, or -1, got 0',
    hook('checkpoint', 'interval=0'): 'default_hooks.checkpoint.interval must be',
    hook('check_loss', "type='mmdet.CheckInvalidLossHook', interval=0"): 'check_loss.interval must be',
    hook('checkpoint', 'max_keep_ckpts=0'): 'max_keep_ckpts must be .* at least 1, or -1, got 0',
    hook('checkpoint', "rule='greatr'"): 'rule must be greater, less or None, but got greatr',
    hook('checkpoint', "save_best='coco/mAP50'"): "save_best='coco/mAP50' .* did you mean 'coco/bbox_mAP_50'",
    hook('checkpoint', "save_best='coco/bbox_map'"): "did you mean 'coco/bbox_mAP'",
    hook('accumulate', 'nominal_batch_size=0'): 'nominal_batch_size must be .* at least 1, got 0',
    hook('ema', 'momentum=2'): r'EMA: .*momentum must be in range \(0.0, 1.0\) ?but got 2',
    hook('close_mosaic', 'num_last_epochs=-1'): 'num_last_epochs must be .* at least 0, got -1',
    "custom_hooks = [dict(type='EMAHook', priority='HIGHT')]": "custom_hooks: cannot be built: KeyError: 'HIGHT'",
    backbone('widen_factor=0'): 'model.backbone.widen_factor must be a number .* got 0',
    backbone("widen_factor='a'"): "got 'a'",
    backbone('deepen_factor=-0.3'): 'model.backbone.deepen_factor must be a number .* got -0.3',
    backbone('frozen_stages=99'): r'model.backbone: frozen_stages must be from -1 \(none\) to 4, got 99',
    backbone('frozen_stages=-2'): 'model.backbone.frozen_stages must be .* at least -1, got -2',
    backbone('out_indices=(2, 3, 99)'): r'model.backbone: out_indices must be .* to 4 .* got \(2, 3, 99\)',
    backbone('out_indices=()'): r'out_indices must be .* got \(\)',
    backbone('out_indices=4'): "model.backbone: .* 'int' object is not iterable",
    backbone("arch='P9'"): "model.backbone: arch must be one of .* got 'P9'",
    test_cfg('score_thr=2'): 'model.test_cfg.score_thr must be a number .* at most 1, got 2',
    test_cfg('max_per_img=0'): 'max_per_img must be .* at least 1, or -1, got 0',
    test_cfg('nms=dict(iou_threshold=2)'): 'nms.iou_threshold must be .* at most 1, got 2',
    test_cfg('nms=None'): r'nms must be a dict such as .* got None',
    'model = dict(data_preprocessor=dict(std=[0, 0, 0]))': 'data_preprocessor.std must be a number above 0, got 0',
    'model = dict(data_preprocessor=dict(mean=[0, 0]))': 'data_preprocessor: .*mean. should have 1 or 3 values',
    head('loss_cls=dict(loss_weight=-1.0)'): 'loss_cls.loss_weight must be a number of at least 0, got -1.0',
    "param_scheduler = [dict(type='LinearLR', begin=5, end=2)]": 'end must be after begin',
    hook('ema', 'gamma=-1'): 'EMA: .*gamma must be greater than 0, but got -1',
    'default_hooks = dict(logger=-1)': 'default_hooks: .*hook should be an instance of Hook or dict, but got -1',
    'model = dict(test_cfg=3)': "model.bbox_head: .* 'int' object is not a mapping",
    "param_scheduler = 'cosine'": "param_scheduler must be a list of dicts, got 'cosine'",
    "param_scheduler = [dict(type='mmyolo_ext.WarmupLinearLR', warmup_epochs=-1)]": 'warmup_epochs must .* got -1',
    'model = []': r'model must be a dict, got \[\]',
    'train_cfg = None\nmax_epochs = None': 'has no train_cfg, which to train needs',
    'train_dataloader = None': 'has no train_dataloader',
    'default_hooks = []': 'default_hooks must be a dict',
    "custom_hooks = ['EMAHook']": "custom_hooks must be a list of dicts, got .'EMAHook'.",
    'env_cfg = None': 'env_cfg must be a dict, got None',
    "env_cfg = dict(mp_cfg=dict(mp_start_method='frok'))": "env: cannot find context for 'frok'",
    "randomness = dict(seed='a')": "randomness.seed must be .* got 'a'",
    'randomness = dict(seed=-1)': 'randomness.seed must be .* got -1',
    "log_level = 'LOUD'": "logger: cannot be built: KeyError: 'LOUD'",
    "resume = 'a.pth'": "resume must be a bool, got 'a.pth'",
    'load_from = 3': 'load_from must be a str, got 3',
    'work_dir = 3': 'work_dir must be a str, got 3',
    'data_root = 3': 'data_root must be a path, got 3',
    "check = 'no'": "check must be 'on' or 'off', got 'no'",
    'log_processor = dict(window_size=0)': 'log_processor.window_size must be .* at least 1, got 0',
}
BROKEN_FILES = {
    'model = dict(': r'cannot be read: SyntaxError',
    'x = 1 / 0': 'cannot be read: ZeroDivisionError',
    "raise RuntimeError('mine')": 'cannot be read: RuntimeError: mine',
    'import sys; sys.exit(3)': 'cannot be read: SystemExit: 3',
    "custom_imports = dict(imports=['mmyolo_ext', 'nosuchmodule'])": 'cannot be read: ImportError: .*nosuchmodule',
}
CASES = {**MISSPELT, **FOREIGN, **UNKNOWN_TYPES, **VALUES, **BROKEN_FILES}


def write(path: Path, lines: str) -> Path:
    path.write_text(f"_base_ = '{QUICKSTART}'\n{lines}\n")
    return path


# These stop the runner from being built: the tool then names the key instead of the error that it caused.
STOP_BUILDING = (
    head("type='YOLOv9Head'"),
    'randomness = dict(sed=3)',
    "default_scope = 'mmdett'",
    'train_dataloader = None',
    hook('loger', 'interval=1'),
    'x = 1 / 0',
)


@pytest.mark.parametrize(('lines', 'message'), CASES.items(), ids=CASES)
def test_a_fault_is_one_line(train, config, lines, message):
    try:
        check_config(load_config(config(lines)), 'train')
        error = None
    except ValueError as fault:
        error = one_line(fault)
    if error is None or lines in STOP_BUILDING:
        run = train(lines)
        assert run.code == 2
        error = run.error
    assert re.search(message, error), error


@pytest.mark.parametrize(
    ('lines', 'message'),
    [
        ('zebra = 4', "'zebra' in .* is read by nothing"),
        ('train_pipeline = []', "'train_pipeline' in .* is read by nothing"),
    ],
)
def test_what_is_only_strange_is_a_warning(tmp_path, lines, message, capsys):
    check_config(load_config(write(tmp_path / 'mine.py', lines)), 'train')
    warned = [line for line in capsys.readouterr().err.splitlines() if line.startswith('warning: ')]
    assert len(warned) == 1 and re.search(message, warned[0]), warned


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        (
            'data.yaml',
            'path: x\ntrain: a\nval: b\nnc: 2\nnames: [cat, dog]\n',
            "'train' in .*data.yaml is read by nothing",
        ),
        ('coco.json', json.dumps({'images': [], 'annotations': [], 'categories': []}), 'coco.json has no model, '),
        ('list.json', '[1, 2]', 'list.json cannot be read'),
        ('empty.yaml', '', 'empty.yaml (cannot be read|has no model)'),
        ('cut.json', '{"model":', 'cut.json cannot be read: JSONDecodeError'),
        ('open.yaml', 'model: [1', 'open.yaml cannot be read'),
        ('empty.py', '', 'empty.py has no model, .* begin your config with _base_'),
        ('weights.txt', 'x', 'weights.txt is not a config: its name must end in one of .py, .yaml'),
        ('weights.pth', 'x', 'weights.pth cannot be read'),
        ('lr.yaml', f'_base_: {QUICKSTART}\noptim_wrapper:\n  optimizer:\n    lr: 1e-3\n', "a number .* got '1e-3'"),
        ('foreign.yaml', f'_base_: {QUICKSTART}\nepochs: 3\n', "'epochs' in .*foreign.yaml is read by nothing"),
        (
            'foreign.json',
            json.dumps({'_base_': str(QUICKSTART), 'lr': 3}),
            "'lr' in .*foreign.json is read by nothing",
        ),
        ('bytes.py', b'\x00\xff\x93model', 'bytes.py cannot be read'),
        ('self.py', "_base_ = 'self.py'", 'in a circle: self.py -> self.py'),
        ('orphan.py', "_base_ = 'nowhere.py'", 'orphan.py cannot be read: FileNotFoundError: .*nowhere.py'),
    ],
)
def test_a_file_that_is_no_config(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        check_config(load_config(tmp_path / name), 'train')


def test_a_folder_and_a_circle_of_two_files(tmp_path):
    (tmp_path / 'folder.py').mkdir()
    with pytest.raises(ValueError, match='there is no config .*folder.py'):
        load_config(tmp_path / 'folder.py')
    (tmp_path / 'a.py').write_text("_base_ = ['b.py']")
    (tmp_path / 'b.py').write_text("_base_ = './a.py'")
    with pytest.raises(ValueError, match='in a circle: a.py -> b.py -> a.py'):
        load_config(tmp_path / 'a.py')


def test_a_name_that_the_file_or_its_child_reads_is_a_variable(tmp_path):
    write(tmp_path / 'base.py', 'learning_rate = 0.5\nepochs = 4\nmax_epochs = epochs')
    (tmp_path / 'mine.py').write_text(
        "_base_ = 'base.py'\noptim_wrapper = dict(optimizer=dict(lr={{_base_.learning_rate}}))\n"
    )
    cfg = load_config(tmp_path / 'mine.py')
    assert cfg.optim_wrapper.optimizer.lr == 0.5 and cfg.train_cfg.max_epochs == 4


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ({'learning_rate': 1}, "the config has no key 'learning_rate', so nothing would read it"),
        ({'param_scheduler.9.lr': 1}, '--cfg-options do not fit the config: .*Index 9'),
        ({'train_cfg.max_epochs.x': 1}, '--cfg-options do not fit the config'),
        ({'train_dataloader': 3}, 'train_dataloader must be a dict, got 3'),
    ],
)
def test_options_that_do_not_fit(tmp_path, option, message):
    with pytest.raises(ValueError, match=message):
        load_config(write(tmp_path / 'mine.py', ''), option)


def test_an_option_without_a_value_and_an_empty_work_dir(train):
    run = train('', '--cfg-options', 'train_dataloader.batch_size')
    assert run.code == 2 and "takes settings as KEY=VALUE, got 'train_dataloader.batch_size'" in run.text
    assert '--work-dir must name a folder' in train('', '--work-dir', '').error


@pytest.mark.parametrize('below', ['', '/work'])
def test_a_work_dir_that_is_a_file(train, tmp_path, below):
    (tmp_path / 'file').touch()
    assert (
        f'the work dir {tmp_path}/file{below} cannot be written'
        in train('', '--work-dir', f'{tmp_path}/file{below}').error
    )


def test_several_faults_are_named_at_once_and_those_of_a_shared_loader_once(tmp_path):
    lines = '\n'.join([optimizer('lr=-1'), *(f'{split}_dataloader = dict(batch_size=0)' for split in ('val', 'test'))])
    with pytest.raises(ValueError) as fault:
        check_config(load_config(write(tmp_path / 'mine.py', lines)), 'train')
    assert 'optimizer.lr' in str(fault.value) and str(fault.value).count('batch_size') == 1


def test_check_off_skips_all_but_what_a_run_needs(tmp_path):
    cfg = load_config(write(tmp_path / 'mine.py', "check = 'off'\nrandomness = dict(sed=1)"))
    check_config(cfg, 'train')
    cfg.model = None
    with pytest.raises(ValueError, match='has no model'):
        check_config(cfg, 'train')


@pytest.mark.parametrize('path', [pytest.param(path, id=path.stem) for path in OURS])
def test_our_configs_pass(path):
    assert list(check(load_config(path))) == []


@pytest.mark.parametrize('name', SOME_OF_THEIRS)
def test_configs_of_mmdet_pass(name):
    cfg = Config.fromfile(THEIRS / f'{name}.py')
    assert list(check(cfg)) == []
    cfg.train_dataloader.batch_sze = 2
    assert [message for message in check(cfg) if "'batch_size'" in message]


def test_a_hook_of_none_is_left_out(tmp_path):
    cfg = load_config(write(tmp_path / 'mine.py', 'default_hooks = dict(curves=None, timer=None)'))
    assert 'curves' not in cfg.default_hooks and cfg.default_hooks.timer is None


def test_errors_outside_of_building_keep_their_traceback():
    with pytest.raises(KeyError, match='mine'), config_errors_named(load_config(QUICKSTART)):
        raise KeyError('mine')


def test_a_fault_of_a_part_of_the_users_own_names_it(tmp_path, train):
    (tmp_path / 'parts.py').write_text(
        'from mmengine.hooks import Hook\nfrom mmengine.registry import HOOKS\n\n\n'
        '@HOOKS.register_module()\nclass HookOfMine(Hook):\n'
        '    def __init__(self, number, **kwargs):\n        self.number = 1 / number\n'
    )
    imports = f"import sys; sys.path.insert(0, '{tmp_path}'); import parts; del sys, parts\n"
    run = train(f"{imports}custom_hooks = [dict(type='HookOfMine', number=0, colour='red')]")
    assert run.code == 2
    assert 'custom_hooks[0]: cannot be built: ZeroDivisionError: division by zero' in run.error
    run = train(f"{imports}custom_hooks = [dict(type='HookOfMine')]")
    assert (
        'custom_hooks[0]: cannot be built: TypeError: HookOfMine.__init__() missing 1 required positional' in run.error
    )
