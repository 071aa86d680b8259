"""Pascal VOC to COCO, on files made by hand and on BCCD."""

import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmyolo_ext.cli import voc2coco


def box_xml(name, corners, difficult=0):
    keys = ('xmin', 'ymin', 'xmax', 'ymax')
    inner = ''.join(f'<{key}>{value}</{key}>' for key, value in zip(keys, corners, strict=True))
    return f'<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{inner}</bndbox></object>'


def write_image(root, name, boxes, size='<size><width>40</width><height>30</height></size>', suffix='.jpg'):
    for folder in ('Annotations', 'JPEGImages', 'ImageSets/Main'):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / f'Annotations/{name}.xml').write_text(f'<annotation>{size}{"".join(boxes)}</annotation>')
    cv2.imwrite(str(root / f'JPEGImages/{name}{suffix}'), np.zeros((30, 40, 3), np.uint8))


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / 'my voc'
    write_image(root, 'one', [box_xml('dog', (5, 6, 15, 26)), box_xml('cat', (1, 1, 40, 30), difficult=1)])
    write_image(root, 'two', [], suffix='.png')
    write_image(
        root,
        'three',
        [
            box_xml('dog', (7, 7, 7, 20)),
            box_xml('dog', (20, 5, 10, 9)),
            box_xml('cat', (50, 5, 60, 9)),
            box_xml('cat', (30, 20, 48.5, 28)),
        ],
    )
    (root / 'ImageSets/Main/train.txt').write_text('one\ntwo\n\n')
    (root / 'ImageSets/Main/val.txt').write_text('three  1\n')
    return root


def convert(root, out, *options):
    reports = voc2coco.main([str(root), str(out), *options])
    return reports, {split: json.loads((Path(out) / f'{split}.json').read_text()) for split in reports}


def test_boxes_classes_and_images(voc, tmp_path):
    reports, coco = convert(voc, tmp_path / 'out')
    train = coco['train']
    assert train['categories'] == [{'id': 0, 'name': 'cat'}, {'id': 1, 'name': 'dog'}]
    assert [image['file_name'] for image in train['images']] == ['one.jpg', 'two.png']
    assert train['annotations'] == [
        # (5, 6, 15, 26) -> 15 - 5 = 10 wide, 26 - 6 = 20 high.
        {'id': 1, 'image_id': 0, 'category_id': 1, 'bbox': [5, 6, 10, 20], 'area': 200, 'iscrowd': 0},
        {'id': 2, 'image_id': 0, 'category_id': 0, 'bbox': [1, 1, 39, 29], 'area': 1131, 'iscrowd': 1},
    ]
    assert (reports['train'].images, reports['train'].background, reports['train'].ignored) == (2, 1, 1)


def test_one_based_pixels(voc, tmp_path):
    _, coco = convert(voc, tmp_path / 'out', '--one-based', '--splits', 'train')
    # Pixels 5..15 and 6..26 counted from 1 cover 4..15 and 5..26; 1..40 and 1..30 the whole image of 40 x 30.
    assert [box['bbox'] for box in coco['train']['annotations']] == [[4, 5, 11, 21], [0, 0, 40, 30]]


def test_bad_boxes_are_dropped_counted_and_named(voc, tmp_path, capsys):
    reports, coco = convert(voc, tmp_path / 'out')
    assert [box['bbox'] for box in coco['val']['annotations']] == [[30, 20, 10, 8]]  # 48.5 clipped to 40
    reasons = [line.rsplit(': ', 1)[1] for line in reports['val'].dropped]
    assert reasons == ['no area', 'no area', 'outside the image of 40 x 30']
    printed = capsys.readouterr().out
    assert '3 boxes dropped' in printed and 'three.xml: dog at 7, 7, 7, 20: no area' in printed
    assert '1 boxes clipped to the image' in printed and 'three.xml: cat at 30, 20, 48.5, 28' in printed


@pytest.mark.parametrize(('choice', 'crowds'), [('ignore', [0, 1]), ('keep', [0, 0]), ('drop', [0])])
def test_difficult(voc, tmp_path, choice, crowds):
    _, coco = convert(voc, tmp_path / 'out', '--difficult', choice)
    assert [box['iscrowd'] for box in coco['train']['annotations']] == crowds


def test_class_order(voc, tmp_path):
    def names(*options):
        return [entry['name'] for entry in convert(voc, tmp_path / 'out', *options)[1]['train']['categories']]

    assert names('--order', 'found') == ['dog', 'cat']
    assert names('--classes', 'dog', 'cat', 'bird') == ['dog', 'cat', 'bird']
    (tmp_path / 'names.txt').write_text('dog\ncat\n')
    assert names('--classes', str(tmp_path / 'names.txt')) == ['dog', 'cat']
    reports, _ = convert(voc, tmp_path / 'out', '--classes', 'dog')
    assert reports['train'].dropped == ['one.xml: cat at 1, 1, 40, 30: not one of the classes']


@pytest.mark.parametrize('size', ['', '<size><width>0</width><height>0</height></size>'])
def test_size_is_read_from_the_image_where_the_xml_has_none(voc, tmp_path, size):
    write_image(voc, 'one', [], size=size)
    image = convert(voc, tmp_path / 'out')[1]['train']['images'][0]
    assert (image['width'], image['height']) == (40, 30)


def test_what_is_missing_or_broken_is_named(voc, tmp_path, capsys):
    def error(*options):
        with pytest.raises(SystemExit) as caught:
            convert(voc, tmp_path / 'none', *options)
        assert caught.value.code == 2 and not (tmp_path / 'none').exists()
        return capsys.readouterr().err

    assert "['minival']" in error('--splits', 'minival') and "['train', 'val']" in error('--splits', 'minival')
    assert 'named twice' in error('--classes', 'dog', 'dog')
    (voc / 'JPEGImages/two.png').unlink()
    assert 'image is missing' in error() and 'two' in error()
    (voc / 'Annotations/one.xml').write_text('<annotation><object>')
    assert 'broken' in error() and 'one.xml' in error()
    (voc / 'Annotations/one.xml').unlink()
    assert 'annotation file is missing' in error() and 'one.xml' in error()


def test_bccd(bccd_dir, tmp_path):
    reports, coco = convert(bccd_dir, tmp_path / 'out')
    assert {split: len(coco[split]['images']) for split in coco} == {
        'train': 205,
        'val': 87,
        'trainval': 292,
        'test': 72,
    }
    kept = sum((reports[split].kept for split in ('train', 'val', 'test')), start=Counter())
    dropped = [line for split in ('train', 'val', 'test') for line in reports[split].dropped]
    # BCCD has 4155, 372 and 361 objects; two RBC of them are points.
    assert dropped and all(': RBC at ' in line and line.endswith(': no area') for line in dropped)
    assert kept + Counter(RBC=len(dropped)) == {'RBC': 4155, 'WBC': 372, 'Platelets': 361}
    assert len(dropped) == 2 and not any(report.clipped for report in reports.values())
    assert not {i['file_name'] for i in coco['trainval']['images']} & {i['file_name'] for i in coco['test']['images']}
