"""Try the readers of files with random and damaged ones: ``python tests/security/fuzz.py --minutes 10``.

A reader may accept a file or raise ValueError; anything else is a crash, which is printed with the file's content.
``tests/security/test_fuzz.py`` runs a few examples of each.
"""

import argparse
import contextlib
import importlib
import io
import json
import os
import pickle
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import cv2
import numpy as np
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as with_seed
from hypothesis import strategies as st

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / 'models' / 'darknet')]

from darknet_files import EVERY_SECTION  # noqa: E402

from mmyolo_ext.checkpoint.config_text import (  # noqa: E402
    DataLoader,
    parse_config,
    parse_plain_parts,
)
from mmyolo_ext.checkpoint.safe_load import read_checkpoint  # noqa: E402
from mmyolo_ext.datasets import (  # noqa: E402
    CheckedCocoDataset,
    CheckedVOCDataset,
    YOLOTxtDataset,
    find_dataset,
    labelme,
)
from mmyolo_ext.datasets.voc import parse_xml  # noqa: E402
from mmyolo_ext.datasets.yolo_txt import read_data_yaml as read_yolo_file  # noqa: E402
from mmyolo_ext.export import runtime  # noqa: E402
from mmyolo_ext.image_io import decode_image  # noqa: E402
from mmyolo_ext.models.darknet.cfg import read_graph  # noqa: E402
from mmyolo_ext.models.darknet.detector import DarknetCfg  # noqa: E402

REPO = Path(__file__).parents[2]
PNG = cv2.imencode('.png', np.zeros((8, 8, 3), np.uint8))[1].tobytes()
MAX_SHOWN = 300  # characters of a crash's file
SLOW = 10  # times less files for the readers that take milliseconds
ODD = [
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**63,
    10**400,
    -0.5,
    1e308,
    float('nan'),
    float('inf'),
    '',
    '../x',
    '/x',
    'é\ud800',
]
ODD_BYTES = [
    b'\0',
    b'\xff' * 4,
    b'\x7f\xff\xff\xff',
    b'9' * 400,
    b'9' * 5000,
    b'[' * 300,
    b'-',
    b'.',
    b'nan',
    b'1e999',
    b'../',
]


class Target(NamedTuple):
    """A reader, and files to try it with."""

    files: st.SearchStrategy
    read: Callable[[object, Path], None]


class Tried(NamedTuple):
    """Number of files tried, and of those that were accepted; crashes by where they happened."""

    files: int
    accepted: int
    crashes: dict[str, str]


def changed(bases: list[bytes]) -> st.SearchStrategy:
    """Make damaged copies of files, or, now and then, bytes of no meaning."""

    def damage(base: bytes, seed: int, edits: int) -> bytes:
        draw = random.Random(seed)
        content = bytearray(base)
        for _ in range(edits):
            place = draw.randrange(len(content) + 1)
            length = draw.choice((1, 1, 2, 4, 20))
            kind = draw.randrange(6)
            if kind == 0:
                content[place : place + length] = draw.randbytes(length)
            elif kind == 1:
                content[place:place] = draw.randbytes(length)
            elif kind == 2:
                del content[place : place + length]
            elif kind == 3:
                content[place : place + length] = draw.choice(ODD_BYTES)
            elif kind == 4:
                other = draw.randrange(len(content) + 1)
                content[place:place] = content[other : other + 40]
            elif place > len(content) // 2:
                del content[place:]
        return bytes(content)

    damaged = st.builds(damage, st.sampled_from(bases), st.integers(0, 2**32), st.integers(0, 12))
    return st.one_of(damaged, damaged, damaged, st.binary(max_size=200))


def json_values() -> st.SearchStrategy:
    """Make values that JSON can hold."""
    leaves = st.one_of(st.sampled_from(ODD), st.integers(), st.floats(), st.text(max_size=8), st.booleans())
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
        max_leaves=8,
    )


def replaced(base: object, count: int = 3) -> st.SearchStrategy:
    """Make copies of a structure in which some values are others, missing or twice there."""

    def replace(seed: int, values: list[object]) -> object:
        draw, copy = random.Random(seed), json.loads(json.dumps(base))
        for value in values:
            node = copy
            while True:
                keys = list(node) if isinstance(node, dict) else list(range(len(node)))
                if not keys:
                    break
                key = draw.choice(keys)
                if isinstance(node[key], (dict, list)) and draw.random() < 0.8:
                    node = node[key]
                    continue
                if draw.random() < 0.2:
                    del node[key]
                elif isinstance(node, list) and draw.random() < 0.3:
                    node.append(node[key])
                else:
                    node[key] = value
                break
        return copy

    return st.builds(replace, st.integers(0, 2**32), st.lists(json_values(), min_size=1, max_size=count))


def targets() -> dict[str, Target]:
    """The readers by name."""
    text = 'model = dict(type="A", b=[1, (2.5, None)], c={"d e": -1e-05})\nx = True\ny = dict({"a b": 1})\n'
    document = 'names: {0: cat, 1: dog}\ntrain: &a [x, y]\nval: *a\nnc: 2\n'
    config_text = changed([text.encode()]).map(lambda content: content.decode('utf-8', 'replace')) | st.text(
        max_size=80
    )
    coco_text = changed([json.dumps(coco()).encode()])
    return {
        'COCO, values': Target(replaced(coco()).map(lambda value: json.dumps(value).encode()), read_coco),
        'COCO, bytes': Target(coco_text, read_coco),
        'VOC': Target(changed([VOC.encode()]), read_voc),
        'labelme, values': Target(replaced(LABELME).map(lambda value: json.dumps(value).encode()), read_labelme),
        'labelme, bytes': Target(changed([json.dumps(LABELME).encode()]), read_labelme),
        'YOLO labels': Target(changed([b'0 0.5 0.5 0.1 0.2\n1 0.1 0.1 0.2 0.3 0.4 0.1 0.9 0.9\n']), read_labels),
        'data.yaml': Target(changed([DATA_YAML.encode()]), read_data_yaml),
        'zip': Target(changed([zipped()]), read_zip),
        'txt': Target(changed([b'a\nb 1\n', b'cat\ndog\n']), read_txt),
        '.cfg': Target(changed([EVERY_SECTION.encode()]), read_cfg),
        '.weights': Target(changed([b'\0\0\0\0\2\0\0\0\5\0\0\0' + bytes(8) + bytes(4 * NUMBERS)]), read_darknet),
        '.pt': Target(changed(checkpoints()), read_pt),
        'config text': Target(config_text, read_config),
        'ONNX metadata': Target(replaced(RULES), read_metadata),
        'YAML': Target(changed([document.encode()]), read_yaml),
        'image': Target(changed(images()), read_image),
    }  # fmt: skip


def coco() -> dict:
    return {
        'images': [{'id': i, 'file_name': f'{i}.jpg', 'width': 8, 'height': 8} for i in (1, 2)],
        'annotations': [
            {'id': i, 'image_id': 1, 'category_id': 1, 'bbox': [1, 1, 4, 4], 'area': 16, 'iscrowd': 0} for i in (1, 2)
        ],
        'categories': [{'id': 1, 'name': 'cat'}, {'id': 2, 'name': 'dog'}],
    }


VOC = """<annotation><size><width>8</width><height>8</height></size>
<object><name>cat</name><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>5</xmax><ymax>6.5</ymax></bndbox></object></annotation>"""

DATA_YAML = """path: .
train: [images, list.txt]
val: ../images
names: {0: cat, 1: dog}
nc: 2
"""

LABELME = {
    'version': '5.4.1', 'imagePath': 'a.png', 'imageData': None, 'imageHeight': 8, 'imageWidth': 8,
    'shapes': [
        {'label': 'cat', 'shape_type': 'rectangle', 'points': [[1, 2], [5, 6.5]]},
        {'label': 'dog', 'shape_type': 'circle', 'points': [[4, 4], [6, 4]]},
    ],
}  # fmt: skip

RULES = {
    'format': 1, 'mmyolo_ext': '0', 'names': ['a', 'b'], 'size_hw': [64, 64], 'strides': [8, 16, 32], 'dynamic': True,
    'precision': 'float32', 'channels': 'RGB', 'mean': [0.0, 0.0, 0.0], 'std': [255.0, 255.0, 255.0],
    'letterbox': {'pad_val': 114, 'centred': False, 'allow_upscale': True, 'interpolation': 'bilinear'},
    'activation': 'sigmoid', 'multi_label': True, 'nms_in_graph': False, 'score_thr': 0.001, 'nms_pre': 30,
    'nms_iou': 0.65, 'class_agnostic': False, 'max_per_img': 300,
}  # fmt: skip
TINY_CFG = """[net]
width=32
height=32
channels=3
[convolutional]
batch_normalize=1
filters=2
size=3
stride=2
pad=1
activation=leaky
[convolutional]
filters=6
size=1
activation=linear
[yolo]
mask=0
anchors=3,4
classes=1
"""
NUMBERS = 4 * 2 + 2 * 3 * 9 + 6 + 6 * 2


def checkpoints() -> list[bytes]:
    """Contents of small checkpoints in torch's forms of today and before 1.6, and of plain pickles."""
    content = {'state_dict': {'a.weight': torch.zeros(2, 3)}, 'meta': {'epoch': 1, 'cfg': 'a = 1', 'n': np.arange(3)}}
    found = []
    for new in (True, False):
        stream = io.BytesIO()
        torch.save(content, stream, _use_new_zipfile_serialization=new)
        found.append(stream.getvalue())
    return [*found, pickle.dumps(content), pickle.dumps({'a': [1, 'b', b'c', (2.5, None)]}, protocol=2)]


def images() -> list[bytes]:
    """Contents of small images."""
    pixels = (np.arange(12 * 9 * 3) % 256).astype(np.uint8).reshape(12, 9, 3)
    return [cv2.imencode(f'.{name}', pixels)[1].tobytes() for name in ('jpg', 'png', 'webp', 'tiff', 'bmp')] + [
        cv2.imencode('.png', pixels.astype(np.uint16) * 257)[1].tobytes()
    ]


def read_coco(content: bytes, folder: Path) -> None:
    (folder / 'a.json').write_bytes(content)
    dataset = CheckedCocoDataset(
        ann_file='a.json',
        data_root=str(folder),
        data_prefix={'img': ''},
        metainfo={'classes': ('cat', 'dog')},
        pipeline=[],
        lazy_init=True,
    )
    dataset.full_init()
    for index in range(len(dataset)):
        path = dataset.get_data_info(index)['img_path']
        assert Path(os.path.normpath(path)).is_relative_to(folder), path


def read_voc(content: bytes, folder: Path) -> None:
    (folder / 'a.xml').write_bytes(content)
    (folder / 'a.png').write_bytes(PNG)
    read_all(CheckedVOCDataset, data_root=str(folder), data_prefix={'img': '', 'ann': ''})
    tool, tree = converter(), parse_xml(folder / 'a.xml')
    options = argparse.Namespace(one_based=False, difficult='keep')
    for item in tree.iter('object'):
        tool.convert_object(item, folder / 'a.xml', (8, 8), ['cat'], options)


def read_all(dataset_class: type, **arguments) -> None:
    arguments.setdefault('metainfo', {'classes': ('cat', 'dog')})
    dataset = dataset_class(pipeline=[], lazy_init=True, test_mode=True, **arguments)
    dataset.full_init()


def read_labelme(content: bytes, folder: Path) -> None:
    (folder / 'a.png').write_bytes(PNG)
    (folder / 'a.json').write_bytes(content)
    labelme.discover_labels([folder / 'a.json'])
    read_all(labelme.LabelmeDataset, data_root=str(folder))


def read_labels(content: bytes, folder: Path) -> None:
    read_yolo(folder, content, b'train: images\nnames: [cat, dog]\n')


def read_data_yaml(content: bytes, folder: Path) -> None:
    read_yolo(folder, b'0 0.5 0.5 0.1 0.2\n', content)


def read_yolo(folder: Path, labels: bytes, content: bytes) -> None:
    (folder / 'images').mkdir(exist_ok=True)
    (folder / 'images' / 'a.png').write_bytes(PNG)
    (folder / 'images' / 'a.txt').write_bytes(labels)
    (folder / 'list.txt').write_text('images/a.png')
    (folder / 'data.yaml').write_bytes(content)
    for split in read_yolo_file(folder / 'data.yaml').splits:
        read_all(YOLOTxtDataset, data_yaml=str(folder / 'data.yaml'), split=split, metainfo=None)


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('data.yaml', 'train: images\nnames: [cat, dog]\n')
        archive.writestr('images/a.png', PNG)
        archive.writestr('images/a.txt', '0 0.5 0.5 0.1 0.2\n')
    return stream.getvalue()


def read_zip(content: bytes, folder: Path) -> None:
    shutil.rmtree(folder / 'inner', ignore_errors=True)
    (folder / 'inner').mkdir()
    (folder / 'inner' / 'a.zip').write_bytes(content)
    try:
        find_dataset(folder / 'inner' / 'a.zip').summary()
    finally:
        outside = {path.name for path in folder.iterdir()} - {'inner'}
        inside = {path.name for path in (folder / 'inner').iterdir()} - {'a.zip', 'a'}
        assert not outside and not inside, (outside, inside)


def read_txt(content: bytes, folder: Path) -> None:
    (folder / 'ImageSets' / 'Main').mkdir(parents=True, exist_ok=True)
    for path in (folder / 'ImageSets' / 'Main' / 'train.txt', folder / 'names.txt'):
        path.write_bytes(content)
    converter().read_classes([str(folder / 'names.txt')])
    converter().read_splits(folder, ['train'])


def read_cfg(content: bytes, folder: Path) -> None:
    (folder / 'a.cfg').write_bytes(content)
    read_graph(folder / 'a.cfg')


def read_darknet(content: bytes, folder: Path) -> None:
    (folder / 'tiny.cfg').write_text(TINY_CFG)
    (folder / 'a.weights').write_bytes(content)
    DarknetCfg(folder / 'tiny.cfg', weights=folder / 'a.weights').init_weights()


def read_pt(content: bytes, folder: Path) -> None:
    (folder / 'a.pt').write_bytes(content)
    read_checkpoint(folder / 'a.pt')


def read_config(text: str, folder: Path) -> None:
    parse_plain_parts(text)
    parse_config(text)


def read_metadata(rules: object, folder: Path) -> None:
    properties = {key: json.dumps(value) for key, value in rules.items()} if isinstance(rules, dict) else {}
    rules = runtime.read_rules(properties, 'a.onnx')
    outputs = {name: np.zeros((1, 3, sides), np.float32) for name, sides in (('boxes', 4), ('scores', 2))}
    runtime.check_outputs(outputs, 1, rules, 'a.onnx')
    canvas, _, _ = runtime.letterbox(np.zeros((5, 9, 3), np.uint8), (64, 64), (64, 64), rules['letterbox'])
    assert np.isfinite(runtime.normalise([canvas], rules)).all()
    runtime.finish(outputs, 0, rules, 0.1)


def read_yaml(content: bytes, folder: Path) -> None:
    try:
        yaml.load(content, Loader=DataLoader)
    except yaml.YAMLError as error:
        raise ValueError('not YAML') from error


def read_image(content: bytes, folder: Path) -> None:
    (folder / 'a.img').write_bytes(content)
    try:
        image = runtime.read_image(folder / 'a.img')
    except ValueError:
        image = None
    decoded, _ = decode_image(content)
    # whichever way broken EXIF data turn them
    assert image is None or np.array_equal(np.sort(image, axis=None), np.sort(decoded, axis=None))


def converter() -> ModuleType:
    """The tool ``voc2coco.py`` as a module."""
    return importlib.import_module('mmyolo_ext.cli.voc2coco')


def fuzz(target: Target, examples: int, seed: int, folder: Path) -> Tried:
    """Try a reader with so many files."""
    counts, crashes = Counter(), {}

    @with_seed(seed)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(target.files)
    def run(file: object) -> None:
        counts['files'] += 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                target.read(file, folder)
            counts['accepted'] += 1
        except ValueError as error:
            if not str(error).strip():
                crashes.setdefault('ValueError without a message', repr(file)[:MAX_SHOWN])
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f'{type(error).__name__}: {str(error)[:100]} at {Path(last.filename).name}:{last.lineno}'
            crashes.setdefault(where, repr(file)[:MAX_SHOWN])

    run()
    return Tried(counts['files'], counts['accepted'], crashes)


def main() -> None:
    parser = argparse.ArgumentParser(description='Try the readers of files with random and damaged ones')
    parser.add_argument('--minutes', type=float, default=10, help='how long (default: 10)')
    parser.add_argument('--examples', type=int, default=300, help='files of a round for each reader (default: 300)')
    parser.add_argument('--seed', type=int, default=0, help='of the first round; each round adds 1 (default: 0)')
    args = parser.parse_args()
    end, total, accepted, found, seed = time.monotonic() + 60 * args.minutes, Counter(), Counter(), {}, args.seed
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        while time.monotonic() < end:
            for name, target in targets().items():
                examples = args.examples // SLOW if name in ('COCO, values', 'COCO, bytes') else args.examples
                tried = fuzz(target, examples, seed, Path(folder))
                total[name] += tried.files
                accepted[name] += tried.accepted
                for where, file in tried.crashes.items():
                    if (name, where) not in found:
                        found[name, where] = file
                        print(f'crash in {name}: {where}\n    {file}', file=sys.stderr, flush=True)
                if time.monotonic() >= end:
                    break
            seed += 1
    for name, count in total.items():
        print(f'{name}: {count:,} files, {accepted[name]:,} accepted, {sum(key[0] == name for key in found)} crashes')
    print(f'{total.total():,} files, {len(found)} crashes, seeds {args.seed} to {seed - 1}')
    sys.exit(bool(found))


if __name__ == '__main__':
    main()
