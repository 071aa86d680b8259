"""tools/export.py from the command line: its options, its report, and what a failed check leaves."""

import re
import runpy
import sys

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from terminal import standard_error_on_terminal
from tiny_coco import REPO, make_tiny_coco, write_user_config

from mmyolo_ext.apis import exporting, load_config
from mmyolo_ext.cli import export as cli
from mmyolo_ext.export.runtime import ExportedDetector

pytest.importorskip('onnxruntime')
pytest.importorskip('onnx')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('export')
    cfg = load_config(write_user_config(folder / 'mine.py', make_tiny_coco(folder / 'data')))
    init_default_scope('mmdet')
    torch.manual_seed(0)
    torch.save({'state_dict': MODELS.build(cfg.model).state_dict(), 'meta': {}}, folder / 'weights.pth')
    return folder


@pytest.fixture
def export(folder, monkeypatch, capsys):
    """Run the tool in this process; (exit code, what it printed, what it said of errors)."""

    def start(*arguments: object, checkpoint: str = 'weights.pth') -> tuple[int, str, str]:
        command = ['export.py', folder / 'mine.py', folder / checkpoint, *arguments]
        monkeypatch.setattr(sys, 'argv', [str(part) for part in command])
        monkeypatch.delenv('MMYOLO_EXT_DEBUG', raising=False)
        code = 0
        try:
            runpy.run_path(str(REPO / 'tools' / 'export.py'), run_name='__main__')
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        return code, said.out, '\n'.join(line for line in said.err.splitlines() if line.startswith('error: '))

    return start


def test_the_file_lies_beside_the_checkpoint_and_has_been_checked(export, folder, monkeypatch):
    image_path = next((folder / 'data' / 'train').glob('*.png'))
    options = ('--cfg-options', 'model.test_cfg.score_thr=0.2')
    with standard_error_on_terminal(monkeypatch) as shown:
        code, printed, _ = export('--nms', '--fuse', '--size', 64, 96, '--image', image_path, *options)
    assert code == 0 and re.search('Export to weights.onnx .* 3/3 ', shown[0]), shown[0]
    assert f'onnx (opset 17): {folder}/weights.onnx' in printed
    assert 'largest difference to PyTorch: boxes ' in printed and '(bound 0.1 px, 0.0001)' in printed
    rules = ExportedDetector(folder / 'weights.onnx').rules
    assert rules['size_hw'] == [64, 96] and rules['score_thr'] == 0.2 and rules['names'] == ['red', 'blue']
    assert not [file for file in folder.iterdir() if file.name.startswith('tmp')]


def test_a_difference_above_the_bound_is_a_failure(export, folder, tmp_path, monkeypatch):
    right = exporting.open_exported

    def shifted(file, kind):
        run, rules = right(file, kind)
        return lambda images: {name: value + 0.11 * (name == 'boxes') for name, value in run(images).items()}, rules

    monkeypatch.setattr(exporting, 'open_exported', shifted)
    code, _, error = export('--format', 'torchscript', '--size', 64, '--out', tmp_path / 'new' / 'a.torchscript')
    assert code == 2 and 'differs from PyTorch by boxes 0.11 px' in error and 'above the bound of 0.1 px' in error
    assert [file.name for file in (tmp_path / 'new').iterdir()] == ['failed_a.torchscript']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('--size', 1, 2, 3), '--size takes a side, or height and width, in px, got [1, 2, 3]'),
        (('--size', 50), 'must be multiples of 32, got (50, 50)'),
        (('--out', 'a.pt'), '--out for onnx must end in .onnx, got a.pt'),
        (('--image', 'none.jpg'), 'there is no image none.jpg'),
        (('--cfg-options', 'data_root=nowhere/'), 'the test data of the config cannot be read'),
        (('--format', 'torchscript', '--nms'), '--nms is for onnx, openvino and engine'),
    ],
)
def test_errors_are_one_line(export, arguments, message):
    code, _, error = export(*arguments)
    assert code == 2 and message in error and error.count('\n') == 0


def test_a_pipeline_that_no_runtime_repeats(folder):
    cfg = load_config(folder / 'mine.py')
    steps = cfg.test_dataloader.dataset.dataset.pipeline
    cfg.test_dataloader.dataset.dataset.pipeline = [s for s in steps if 'Letterbox' not in s['type']]
    with pytest.raises(ValueError, match='must have one mmyolo_ext.Letterbox'):
        exporting.letterbox_of(cfg)


def test_a_checkpoint_alone_has_its_config(folder, tmp_path):
    saved = torch.load(folder / 'weights.pth', weights_only=True)
    saved['meta'] = {'cfg': load_config(folder / 'mine.py').pretty_text}
    torch.save(saved, tmp_path / 'best.pth')
    image = next((folder / 'data' / 'train').glob('*.png'))
    cli.main([str(tmp_path / 'best.pth'), '--size', '64', '--image', str(image)])
    assert ExportedDetector(tmp_path / 'best.onnx').names == ('red', 'blue')


def test_a_config_alone_is_not_enough(folder, capsys):
    with pytest.raises(SystemExit):
        cli.main([str(folder / 'mine.py')])
    assert 'give the checkpoint to export after the config' in capsys.readouterr().err
