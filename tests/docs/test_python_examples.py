"""Examples of Python in the documentation that are programs: each runs where its files are."""

import json
import re
import shutil
from pathlib import Path

import cv2
import pytest
from data_formats import VAL as IMAGES
from data_formats import make_yolo_roboflow, write_coco
from tiny_coco import CLASSES, REPO, make_tiny_coco, write_user_config
from tiny_detector import save_untrained

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.exporting import Options, export_detector

PAGES = [REPO / 'README.md', *sorted((REPO / 'docs').rglob('*.md'))]


def examples() -> list:
    """Return the blocks that import what they use; a file ``# my_...py`` belongs to tests/docs/test_extend_*.py."""
    found = []
    for page in PAGES:
        blocks = re.findall(r'^```python\n(.*?)^```', page.read_text(encoding='utf-8'), re.DOTALL | re.MULTILINE)
        blocks = [block for block in blocks if re.match(r'import|from', block) and ' train(' not in block]
        name = page.relative_to(REPO).with_suffix('').as_posix()
        found += [pytest.param(block, id=f'{name}-{number}') for number, block in enumerate(blocks)]
    return found


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the examples name: data, weights that detect, images and a video."""
    folder = tmp_path_factory.mktemp('examples')
    data = make_tiny_coco(folder / 'data')
    cfg = load_config(write_user_config(folder / 'mine.py', data))
    save_untrained(cfg, folder / 'best.pth', CLASSES)
    export_detector(cfg, str(folder / 'best.pth'), folder / 'epoch_100.onnx', Options())
    cfg.dump(folder / 'mine.py')
    (folder / 'work_dirs' / 'mine').mkdir(parents=True)
    for name in ('best.pth', 'mine.py'):
        shutil.copy(folder / name, folder / 'work_dirs' / 'mine')
    shutil.copy(REPO / 'mmyolo_ext/export/runtime.py', folder)
    scene = cv2.imread(str(data / 'val' / '000.png'))
    for name in ('a', 'b', 'image', 'photo', 'large'):
        cv2.imwrite(str(folder / f'{name}.jpg'), scene)
    writer = cv2.VideoWriter(str(folder / 'film.mp4'), cv2.VideoWriter_fourcc(*'mp4v'), 5, scene.shape[1::-1])
    for _ in range(2):
        writer.write(scene)
    writer.release()
    make_yolo_roboflow(folder / 'my_pets')
    for name in ('data.yaml', 'train', 'val'):
        (folder / name).symlink_to(folder / 'my_pets' / name)
    (folder / 'images').symlink_to(folder / 'my_pets' / 'val' / 'images')
    write_coco(folder / 'ground_truth.json', IMAGES)
    return folder


@pytest.mark.parametrize('block', examples())
def test_an_example_runs(block: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package, mark in {'supervision': 'import supervision', 'sahi': 'from sahi', 'trackers': '.tracking'}.items():
        if mark in block:
            pytest.importorskip(package, reason=f'`pip install {package}`')
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    truth = json.loads((folder / 'ground_truth.json').read_text())
    box = {**truth['annotations'][0], 'score': 0.9}
    exec(compile(block, 'example', 'exec'), {'coco_dict': truth, 'results': [box]})
