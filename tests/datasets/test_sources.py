"""Every format gives the boxes that were drawn; what is no data set gives one line; conversions keep the boxes."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from data_formats import (
    HEIGHT,
    MAKERS,
    NAMES,
    TRAIN,
    VAL,
    WIDTH,
    draw,
    labelme,
    make_coco_folder,
    make_labelme,
    make_voc,
    make_voc_flat,
    make_yolo_ultralytics,
    write,
    write_coco,
    xml,
)
from mmengine.registry import METRICS, init_default_scope
from mmengine.structures import InstanceData

from mmyolo_ext.apis.config import load_config
from mmyolo_ext.apis.config_nodes import leaf_datasets
from mmyolo_ext.cli.convert import convert, main
from mmyolo_ext.coco_json import split_images
from mmyolo_ext.datasets import find_dataset
from mmyolo_ext.datasets.raw_labels import read_split
from mmyolo_ext.datasets.sources import DataSource, build
from mmyolo_ext.registry import DATASETS

REPO = Path(__file__).parents[2]
LISTS = ('yolo_lists', 'yolo_cvat', 'yolo_of_windows', 'zip')  # they name files, with their suffixes


def boxes_of(source: DataSource, split: str) -> dict:
    """{file stem: [(class, x1, y1, x2, y2)]} of the dataset of a split, in the order of its images."""
    init_default_scope('mmdet')
    dataset = DATASETS.build({**source.splits[split], 'pipeline': []})
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    assert all(
        (info['width'], info['height']) == (WIDTH, HEIGHT) and Path(info['img_path']).is_file() for info in infos
    )
    return {
        Path(info['img_path']).stem: [(one['bbox_label'], *np.round(one['bbox'], 9)) for one in info['instances']]
        for info in infos
    }


@pytest.mark.parametrize('name', MAKERS)
def test_every_format_gives_the_boxes_that_were_drawn(name: str, tmp_path: Path) -> None:
    source = find_dataset(MAKERS[name](tmp_path))
    assert source.format == ('yolo' if name == 'zip' else name.split('_')[0])
    assert source.class_names == NAMES
    assert list(source.splits) == ['train', 'val']
    assert list(boxes_of(source, 'train').items()) == list(TRAIN.items())
    assert boxes_of(source, 'val') == VAL
    text = source.summary()
    assert 'train: kept 5 boxes on 4 images (1 background)' in text
    assert ('dropped 4: 4 of shape point, which has no box' in text) == (name == 'labelme')
    assert ("'../test/images', which is not in" in text) == (name in ('yolo_roboflow', 'zip'))


@pytest.mark.parametrize('name', [name for name in MAKERS if name not in LISTS])
def test_suffixes_may_be_capitals(name: str, tmp_path: Path) -> None:
    """As cameras and some tools on Windows write them: IMG_1.JPG, IMG_1.XML."""
    data = MAKERS[name](tmp_path / 'large')
    for file in [file for file in (tmp_path / 'large').rglob('*') if file.is_file()]:
        if file.suffix in ('.json', '.xml'):
            file.write_text(file.read_text().replace('.png', '.PNG'))
        file.rename(file.with_suffix(file.suffix.upper()))
    found = find_dataset(data if data.exists() else data.with_suffix(data.suffix.upper()))
    assert (boxes_of(found, 'train'), boxes_of(found, 'val')) == (TRAIN, VAL)
    raw = {split: read_split(split, config) for split, config in found.splits.items()}
    assert {split: len(one.numbers) for split, one in raw.items()} == {'train': 5, 'val': 2}
    assert not any(one.faults or one.unlisted for one in raw.values()) or name == 'labelme'  # which has a point


def test_keypoints_and_polygons_that_resemble_them(tmp_path: Path) -> None:
    """Closed polygons around the image, from each corner, have a 0 or 1 at every third place too."""
    text = (make_yolo_ultralytics(tmp_path) / 'data.yaml').read_text()
    write(tmp_path / 'data.yaml', text + 'kpt_shape: [2, 3]\n')
    write(tmp_path / 'labels/train/1.txt', POSE)
    (box,) = boxes_of(find_dataset(tmp_path), 'train')['1']
    assert box == pytest.approx((1, 24, 16, 56, 24))  # of 80 x 40 px: 0.3 to 0.7, 0.4 to 0.6
    write(tmp_path / 'data.yaml', text)
    corners = ['0 0', '1 0', '1 1', '0 1']
    lines = [' '.join(['0', *corners[k:], *corners[:k], corners[k]]) for k in range(4)]
    write(tmp_path / 'labels/train/1.txt', '\n'.join([*lines, '0 .4 .4 .6 .4 .5 .6 .4 .5 .4 .4']))
    whole, part = (0, 0, 0, 80, 40), (0, 32, 16, 48, 24)
    assert boxes_of(find_dataset(tmp_path), 'train')['1'] == [*[whole] * 4, part]


def test_label_studio_and_linked_folders(tmp_path: Path) -> None:
    """A list of classes beside images and labels, which are links, is split; its notes are no annotations."""
    make_yolo_ultralytics(tmp_path / 'in')
    for name in ('images', 'labels'):
        (tmp_path / 'out' / name).mkdir(parents=True)
        (tmp_path / 'out' / name / 'a').symlink_to(tmp_path / 'in' / name / 'train')
    (tmp_path / 'out/images/a/loop').symlink_to(tmp_path / 'out/images')
    write(tmp_path / 'out/classes.txt', 'ant\nbee')
    write(tmp_path / 'out/notes.json', '{"categories": [{"id": 0, "name": "ant"}], "info": {"version": "1.0"}}')
    for path in (tmp_path / 'out', tmp_path / 'out/classes.txt'):
        source = find_dataset(path)
        assert (source.format, source.class_names, list(source.splits)) == ('yolo', NAMES, ['train', 'val'])
        assert {**boxes_of(source, 'train'), **boxes_of(source, 'val')} == TRAIN


@pytest.mark.parametrize(
    ('difficult', 'boxes', 'crowds', 'dropped'),
    [
        ('ignore', 2, 1, {'of another class': 1}),
        ('keep', 2, 0, {'of another class': 1}),
        ('drop', 1, 0, {'of another class': 1, 'difficult': 1}),
    ],
)
def test_difficult_objects_of_voc(difficult: str, boxes: int, crowds: int, dropped: dict, tmp_path: Path) -> None:
    """Two ants, one of them difficult, and a difficult bee without a box, which does not matter to a set of ants."""
    write(tmp_path / 'Annotations/1.xml', xml('1', [*TRAIN['1'], (0, 2, 2, 9, 9)]))
    path = tmp_path / 'Annotations/1.xml'
    first, bee, second = path.read_text().replace('</annotation>', '').split('<object>')[1:]
    bee = bee.replace('bndbox', 'box').replace('</name>', '</name><difficult>1</difficult>')
    second = second.replace('</name>', '</name><difficult> 1 </difficult>')
    head = path.read_text().split('<object>')[0]
    write(path, '<object>'.join([head, first, bee, second]) + '</annotation>')
    draw(tmp_path / 'JPEGImages', {'1': []})
    config = {'type': 'mmyolo_ext.CheckedVOCDataset', 'data_root': str(tmp_path), 'difficult': difficult}
    dataset = build({**config, 'metainfo': {'classes': ('ant',)}})
    dataset.full_init()
    assert (dataset.report['boxes'], dataset.report['crowds']) == (boxes, crowds)
    assert dataset.report['dropped'] == dropped
    with pytest.raises(ValueError, match=r'an object without a readable bndbox in .*1\.xml'):
        build({**config, 'metainfo': {'classes': NAMES}}).full_init()


def test_names_of_voc_lists(tmp_path: Path) -> None:
    """With spaces, as paths of images, and with the number of Pascal's lists of a class."""
    make_voc(tmp_path)
    for file in (tmp_path / 'JPEGImages/3.png', tmp_path / 'Annotations/3.xml'):
        file.rename(file.with_stem('in the grass 1'))
    write(tmp_path / 'ImageSets/Main/train.txt', '\ufeff1 -1\r\n2  1\r\nin the grass 1\r\nJPEGImages/4.png\r\n')
    boxes = boxes_of(find_dataset(tmp_path), 'train')
    assert boxes == {'1': TRAIN['1'], '2': [], 'in the grass 1': TRAIN['3'], '4': TRAIN['4']}


def test_training_needs_a_train_split(tmp_path: Path) -> None:
    path = with_yaml(tmp_path, 'val: images/val\nnames: [ant, bee]')
    with pytest.raises(ValueError, match='no train split, .* it has val. Add train to it, or split .*--split 0.8 0.2'):
        load_config(REPO / 'configs/yolov5/yolov5_n_640_coco.py', {'data': str(path), 'recipe': None})


def test_a_relative_path_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ('yolo_lists', 'coco_file', 'voc_flat', 'labelme'):
        source = find_dataset(os.path.relpath(MAKERS[name](tmp_path / name)))
        assert boxes_of(source, 'train') == TRAIN, name


def first_batch(data: Path) -> list[dict]:
    options = {'data': str(data), 'recipe': None, 'input_size': 64, 'train_dataloader.num_workers': 0}
    cfg = load_config(REPO / 'configs/yolov5/yolov5_n_640_coco.py', options)
    init_default_scope('mmdet')
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    dataset.set_epoch(0, 3)
    assert cfg.model.bbox_head.num_classes == 2
    return [dataset[index] for index in range(len(dataset))]


@pytest.mark.parametrize('name', ['yolo_ultralytics', 'voc', 'labelme'])
def test_the_first_batch_is_that_of_coco(name: str, tmp_path: Path) -> None:
    expected = first_batch(make_coco_folder(tmp_path / 'coco'))
    for sample, other in zip(first_batch(MAKERS[name](tmp_path / name)), expected, strict=True):
        assert torch.equal(sample['inputs'], other['inputs'])
        own, coco = sample['data_samples'].gt_instances, other['data_samples'].gt_instances
        assert torch.equal(own.labels, coco.labels)
        torch.testing.assert_close(own.bboxes.tensor, coco.bboxes.tensor, rtol=0, atol=1e-4)


def scores(data: Path) -> dict:
    """AP of one right, one shifted and one false box on the validation images."""
    cfg = load_config(REPO / 'configs/yolov5/yolov5_n_640_coco.py', {'data': str(data), 'recipe': None})
    init_default_scope('mmdet')
    metric, dataset = METRICS.build(cfg.val_evaluator), DATASETS.build(cfg.val_dataloader.dataset)
    metric.dataset_meta = dataset.metainfo
    found = {'5': [[10, 5, 30, 35, 1], [50, 5, 70, 35, 1]], '6': [[4, 8, 14, 16, 0]]}
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        boxes = torch.tensor(found[Path(info['img_path']).stem], dtype=torch.float32)
        predictions = InstanceData(
            bboxes=boxes[:, :4], labels=boxes[:, 4].long(), scores=torch.linspace(0.9, 0.8, len(boxes))
        )
        sample = {'img_id': info['img_id'], 'ori_shape': (HEIGHT, WIDTH), 'pred_instances': predictions}
        metric.process({}, [sample])
    return metric.evaluate(len(dataset))


def test_a_config_of_mmdet_reads_the_data_it_is_given(tmp_path: Path) -> None:
    # its base has data_root = 'data/coco/'
    cfg = load_config(
        REPO / 'configs/mixed/fcos_shufflenetv2-1.0_fpn_gn-head_1x_coco.py', {'data': str(make_voc(tmp_path))}
    )
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        (leaf,) = leaf_datasets(loader.dataset)
        assert leaf.data_root == str(tmp_path) and leaf.type == 'mmyolo_ext.CheckedVOCDataset'
    assert 'data_root' not in cfg and cfg.model.bbox_head.num_classes == 2


def test_every_format_is_scored_as_coco(tmp_path: Path) -> None:
    expected = scores(make_coco_folder(tmp_path / 'coco'))
    # bee: its box is found first: 1.0. ant: IoU 8 / 10 = 0.8 passes the thresholds 0.5 to 0.8, 7 of 10.
    assert expected['coco/bbox_mAP'] == pytest.approx((1.0 + 0.7) / 2, abs=1e-3)
    for name in ('yolo_ultralytics', 'voc', 'labelme'):
        assert scores(MAKERS[name](tmp_path / name)) == expected, name


def test_images_are_split_by_seed_and_class() -> None:
    """90 images of class 0, 10 of class 1 and 20 of background."""
    content = {
        'images': [{'id': number} for number in range(120)],
        'annotations': [{'image_id': number, 'category_id': int(number >= 90)} for number in range(100)],
    }
    train, val = split_images(content, (0.8, 0.2), seed=0)
    assert sorted(train + val) == list(range(120))
    counts = [sum(start <= index < end for index in val) for start, end in ((0, 90), (90, 100), (100, 120))]
    assert counts == [18, 2, 4]
    assert split_images(content, (0.8, 0.2), seed=0) == [train, val]
    assert split_images(content, (0.8, 0.2), seed=1) != [train, val]
    tiny = {'images': content['images'][:2], 'annotations': content['annotations'][:2]}
    assert sorted(map(len, split_images(tiny, (0.99, 0.01), seed=0))) == [1, 1]


def test_data_without_validation_images_are_split(tmp_path: Path) -> None:
    draw(tmp_path, TRAIN)
    for name, boxes in TRAIN.items():
        write(tmp_path / f'{name}.xml', xml(name, boxes))
    source = find_dataset(tmp_path)
    train, val = boxes_of(source, 'train'), boxes_of(source, 'val')
    assert {**train, **val} == TRAIN
    assert (len(train), len(val)) == (3, 1)
    assert 'no validation images: 20% of the training images' in source.summary()


def test_bccd_keeps_its_boxes_through_all_formats(bccd_dir: Path, tmp_path: Path) -> None:
    """VOC -> COCO -> YOLO -> VOC -> COCO, and the splits, to half a pixel."""
    source, contents = find_dataset(bccd_dir), []
    for number, to in enumerate(('coco', 'yolo', 'voc', 'coco')):
        lines = convert(source, tmp_path / str(number), to, link=True)
        assert lines[0] == 'train: 205 images (0 background), 2804 boxes'
        source = find_dataset(tmp_path / str(number))
        if to == 'coco':
            contents.append({split: source.read(split) for split in ('train', 'val', 'test')})
    for split, first in contents[0].items():
        last = contents[1][split]
        assert [image['file_name'] for image in first['images']] == [image['file_name'] for image in last['images']]
        boxes = [np.array([one['bbox'] for one in part['annotations']]) for part in (first, last)]
        corners = [np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], 1) for box in boxes]
        assert np.abs(corners[0] - corners[1]).max() <= 0.5
        labels = [[one['category_id'] for one in part['annotations']] for part in (first, last)]
        assert labels[0] == labels[1]


def test_conversion_selects_classes_and_splits_again(tmp_path: Path) -> None:
    source = find_dataset(make_labelme(tmp_path / 'in'))
    lines = convert(source, tmp_path / 'out', 'yolo', classes=['bee'], split=(0.5, 0.5), seed=1)
    assert lines[-1] == 'dropped from all images: 10 boxes: 6 of shape point, which has no box, 4 of another class'
    result = find_dataset(tmp_path / 'out')
    assert (result.class_names, list(result.splits)) == (('bee',), ['train', 'val'])
    boxes = {**boxes_of(result, 'train'), **boxes_of(result, 'val')}
    expected = {name: [(0, *box[1:]) for box in own if box[0]] for name, own in {**TRAIN, **VAL}.items()}
    assert boxes == expected
    convert(source, tmp_path / 'few', 'coco', subset=1)
    assert [len(find_dataset(tmp_path / 'few').read(split)['images']) for split in ('train', 'val')] == [1, 1]


def test_the_command_converts(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make_voc_flat(tmp_path / 'in')
    main([str(tmp_path / 'in'), '--to', 'yolo', '--out', str(tmp_path / 'out')])
    assert (
        'train: 4 images (1 background), 5 boxes\nval: 2 images (0 background), 2 boxes\n' in capsys.readouterr().out
    )
    assert (tmp_path / 'out/labels/train/3.txt').read_text() == '1 0.5 0.5 1 1\n'
    assert boxes_of(find_dataset(tmp_path / 'out'), 'train') == TRAIN
    with pytest.raises(SystemExit, match='2'):
        main([str(tmp_path / 'in'), '--to', 'coco', '--out', str(tmp_path / 'out')])
    assert 'out is not an empty folder: give another one\n' in capsys.readouterr().err


def test_supervision_reads_what_is_converted(tmp_path: Path) -> None:
    sv = pytest.importorskip('supervision')
    convert(find_dataset(make_labelme(tmp_path / 'in')), tmp_path / 'out', 'coco')
    data = sv.DetectionDataset.from_coco(str(tmp_path / 'out/train'), str(tmp_path / 'out/annotations/train.json'))
    boxes = {
        Path(path).stem: [(c, *box) for c, box in zip(found.class_id.tolist(), found.xyxy.tolist(), strict=True)]
        for path, _, found in data
    }
    assert (tuple(data.classes), boxes) == (NAMES, TRAIN)


def test_pixels_from_one_become_corners(tmp_path: Path) -> None:
    """Pascal's first pixel is 1, and its last one is inside: x1 = xmin - 1, x2 = xmax."""
    make_voc(tmp_path / 'in')
    main([str(tmp_path / 'in'), '--to', 'coco', '--out', str(tmp_path / 'out'), '--one-based'])
    source = find_dataset(tmp_path / 'out')
    expected = {n: [(c, max(x - 1, 0), max(y - 1, 0), x2, y2) for c, x, y, x2, y2 in own] for n, own in TRAIN.items()}
    assert boxes_of(source, 'train') == expected
    with pytest.raises(ValueError, match='one-based pixels are of Pascal VOC, .*out is coco: leave the option out'):
        convert(source, tmp_path / 'again', 'voc', one_based=True)


def make_outside_zip(root: Path, name: str = '../../evil.txt', link: bool = False) -> Path:
    with zipfile.ZipFile(root / 'bad.zip', 'w') as archive:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = (0o120777 if link else 0o644) << 16
        archive.writestr(entry, '/etc')
    return root / 'bad.zip'


def with_yaml(root: Path, text: str) -> Path:
    make_yolo_ultralytics(root)
    write(root / 'data.yaml', text)
    return root / 'data.yaml'


def with_label(root: Path, text: str) -> Path:
    path = make_yolo_ultralytics(root)
    write(root / 'labels/train/1.txt', text)
    return path


def two_formats(root: Path) -> Path:
    make_voc(root)
    return make_yolo_ultralytics(root)


def other_classes(root: Path) -> Path:
    path = make_coco_folder(root)
    write_coco(root / 'annotations/instances_val2017.json', VAL, ('bee', 'ant'))
    return path


def class_only_in_val(root: Path) -> Path:
    write(make_voc(root) / 'Annotations/5.xml', xml('5', VAL['5']).replace('bee', 'wasp'))
    return root


def damaged_zip(root: Path) -> Path:
    """A zip whose compressed text is overwritten."""
    path = root / 'a.zip'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('data.yaml', 'names: [a, b]\n' * 100)
    content = bytearray(path.read_bytes())
    content[39:45] = b'\xff' * 6  # behind the header of 30 bytes and the name of 9
    path.write_bytes(content)
    return path


def absolute_in_zip(root: Path) -> Path:
    make_yolo_ultralytics(root / 'elsewhere')
    with zipfile.ZipFile(root / 'a.zip', 'w') as archive:
        archive.writestr('data.yaml', f'path: {root}/elsewhere\ntrain: images/train\nval: images/val\nnames: [a, b]\n')
    return root / 'a.zip'


def image_outside(root: Path) -> Path:
    draw(root, {'1': []})
    write(root / 'in/1.json', labelme('1', TRAIN['1'], '../1.png'))
    return root / 'in'


POSE = '1 .5 .5 .4 .2 .4 .45 2 0 0 0'  # a box, a visible keypoint in it, and one that is not labelled
BAD = {
    'missing': (lambda root: root / 'nothing', 'there is no data at'),
    'empty folder': (lambda root: root, 'is not a data set: give a data.yaml'),
    'classes.txt alone': (
        lambda root: write(root / 'classes.txt', 'a') or root,
        'classes.txt: train has no images in',
    ),
    'labels without names': (lambda root: write(root / 'labels/1.txt', '0 1 1 1 1') or root, 'write classes.txt into'),
    'another archive': (lambda root: write(root / 'a.tar', 'x') or root / 'a.tar', 'unpack it, or pack it as a zip'),
    'a text file': (lambda root: write(root / 'a.txt', 'x') or root / 'a.txt', 'is not a data set: give a data.yaml'),
    'two formats': (two_formats, r'holds data in 2 formats \(yolo: data.yaml; voc: Annotations\)'),
    'classes in another order': (other_classes, r"differ between the splits: train has \('ant', 'bee'\), val has"),
    'class only in val': (class_only_in_val, 'differ between the splits: wasp of val is not in train'),
    'class index': (
        lambda root: with_label(root, '0 .5 .5 .1 .1\n2 .5 .5 .1 .1'),
        '1.txt, line 2: class index 2 is not',
    ),
    'pixels': (lambda root: with_label(root, '0 40 20 8 8'), 'line 1: coordinates must be fractions of the image'),
    'nan': (lambda root: with_label(root, '0 nan .5 .1 .1'), 'line 1: coordinates must be fractions of the image'),
    'text': (lambda root: with_label(root, 'ant .5 .5 .1 .1'), 'line 1: a label must be numbers'),
    'three numbers': (lambda root: with_label(root, '0 .5 .5'), 'line 1: a label must be class x y w h'),
    'a confidence': (lambda root: with_label(root, '0 .5 .5 .1 .1 .9'), 'it has 6 numbers: remove the confidence'),
    'two keypoints': (
        lambda root: with_label(root, POSE),
        'line 1: a label of 11 numbers that are a class, a box and 2 keypoints .* write kpt_shape: \\[2, 3\\]',
    ),
    'a keypoint': (lambda root: with_label(root, '0 .5 .5 .4 .4 .4 .4 2'), '1 keypoints .* write kpt_shape: \\[1, 3'),
    'names of YAML': (
        lambda root: with_yaml(root, 'train: images\nnames: [yes, no]'),
        'as true or false: put it in quotes',
    ),
    'broken yaml': (lambda root: with_yaml(root, 'names: [a'), 'is not readable as YAML'),
    'yaml without names': (lambda root: with_yaml(root, 'train: images/train'), 'names must be a list of class names'),
    'names with a gap': (lambda root: with_yaml(root, 'names: {0: a, 2: b}'), 'keys of names must be 0 to 1'),
    'another nc': (lambda root: with_yaml(root, 'nc: 3\nnames: [a, b]'), 'nc is 3, but names has 2 entries'),
    'no images': (lambda root: with_yaml(root, 'names: [a]\ntrain: images/no'), "'images/no', which is not in"),
    'yaml outside': (lambda root: with_yaml(root, 'names: [a]\ntrain: ../..'), 'outside .*: set path to a folder'),
    'zip outside': (make_outside_zip, 'points outside of the zip'),
    'zip absolute': (lambda root: make_outside_zip(root, '/x'), 'points outside of the zip'),
    'zip with a link': (lambda root: make_outside_zip(root, 'a', link=True), 'is a symbolic link'),
    'no zip': (lambda root: write(root / 'a.zip', 'x') or root / 'a.zip', 'cannot unpack .*: File is not a zip file'),
    'damaged zip': (damaged_zip, 'cannot unpack .*: Error -3 while decompressing'),
    'yaml of a zip outside': (absolute_in_zip, 'outside of the zip'),
    'labelme image outside': (image_outside, "imagePath '../1.png' is outside"),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_data_give_one_line(name: str, tmp_path: Path) -> None:
    make, message = BAD[name]
    (tmp_path / 'data').mkdir()
    with pytest.raises(ValueError, match=message) as caught:
        source = find_dataset(make(tmp_path / 'data'))
        for config in source.splits.values():
            build(config).read_content()
    assert '\n' not in str(caught.value)
    assert not list(tmp_path.rglob('evil.txt'))
