"""``mmyolo-ext predict``: a checkpoint or an export alone, images and videos, and what it imports."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_coco import CLASSES, REPO, make_tiny_coco, write_user_config
from tiny_detector import save_untrained

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.exporting import export_detector
from mmyolo_ext.apis.results import Detections
from mmyolo_ext.cli.predict import list_sources, output_names
from mmyolo_ext.export.formats import Options


@pytest.fixture(scope='module')
def files(tmp_path_factory) -> Path:
    """A folder with ``model.pth``, ``model.onnx``, images in ``data/val``, and ``film.avi`` of two frames."""
    folder = tmp_path_factory.mktemp('predict')
    data = make_tiny_coco(folder / 'data')
    cfg = load_config(write_user_config(folder / 'mine.py', data))
    save_untrained(cfg, folder / 'model.pth', CLASSES)
    export_detector(cfg, str(folder / 'model.pth'), folder / 'model.onnx', Options())
    writer = cv2.VideoWriter(str(folder / 'film.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 5, (64, 64))
    for number in ('000', '003'):
        writer.write(cv2.imread(str(data / 'val' / f'{number}.png')))
    writer.release()
    return folder


def command(*words: str | Path, code: int = 0) -> str:
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, cwd=REPO, timeout=120)
    text = done.stdout + done.stderr
    assert done.returncode == code, text[-3000:]
    return text


PROGRAM = """
import sys
from mmyolo_ext.cli.main import main
try:
    main(['predict', *sys.argv[1:]])
finally:
    print('imported:', *(name for name in ('torch', 'mmengine', 'mmdet', 'imgaug', 'scipy', 'matplotlib.pyplot',
          'torch.distributed.fsdp') if name in sys.modules))
"""


@pytest.mark.parametrize(('model', 'imported'), [('model.pth', 'torch mmengine mmdet'), ('model.onnx', '')])
def test_a_file_alone_predicts_and_imports_what_it_needs(files, tmp_path, model, imported):
    out = tmp_path / 'out'
    text = command(
        *('-c', PROGRAM, files / model, files / 'data' / 'val' / '000.png', files / 'film.avi'),
        *('--out-dir', out, '--score-thr', '0.1'),
    )
    assert text.splitlines()[-1].split(':')[1].strip() == imported, text
    assert 'film.avi: 2 frames, ' in text and '3 images, 0 skipped' in text
    records = json.loads((out / 'predictions.json').read_text())
    assert [record.get('frame') for record in records] == [None, 0, 1] and records[0]['boxes']
    assert sorted(file.name for file in out.iterdir()) == ['000.png', 'film.mp4', 'predictions.json']
    assert cv2.VideoCapture(str(out / 'film.mp4')).get(cv2.CAP_PROP_FRAME_COUNT) == 2


def test_export_and_checkpoint_find_the_same(files, tmp_path, capsys):
    from mmyolo_ext.cli.predict import main

    for model in ('model.pth', 'model.onnx'):
        main([str(files / model), str(files / 'data' / 'val'), '--out-dir', str(tmp_path / model), '--no-draw'])
    one, other = (
        json.loads((tmp_path / model / 'predictions.json').read_text()) for model in ('model.pth', 'model.onnx')
    )
    assert sum(len(record['boxes']) for record in one) > 5
    for ours, theirs in zip(one, other, strict=True):
        assert [box['class'] for box in ours['boxes']] == [box['class'] for box in theirs['boxes']]
        for left, right in zip(ours['boxes'], theirs['boxes'], strict=True):
            assert left['box'] == pytest.approx(right['box'], abs=0.1)


def test_tiles_of_an_export_are_those_of_the_checkpoint(files, tmp_path, capsys):
    from mmyolo_ext.cli.predict import main

    scene = cv2.resize(cv2.imread(str(files / 'data' / 'val' / '000.png')), (150, 110))
    cv2.imwrite(str(tmp_path / 'large.png'), scene)
    boxes = []
    for model, tiles in (('model.pth', ['--tile', '64']), ('model.onnx', ['--tile', '64']), ('model.onnx', [])):
        out = ['--out-dir', str(tmp_path), '--no-draw']
        main([str(files / model), str(tmp_path / 'large.png'), *tiles, *out])
        (record,) = json.loads((tmp_path / 'predictions.json').read_text())
        boxes.append({(box['class'], *(round(side) for side in box['box'])) for box in record['boxes']})
    of_checkpoint, of_export, whole = boxes
    assert len(of_export) > 5
    assert len(of_checkpoint ^ of_export) <= 2  # a side at a half may be rounded up or down
    assert not of_export <= whole


@pytest.mark.parametrize('model', ['model.pth', 'model.onnx'])
def test_a_run_without_boxes_names_the_highest_score(files, tmp_path, capsys, model):
    from mmyolo_ext.apis import Detector
    from mmyolo_ext.cli.predict import main, why_nothing

    detector = Detector(files / model)
    images = sorted((files / 'data' / 'val').iterdir())
    highest = max(found.scores.max() for found in detector(images, 0.0))
    words = [str(files / model), *map(str, images), '--out-dir', str(tmp_path), '--no-draw']
    main([*words, '--score-thr', '0.999'])
    assert capsys.readouterr().out.splitlines()[-1] == (
        f'No box has a score of at least 0.999; the highest in the first {len(images)} images or frames is '
        f'{highest:.2g}: try --score-thr {0.8 * highest:.2g}, or train longer'
    )
    main([*words, '--score-thr', f'{0.8 * highest:.2g}'])
    assert 'No box' not in capsys.readouterr().out
    assert why_nothing(0.25, detector, ['0']) == 'No box has a score of at least 0.25: lower --score-thr'


def test_the_highest_score_is_that_of_all_images():
    from mmyolo_ext.cli.predict import why_nothing

    scores = {'a.jpg': [0.1, 0.05], 'b.jpg': [0.2, 0.04], 'c.jpg': []}

    def detector(sources: list, score_thr: float):
        assert score_thr == 0
        return iter([Detections(np.zeros((0, 4)), np.array(scores[sources[0]]), np.zeros(0, int))])

    assert why_nothing(0.25, detector, list(scores)) == (
        'No box has a score of at least 0.25; the highest in the first 3 images or frames is 0.2: try '
        '--score-thr 0.16, or train longer'
    )
    assert why_nothing(0.25, detector, ['c.jpg']).endswith(
        'is 0: does the model fit these images, and was its training long enough?'
    )


@pytest.mark.slow
def test_starting_costs_little_more_than_torch(files, tmp_path):
    def seconds(*words: str | Path) -> float:
        """CPU time, which other programs on the machine delay less than the clock."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command(*words)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime

    image = (files / 'data' / 'val' / '000.png', '--out-dir', tmp_path)
    torch_alone = seconds('-c', 'import torch')
    # 1.2 s; 2.4 s, and 4.9 s with all that mmdet imports; 0.25 s
    assert seconds('-m', 'mmyolo_ext.cli.predict', files / 'model.pth', *image) < 2.8 * torch_alone
    assert seconds('-m', 'mmyolo_ext.cli.predict', files / 'model.onnx', *image) < 0.6 * torch_alone


def test_errors_are_one_line(files, tmp_path):
    program = ('-m', 'mmyolo_ext.cli.predict')
    (tmp_path / 'bad.onnx').write_text('none')
    image = files / 'data' / 'val' / '000.png'
    for words, message in (
        ((files / 'model.onnx', tmp_path / '*.jpg'), 'error: no images match'),
        ((tmp_path / 'bad.onnx', image), 'error: onnxruntime cannot read'),
        ((files / 'model.onnx', image, '--half'), 'is an export, which takes no checkpoint'),
        ((files / 'model.onnx', 'https://example.org/a.jpg'), 'nothing is downloaded unless you ask for it'),
    ):
        text = command(*program, *words, '--out-dir', tmp_path / 'out', code=2)
        assert message in text and 'Traceback' not in text
    assert 'so a checkpoint and images must follow' in command(*program, 'yolov5_n', files / 'model.pth', code=2)


def test_a_missing_tracker_is_named_before_anything_is_read(tmp_path, monkeypatch):
    from mmyolo_ext.cli.predict import parse_args, predict

    monkeypatch.setitem(sys.modules, 'trackers', None)
    (tmp_path / 'a.mp4').touch()
    words = ['none.pth', str(tmp_path / 'a.mp4'), '--track', '--out-dir', str(tmp_path / 'out')]
    with pytest.raises(ValueError, match='needs the package trackers: pip install trackers'):
        predict(parse_args(words))
    assert not (tmp_path / 'out').exists()


def test_names_of_drawings():
    sources = [Path('a/x.jpg'), Path('b/x.jpg'), Path('c.mov'), 'rtsp://h/door', '0', 'https://h/y.php']
    assert output_names(sources) == ['a_x.jpg', 'b_x.jpg', 'c.mp4', 'door.mp4', '0.mp4', 'y.jpg']
    assert list_sources(['0', 'https://h/y.jpg', '0']) == ['0', 'https://h/y.jpg']


def test_parts_are_registered_when_mmengine_is_imported():
    program = (
        "import sys, mmyolo_ext; assert 'mmengine' not in sys.modules; import mmengine.registry as host; "
        "print(*host.MODELS.children, sum(type(finder).__name__ == '_AfterMMEngine' for finder in sys.meta_path))"
    )
    assert command('-c', program).split() == ['mmyolo_ext', '0']
