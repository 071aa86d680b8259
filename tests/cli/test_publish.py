"""Test ``tools/publish.py`` on a training of two epochs: the weights, the card, and the tools that read them."""

import hashlib
import runpy
import sys
from copy import deepcopy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner
from tiny_coco import CLASSES, REPO, make_tiny_coco, write_user_config

from mmyolo_ext.apis import Detector, load_config
from mmyolo_ext.apis.exporting import export_detector
from mmyolo_ext.apis.model_card import Metrics
from mmyolo_ext.apis.publishing import Published, changed_keys, evaluate, publish
from mmyolo_ext.checkpoint.mmengine_loader import install_reader
from mmyolo_ext.checkpoint.writing import plain
from mmyolo_ext.cli.convert_weights import convert_file
from mmyolo_ext.export.formats import Options

pytest.importorskip('huggingface_hub')

STATISTICS = ('running_mean', 'running_var')
# a rate at which two epochs move the weights, and a validation after each of them
EXTRA = """
train_cfg = dict(val_interval=1)
optim_wrapper = dict(optimizer=dict(lr=0.05))
default_hooks = dict(report=None, curves=None, accumulate=dict(nominal_batch_size=2))
"""
METRICS = {
    'coco/bbox_mAP': 0.4321,
    'coco/bbox_mAP_50': 0.6543,
    'coco/bbox_mAP_75': 0.5432,
    'coco/red_precision': 0.31,
    'coco/blue_precision': 0.52,
}


class Trained:
    """A training: its folder, its config, and its EMA weights and trained weights at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        data = make_tiny_coco(folder / 'data')
        self.config = write_user_config(folder / 'mine.py', data, extra=EXTRA)
        install_reader()
        cfg = load_config(self.config)
        cfg.work_dir = str(folder / 'work')
        runner = Runner.from_cfg(cfg)
        runner.train()
        hook = next(hook for hook in runner.hooks if type(hook).__name__ == 'StepEMAHook')
        self.ema = deepcopy(hook.ema_model.module.state_dict())
        self.trained = deepcopy(runner.model.state_dict())
        self.work = folder / 'work'
        # two epochs detect nothing: replace the zeros by metrics that differ, in a best checkpoint of epoch 2
        saved = torch.load(self.last, weights_only=False)
        hub = saved['message_hub']
        hub['runtime_info']['best_ckpt'] = 'work/best_coco_bbox_mAP_epoch_2.pth'
        for name, value in METRICS.items():
            history = HistoryBuffer()
            history.update(value)
            hub['log_scalars'][f'val/{name}'] = history
        torch.save(plain(saved), self.last)

    @property
    def last(self) -> Path:
        return self.work / 'epoch_2.pth'

    def publish(self, out: Path, checkpoint: Path | None = None, given: dict | None = None, **options) -> Published:
        return publish(load_config(self.config, given), checkpoint or self.last, out / 'tiny.pth', **options)


@pytest.fixture(scope='module')
def training(tmp_path_factory) -> Trained:
    return Trained(tmp_path_factory.mktemp('publish'))


@pytest.fixture(scope='module')
def published(training, tmp_path_factory) -> Published:
    return training.publish(tmp_path_factory.mktemp('published'), licence='Apache-2.0')


def front_matter(card: Path) -> dict:
    return yaml.safe_load(card.read_text().split('---')[1])


def test_the_ema_weights_in_half_precision_and_nothing_else(training, published):
    path = published.files[0]
    saved = torch.load(path, weights_only=True)
    assert saved.keys() == {'meta', 'state_dict'}
    assert saved['meta'].keys() == {'cfg', 'dataset_meta', 'mmyolo_ext_version', 'license'}
    assert saved['meta']['dataset_meta'] == {'classes': CLASSES}
    assert list(saved['state_dict']) == list(training.ema)
    moved = 0
    for name, value in saved['state_dict'].items():
        wanted = training.ema[name]
        kept = name.endswith(STATISTICS) or not wanted.is_floating_point()
        assert value.dtype == (wanted.dtype if kept else torch.float16)
        assert torch.equal(value, wanted if kept else wanted.half()), name
        # the order in memory too, for training runs channels-last
        assert value.is_contiguous() and value.untyped_storage().nbytes() == value.nbytes
        moved += not torch.equal(wanted, training.trained[name])
    assert moved > 100  # the EMA weights are not those from which training resumes
    # weights twice and a momentum in float32, against one set in float16: at most a sixth, and the zip's own lines
    assert path.stat().st_size < training.last.stat().st_size / 4
    assert 'dropped: message_hub, optimizer, param_schedulers, ema_state_dict' in published.notes
    assert any('EMA' in note for note in published.notes)


def test_the_name_is_that_of_the_content_and_comes_again(training, published, tmp_path):
    path = published.files[0]
    assert path.name == f'tiny-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth'
    assert [file.suffix for file in published.files] == ['.pth', '.py', '.md']
    before = training.last.read_bytes()
    again = training.publish(tmp_path, licence='Apache-2.0')
    assert [file.name for file in again.files] == [file.name for file in published.files]
    assert again.files[0].read_bytes() == path.read_bytes() and training.last.read_bytes() == before
    other = training.publish(tmp_path, checkpoint=training.work / 'epoch_1.pth', licence='Apache-2.0')
    assert other.files[0].name != path.name

    again.files[2].write_text('mine')
    with pytest.raises(ValueError, match=r'tiny-\w{8}.md exists already: --force'):
        training.publish(tmp_path, licence='Apache-2.0')
    assert again.files[2].read_text() == 'mine'
    training.publish(tmp_path, licence='Apache-2.0', force=True)
    assert again.files[2].read_text() == published.files[2].read_text()
    assert len(list(tmp_path.iterdir())) == 6  # two publications, no temporary file


def test_float32_changes_no_bit(training, tmp_path):
    done = training.publish(tmp_path, half=False)
    saved = torch.load(done.files[0], weights_only=True)['state_dict']
    assert all(torch.equal(value, training.ema[name]) for name, value in saved.items())
    assert done.difference.startswith('outputs differ by 0,')
    assert 'float32' in done.files[2].read_text() and any('licence is not stated' in text for text in done.warnings)


def test_the_card(training, published):
    card = published.files[2].read_text()
    head = front_matter(published.files[2])
    assert head['license'] == 'apache-2.0' and head['pipeline_tag'] == 'object-detection'
    (result,) = head['model-index'][0]['results']
    metrics = [(metric['name'], metric['value']) for metric in result['metrics']]
    assert metrics == [('AP50-95', 0.4321), ('AP50', 0.6543), ('AP75', 0.5432)]
    # 6 and 5 images, of which two and one have no box; the others have one box of each class
    assert '| training | data/train.json | 6 |' in card and '| test | data/val.json | 5 |' in card
    assert '| red | 4 | 4 | 4 | 0.3100 |' in card and '| blue | 4 | 4 | 4 | 0.5200 |' in card
    count = sum(value.numel() for name, value in training.ema.items() if not name.endswith((*STATISTICS, 'tracked')))
    assert f'{count:,} parameters, 2 classes' in card
    assert (
        'mmyolo_ext.Letterbox: size_hw (64, 64), centred True' in card
        and 'order RGB' in card
        and 'std [255, 255, 255]' in card
    )
    assert 'class scores by sigmoid' in card and '| epoch | 2 |' in card and '| seed | 0 |' in card
    assert f'| torch | {torch.__version__} |' in card and 'Start: random weights' in card
    assert hashlib.sha256(published.files[0].read_bytes()).hexdigest() in card
    assert str(training.folder) not in card


def test_metrics_as_stated_and_as_measured(training, tmp_path):
    done = training.publish(tmp_path, metrics=Metrics({'bbox_mAP': 0.5, 'bbox_mAP_50': 0.75}, 'as stated'))
    (result,) = front_matter(done.files[2])['model-index'][0]['results']
    assert [(metric['name'], metric['value']) for metric in result['metrics']] == [('AP50-95', 0.5), ('AP50', 0.75)]
    done = training.publish(tmp_path, test=True, force=True)
    measured = evaluate(done.files[1], done.files[0]).overall
    (result,) = front_matter(done.files[2])['model-index'][0]['results']
    assert {metric['name']: metric['value'] for metric in result['metrics']} == pytest.approx(measured, abs=1e-4)
    assert 'measured with this file' in done.files[2].read_text()


def test_another_config_than_the_training_had(training, tmp_path):
    """The metrics of the training do not apply to it."""
    cfg = load_config(training.config)
    meta = torch.load(training.last, weights_only=False)['meta']
    assert changed_keys(cfg, meta) == [] == changed_keys(cfg, {})
    cfg.test_dataloader.dataset.dataset.pipeline[2].centred = False
    cfg.test_dataloader.dataset.dataset.data_root = 'elsewhere/'
    cfg.model.test_cfg.nms.iou_threshold = 0.5
    changed = ['model.test_cfg.nms.iou_threshold', 'test_dataloader.dataset.dataset.pipeline.2.centred']
    assert changed_keys(cfg, meta) == changed
    done = training.publish(tmp_path, given={'model.test_cfg.score_thr': 0.01, 'data_root': 'not/here/'})
    assert 'Not measured.' in done.files[2].read_text() and '| training | here/train.json | not available |' in (
        done.files[2].read_text()
    )
    assert '| class |\n| --- |\n| red |\n| blue |' in done.files[2].read_text()
    assert any('model.test_cfg.score_thr' in text for text in done.warnings)
    assert any('precision is unknown' in text for text in done.warnings)


def test_every_tool_takes_the_result(training, published, tmp_path):
    weights, config, _ = published.files
    cfg = load_config(config)
    assert cfg.load_from == str(weights) and 'work_dir' not in cfg
    image = cv2.imread(str(next((training.folder / 'data' / 'val').glob('*.png'))))
    sources = (
        Detector(load_config(training.config), training.last, 'cpu', nms_iou=None),
        Detector(cfg, weights, 'cpu', nms_iou=None),
    )
    (wanted,), (got,) = (list(detector([image], score_thr=0.0)) for detector in sources)
    assert sources[1].classes == CLASSES and len(wanted.scores) == len(got.scores) > 0
    assert np.abs(wanted.scores - got.scores).max() < 0.01
    assert not published.difference.startswith('outputs differ by 0,')

    export = export_detector(cfg, str(weights), tmp_path / 'a.torchscript', Options('torchscript'))
    assert export.difference.within(export.bound)
    lines = convert_file(weights, tmp_path / 'there.pt', 'auto', 'ultralytics', config)
    assert any('all weights are bit-identical' in line for line in lines)

    # a training of other classes at the rate 0, which moves no weight
    tuned = tmp_path / 'tuned.py'
    tuned.write_text(f"_base_ = '{config}'\nclass_names = ('red',)\nmax_epochs = 1\n")
    cfg = load_config(tuned, {'optim_wrapper.optimizer.lr': 0.0, 'val_cfg': None, 'val_dataloader': None})
    cfg.work_dir, cfg.val_evaluator = str(tmp_path / 'work'), None
    runner = Runner.from_cfg(cfg)
    runner.train()
    name = 'backbone.layers.0.conv.weight'
    assert torch.equal(runner.model.state_dict()[name], training.ema[name].half().float())
    assert runner.model.bbox_head.num_classes == 1


def test_a_difference_is_a_failure(training, tmp_path, monkeypatch):
    def wrong(state_dict: dict, half: bool) -> tuple[dict, list]:
        return {name: value * 1.2 if 'convs_pred' in name else value for name, value in state_dict.items()}, []

    monkeypatch.setattr('mmyolo_ext.apis.publishing.slim', wrong)
    with pytest.raises(ValueError, match='the published weights differ from their source: outputs differ by'):
        training.publish(tmp_path / 'out')
    assert list((tmp_path / 'out').iterdir()) == []


def test_what_cannot_be_published(training, tmp_path):
    saved = torch.load(training.last, weights_only=False)

    def stopped(message: str, content: object, **options: object) -> None:
        torch.save(content, tmp_path / 'bad.pth')
        with pytest.raises(ValueError, match=message):
            training.publish(tmp_path / 'out', checkpoint=tmp_path / 'bad.pth', **options)
        assert not (tmp_path / 'out').exists()

    stopped('has no class names in its meta', {'meta': {}})
    stopped('has no class names in its meta', [1, 2])
    stopped('no class names in its meta', {'state_dict': saved['state_dict']})
    stopped('no class names in its meta', saved['state_dict'])
    renamed = {**saved, 'meta': {'dataset_meta': {'CLASSES': ('blue', 'red')}}}
    stopped(r"has the classes \('blue', 'red'\), the config \('red', 'blue'\)", renamed)
    wider = {'model.backbone.widen_factor': 0.25, 'model.neck.widen_factor': 0.25}
    stopped('does not fit the model of the config: .* have another shape', saved, given=wider)
    # a shallower model would take all its weights from a deeper one
    deeper = {**saved['state_dict'], 'backbone.layers.1.1.blocks.1.conv1.conv.weight': torch.zeros(1)}
    stopped('1 are not in the model', {**saved, 'state_dict': deeper})
    (tmp_path / 'text.pth').write_text('hello')
    for path, message in (('text.pth', 'cannot be read as a file of torch.save'), ('none.pth', 'there is no')):
        with pytest.raises(ValueError, match=message):
            training.publish(tmp_path / 'out', checkpoint=tmp_path / path)


def test_the_command(training, tmp_path, monkeypatch, capsys):
    def start(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, 'argv', ['publish.py', str(training.config), *map(str, arguments)])
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv('MMYOLO_EXT_DEBUG', raising=False)
        code = 0
        try:
            runpy.run_path(str(REPO / 'tools' / 'publish.py'), run_name='__main__')
        except SystemExit as end:
            code = end.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    code, out, error = start(training.last, '--license', 'mit', '--origin', 'my own photographs')
    assert code == 0, error
    (weights,) = (tmp_path / 'published').glob('mine-*.pth')
    assert 'compared with the source: outputs differ by' in out
    assert f'written: published/{weights.name}' in out and 'float16; the statistics of norm layers' in out
    assert f'warning: the config has absolute paths, {training.folder}/data/' in error
    assert 'Start: my own photographs.' in weights.with_suffix('.md').read_text()
    for arguments, message in (
        ((training.last, '--license', 'mit'), 'exists already: --force overwrites it'),
        ((training.last, '--out', 'a.pt'), '--out must end in .pth, got a.pt'),
        ((training.last, '--ap', 54), '--ap takes AP50-95 and, optionally, AP50, each from 0 to 1, got [54.0]'),
        ((training.last, '--ap', 0.5, '--test'), 'give one of them'),
        (('none.pth',), 'there is no checkpoint none.pth'),
    ):
        code, _, error = start(*arguments)
        lines = [line for line in error.splitlines() if line.startswith('error: ')]
        assert code == 2 and len(lines) == 1 and message in lines[0]
