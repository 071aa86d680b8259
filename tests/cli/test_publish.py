"""``tools/publish.py`` on a training of two epochs: what is in the file, what the card says, and who can read it."""

import hashlib
import json
import runpy
import sys
from copy import deepcopy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from mmengine.runner import Runner
from tiny_coco import CLASSES, REPO, make_tiny_coco, write_user_config

from mmyolo_ext.apis import Detector, load_config
from mmyolo_ext.apis.conversion import convert_file
from mmyolo_ext.apis.exporting import export_detector
from mmyolo_ext.apis.publishing import Figures, Options, Published, publish
from mmyolo_ext.apis.publishing.check import Difference
from mmyolo_ext.apis.publishing.publisher import evaluate
from mmyolo_ext.apis.publishing.source import changed_since
from mmyolo_ext.export.formats import Options as ExportOptions
from mmyolo_ext.weights import install_reader

STATISTICS = ('running_mean', 'running_var')
# a rate at which two epochs move the weights, and a validation after each of them
EXTRA = """
train_cfg = dict(val_interval=1)
optim_wrapper = dict(optimizer=dict(lr=0.05))
default_hooks = dict(accumulate=dict(nominal_batch_size=2))
"""
FIGURES = {
    'coco/bbox_mAP': 0.4321,
    'coco/bbox_mAP_50': 0.6543,
    'coco/bbox_mAP_75': 0.5432,
    'coco/red_precision': 0.31,
    'coco/blue_precision': 0.52,
}


class Trained:
    """A training: its folder, the config, and its two sets of weights when it ended."""

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
        self.averaged = deepcopy(hook.ema_model.module.state_dict())
        self.trained = deepcopy(runner.model.state_dict())
        self.work = folder / 'work'
        # two epochs find nothing: figures that can be told apart take the place of the zeros
        (log,) = self.work.glob('*/vis_data/scalars.json')
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        (row,) = [row for row in rows if row['step'] == 2 and 'coco/bbox_mAP' in row]
        row |= FIGURES
        log.write_text('\n'.join(map(json.dumps, rows)))

    @property
    def last(self) -> Path:
        return self.work / 'epoch_2.pth'

    def publish(self, out: Path, checkpoint: Path | None = None, given: dict | None = None, **options) -> Published:
        return publish(load_config(self.config, given), checkpoint or self.last, out / 'tiny.pth', Options(**options))


@pytest.fixture(scope='module')
def training(tmp_path_factory) -> Trained:
    return Trained(tmp_path_factory.mktemp('publish'))


@pytest.fixture(scope='module')
def published(training, tmp_path_factory) -> Published:
    return training.publish(tmp_path_factory.mktemp('published'), licence='Apache-2.0')


def front_matter(card: Path) -> dict:
    return yaml.safe_load(card.read_text().split('---')[1])


def test_the_averaged_weights_in_half_precision_and_nothing_else(training, published):
    path = published.files[0]
    saved = torch.load(path, weights_only=True)
    assert saved.keys() == {'meta', 'state_dict'}
    assert saved['meta'].keys() == {'cfg', 'dataset_meta', 'mmyolo_ext_version', 'license'}
    assert saved['meta']['dataset_meta'] == {'classes': CLASSES}
    assert list(saved['state_dict']) == list(training.averaged)
    moved = 0
    for name, value in saved['state_dict'].items():
        wanted = training.averaged[name]
        kept = name.endswith(STATISTICS) or not wanted.is_floating_point()
        assert value.dtype == (wanted.dtype if kept else torch.float16)
        assert torch.equal(value, wanted if kept else wanted.half()), name
        # the order in memory too, for training runs channels-last
        assert value.is_contiguous() and value.untyped_storage().nbytes() == value.nbytes
        moved += not torch.equal(wanted, training.trained[name])
    assert moved > 100  # the averaged weights are not those that training goes on from
    # weights twice and a momentum in float32, against one set in float16: at most a sixth, and the zip's own lines
    assert path.stat().st_size < training.last.stat().st_size / 4
    assert 'left out: message_hub, optimizer, param_schedulers, ema_state_dict' in published.notes
    assert any('averaged' in note for note in published.notes)


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
    with pytest.raises(ValueError, match=r'tiny-\w{8}.md is there already: --force'):
        training.publish(tmp_path, licence='Apache-2.0')
    assert again.files[2].read_text() == 'mine'
    training.publish(tmp_path, licence='Apache-2.0', force=True)
    assert again.files[2].read_text() == published.files[2].read_text()
    assert len(list(tmp_path.iterdir())) == 6  # two publications, no temporary file


def test_float32_changes_no_bit(training, tmp_path):
    done = training.publish(tmp_path, half=False)
    saved = torch.load(done.files[0], weights_only=True)['state_dict']
    assert all(torch.equal(value, training.averaged[name]) for name, value in saved.items())
    assert done.difference.outputs == done.difference.boxes_px == done.difference.scores == 0
    assert 'float32' in done.files[2].read_text() and any('licence is not stated' in text for text in done.warnings)


def test_the_card(training, published):
    card = published.files[2].read_text()
    head = front_matter(published.files[2])
    assert head['license'] == 'apache-2.0' and head['pipeline_tag'] == 'object-detection'
    (result,) = head['model-index'][0]['results']
    metrics = [(metric['name'], metric['value']) for metric in result['metrics']]
    assert metrics == [('AP50-95', 0.4321), ('AP50', 0.6543), ('AP75', 0.5432)]
    # 6 and 5 pictures; of those to train on two, of the others one has no box, the rest one of each class
    assert '| training | data/train.json | 6 |' in card and '| validation and test | data/val.json | 5 |' in card
    assert '| red | 4 | 4 | 0.3100 |' in card and '| blue | 4 | 4 | 0.5200 |' in card
    count = sum(
        value.numel() for name, value in training.averaged.items() if not name.endswith((*STATISTICS, 'tracked'))
    )
    assert f'{count:,} parameters, 2 classes' in card
    assert 'letterbox to 64 x 64 px' in card and 'order RGB' in card and 'std [255, 255, 255]' in card
    assert 'class scores by sigmoid' in card and '| epochs | 2 |' in card and '| seed | 0 |' in card
    assert f'| torch | {torch.__version__} |' in card and 'Start: random weights' in card
    assert hashlib.sha256(published.files[0].read_bytes()).hexdigest() in card
    assert str(training.folder) not in card


def test_figures_as_said_and_as_measured(training, tmp_path):
    done = training.publish(tmp_path, figures=Figures({'bbox_mAP': 0.5, 'bbox_mAP_50': 0.75}, 'as I say'))
    (result,) = front_matter(done.files[2])['model-index'][0]['results']
    assert [(metric['name'], metric['value']) for metric in result['metrics']] == [('AP50-95', 0.5), ('AP50', 0.75)]
    done = training.publish(tmp_path, test=True, force=True)
    measured = evaluate(done.files[1], done.files[0]).overall
    (result,) = front_matter(done.files[2])['model-index'][0]['results']
    assert {metric['name']: metric['value'] for metric in result['metrics']} == pytest.approx(measured, abs=1e-4)
    assert 'with this very file' in done.files[2].read_text()


def test_another_config_than_the_training_had(training, tmp_path):
    """Its figures would not be those of the card."""
    cfg = load_config(training.config)
    meta = torch.load(training.last, weights_only=False)['meta']
    assert changed_since(cfg, meta) == [] == changed_since(cfg, {})
    cfg.test_dataloader.dataset.dataset.pipeline[2].centred = False
    cfg.test_dataloader.dataset.dataset.data_root = 'elsewhere/'
    cfg.model.test_cfg.nms.iou_threshold = 0.5
    changed = ['model.test_cfg.nms.iou_threshold', 'test_dataloader.dataset.dataset.pipeline.2.centred']
    assert changed_since(cfg, meta) == changed
    done = training.publish(tmp_path, given={'model.test_cfg.score_thr': 0.01, 'data_root': 'not/here/'})
    assert 'Not measured.' in done.files[2].read_text() and '| training | here/train.json | not at hand |' in (
        done.files[2].read_text()
    )
    assert 'Classes: red, blue.' in done.files[2].read_text()
    assert any('model.test_cfg.score_thr' in text for text in done.warnings) and done.picture == 'noise'
    assert any('precision is not known' in text for text in done.warnings)


def test_every_tool_takes_the_result(training, published, tmp_path):
    weights, config, _ = published.files
    cfg = load_config(config)
    assert cfg.load_from == str(weights) and 'work_dir' not in cfg
    picture = cv2.imread(str(next((training.folder / 'data' / 'val').glob('*.png'))))
    sources = (Detector(load_config(training.config), training.last, 'cpu'), Detector(cfg, weights, 'cpu'))
    (wanted,), (got,) = (list(detector([picture], score_thr=0.0)) for detector in sources)
    assert sources[1].classes == CLASSES and len(wanted.scores) == len(got.scores) > 0
    assert np.abs(wanted.scores - got.scores).max() < 0.01
    assert published.difference.outputs > 0 and published.difference.boxes_px < 1

    export = export_detector(cfg, str(weights), tmp_path / 'a.torchscript', ExportOptions('torchscript'))
    assert export.difference.within(export.bound)
    lines = convert_file(weights, tmp_path / 'there.pt', 'auto', 'ultralytics', config)
    assert any('every bit of them is the same' in line for line in lines)

    # a training of other classes at the rate 0, which moves no weight
    tuned = tmp_path / 'tuned.py'
    tuned.write_text(f"_base_ = '{config}'\nclass_names = ('red',)\nmax_epochs = 1\n")
    cfg = load_config(tuned, {'optim_wrapper.optimizer.lr': 0.0, 'val_cfg': None, 'val_dataloader': None})
    cfg.work_dir, cfg.val_evaluator = str(tmp_path / 'work'), None
    runner = Runner.from_cfg(cfg)
    runner.train()
    name = 'backbone.layers.0.conv.weight'
    assert torch.equal(runner.model.state_dict()[name], training.averaged[name].half().float())
    assert runner.model.bbox_head.num_classes == 1


def test_a_difference_is_a_failure(training, tmp_path, monkeypatch):
    from mmyolo_ext.apis.publishing import publisher

    def wrong(state_dict: dict, half: bool) -> tuple[dict, list]:
        return {name: value * 1.2 if 'convs_pred' in name else value for name, value in state_dict.items()}, []

    monkeypatch.setattr(publisher, 'slim', wrong)
    with pytest.raises(ValueError, match='what was written differs from its source: head outputs'):
        training.publish(tmp_path / 'out')
    assert list((tmp_path / 'out').iterdir()) == []
    assert Difference(0.5, 10.0, 4.0, 0.02).within(half=True) and not Difference(1e-6, 10.0).within(half=False)
    assert not Difference(0.51, 10.0).within(half=True) and not Difference(0.1, 10.0, 4.1, 0.0).within(half=True)


def test_what_cannot_be_published(training, tmp_path):
    saved = torch.load(training.last, weights_only=False)

    def stopped(message: str, content: object, **options: object) -> None:
        torch.save(content, tmp_path / 'bad.pth')
        with pytest.raises(ValueError, match=message):
            training.publish(tmp_path / 'out', checkpoint=tmp_path / 'bad.pth', **options)
        assert not (tmp_path / 'out').exists()

    stopped('is no checkpoint: it holds no weights', {'meta': {}})
    stopped('is no checkpoint: it holds no weights', [1, 2])
    stopped('no meta with the names of its classes', {'state_dict': saved['state_dict']})
    stopped('no meta with the names of its classes', saved['state_dict'])
    renamed = {**saved, 'meta': {'dataset_meta': {'CLASSES': ('blue', 'red')}}}
    stopped(r"has the classes \('blue', 'red'\), the config \('red', 'blue'\)", renamed)
    wider = {'model.backbone.widen_factor': 0.25, 'model.neck.widen_factor': 0.25}
    stopped('is not of the model in the config: .* have another shape', saved, given=wider)
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
        said = capsys.readouterr()
        return code, said.out, said.err

    code, out, error = start(training.last, '--license', 'mit', '--origin', 'my own photographs')
    assert code == 0, error
    (weights,) = (tmp_path / 'published').glob('mine-*.pth')
    assert 'largest difference to the source on 000.png: head outputs' in out
    assert f'written: published/{weights.name}' in out and 'float16; the statistics of norm layers' in out
    assert f'warning: the config names places of this machine, {training.folder}/data/' in error
    assert 'Start: my own photographs.' in weights.with_suffix('.md').read_text()
    for arguments, message in (
        ((training.last, '--license', 'mit'), 'is there already: --force writes over it'),
        ((training.last, '--out', 'a.pt'), '--out must end in .pth, got a.pt'),
        ((training.last, '--ap', 54), '--ap takes AP50-95 and, if you like, AP50, each from 0 to 1, got [54.0]'),
        ((training.last, '--ap', 0.5, '--test'), 'give one of them'),
        (('none.pth',), 'there is no checkpoint none.pth'),
    ):
        code, _, error = start(*arguments)
        lines = [line for line in error.splitlines() if line.startswith('error: ')]
        assert code == 2 and len(lines) == 1 and message in lines[0]
