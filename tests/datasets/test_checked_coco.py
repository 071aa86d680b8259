"""Bad annotation files, one fault at a time; what is kept of good ones."""

import json
import logging

import pytest

from mmyolo_ext.coco_json import check_file_name
from mmyolo_ext.datasets import CheckedCocoDataset, checked_coco
from mmyolo_ext.registry import DATASETS

IMAGE = {'id': 1, 'file_name': '1.png', 'width': 40, 'height': 30}
CATEGORIES = [{'id': 7, 'name': 'cat'}, {'id': 9, 'name': 'dog'}]


def box(*bbox, id=1, image_id=1, category_id=7, **more):
    return {'id': id, 'image_id': image_id, 'category_id': category_id, 'bbox': list(bbox), **more}


def load(path, classes=('cat', 'dog'), **options):
    options = {'metainfo': {'classes': classes}, 'data_prefix': {'img': 'images'}, **options}
    return CheckedCocoDataset(ann_file=str(path), **options)


def instances(dataset):
    return [instance for i in range(len(dataset)) for instance in dataset.get_data_info(i)['instances']]


def test_a_good_file(write_coco):
    dataset = DATASETS.build(
        {
            'type': 'mmyolo_ext.CheckedCocoDataset',
            'ann_file': str(write_coco()),
            'data_prefix': {'img': 'images'},
            'metainfo': {'classes': ('cat', 'dog')},
        }
    )
    assert len(dataset) == 2  # the image without boxes stays
    first = dataset.get_data_info(0)
    assert (first['img_path'], first['img_id'], first['height'], first['width']) == ('images/1.png', 1, 30, 40)
    assert first['instances'] == [
        {'bbox': [1, 2, 11, 22], 'bbox_label': 0, 'ignore_flag': 0},
        {'bbox': [5, 5, 15, 15], 'bbox_label': 1, 'ignore_flag': 0},
    ]
    assert dataset.get_data_info(1)['instances'] == []
    assert dataset.report == {
        'images': 2, 'background': 1, 'boxes': 2, 'crowds': 0, 'clipped': 0, 'dropped': {}
    }  # fmt: skip
    assert dataset.get_cat_ids(0) == [0, 1]


def test_images_without_boxes_leave_when_asked(write_coco):
    assert len(load(write_coco(), filter_cfg={'filter_empty_gt': True})) == 1
    with pytest.raises(ValueError, match='filter_cfg=.* leaves no image'):
        load(write_coco(), filter_cfg={'min_size': 500})


@pytest.mark.parametrize(
    ('bbox', 'reason'),
    [
        ([5, 5, 0, 10], 'of zero or negative size'),
        ([5, 5, 10, -1], 'of zero or negative size'),
        ([40, 5, 10, 10], 'outside the image'),  # its left edge on the image's right
        ([-10, 5, 10, 10], 'outside the image'),
        ([5, 30, 10, 10], 'outside the image'),
        ([5, 5, 0.9, 10], 'under one pixel'),
        ([39.5, 5, 10, 10], 'under one pixel'),
        ([1, 2, 3], 'not four finite numbers'),
        ([1, 2, 3, float('nan')], 'not four finite numbers'),
        ([1, 2, float('inf'), 3], 'not four finite numbers'),
        ([1, 2, '3', 4], 'not four finite numbers'),
        ([1, 2, None, 4], 'not four finite numbers'),
        ([1, 2, True, 4], 'not four finite numbers'),
        ([[1, 2, 3, 4]], 'not four finite numbers'),
        ([1, 2, 1e308, 1e308], 'with a number above 1,000,000'),
        ([1, 2, 10**400, 4], 'with a number above 1,000,000'),
        ([-(10**400), 2, 3, 4], 'with a number above 1,000,000'),
    ],
)
def test_bad_boxes_are_dropped_and_counted(write_coco, bbox, reason):
    dataset = load(write_coco(annotations=[box(1, 2, 10, 20), box(*bbox, id=2)]))
    assert [instance['bbox'] for instance in instances(dataset)] == [[1, 2, 11, 22]]
    assert dataset.report['boxes'] == 1 and dataset.report['dropped'] == {reason: 1}


@pytest.mark.parametrize('bbox', [None, {'x': 1}, 'text', 7])
def test_a_box_that_is_no_list_is_dropped(write_coco, bbox):
    dataset = load(write_coco(annotations=[box(1, 2, 10, 20), {**box(id=2), 'bbox': bbox}]))
    assert dataset.report['dropped'] == {'not four finite numbers': 1}


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('a.png', 'root/img/a.png'),
        ('sub/a b.png', 'root/img/sub/a b.png'),
        ('sub\\a.png', 'root/img/sub/a.png'),
        ('../other/a.png', 'root/img/../other/a.png'),  # inside of data_root
        ('x..y/..a.png', 'root/img/x..y/..a.png'),
        ('12:30.png', 'root/img/12:30.png'),
    ],
)
def test_file_names_inside_the_root(name, expected):
    assert check_file_name(name, 'root/img', 'root', False, 'x.json') == expected


@pytest.mark.parametrize('root', ['root', 'root/', '.', None, './root'])
@pytest.mark.parametrize('name', ['../../../a.png', '..\\..\\..\\a.png', 'b/../../../../a.png', '/a.png', 'C:\\a.png'])
def test_file_names_outside_the_root(name, root):
    with pytest.raises(ValueError, match='x.json: file_name .*allow_outside=True'):
        check_file_name(name, 'root/img', root, False, 'x.json')
    assert check_file_name(name, 'root/img', root, True, 'x.json').endswith('a.png')


def test_a_root_is_no_prefix_of_letters():
    """'rootless' starts with 'root' and is not inside it."""
    with pytest.raises(ValueError, match='is outside root'):
        check_file_name('../../rootless/a.png', 'root/img', 'root', False, 'x.json')


@pytest.mark.parametrize(
    ('annotation', 'reason'),
    [
        (box(1, 2, 10, 20, id=2, image_id=99), 'of an unknown image'),
        (box(1, 2, 10, 20, id=2, category_id=99), 'of an unknown category'),
        (box(1, 2, 10, 20, id=2, category_id=9), 'of another class'),
        (box(1, 2, 10, 20, id=2, ignore=1), 'marked ignore'),
    ],
)
def test_boxes_of_others_are_dropped_and_counted(write_coco, annotation, reason):
    dataset = load(write_coco(annotations=[box(1, 2, 10, 20), annotation]), classes=('cat',))
    assert len(instances(dataset)) == 1 and dataset.report['dropped'] == {reason: 1}


def test_boxes_over_the_border_are_clipped(write_coco):
    dataset = load(write_coco(annotations=[box(-5, 2, 10, 20), box(30, 20, 20, 20, id=2), box(0, 0, 40, 30, id=3)]))
    assert [i['bbox'] for i in instances(dataset)] == [[0, 2, 5, 22], [30, 20, 40, 30], [0, 0, 40, 30]]
    assert dataset.report['clipped'] == 2


def test_the_report_is_logged(write_coco, monkeypatch):
    lines = []

    def log(text, logger, level=logging.INFO):
        lines.append((text, level))

    monkeypatch.setattr(checked_coco, 'print_log', log)
    bad = [box(-1, 2, 3, 20, id=2, iscrowd=1), box(50, 5, 9, 9, id=3), box(1, 1, 0, 9, id=4)]
    path = write_coco(annotations=[box(1, 2, 10, 20), *bad])
    assert [i['ignore_flag'] for i in instances(load(path))] == [0, 1]
    summary = (
        'kept 2 boxes on 2 images (1 background), 1 to be ignored, 1 clipped to their image, '
        'dropped 2: 1 outside the image, 1 of zero or negative size'
    )
    faults = '2 boxes are faulty and were dropped: 1 outside the image (annotation 3); 1 of zero or negative size '
    assert lines == [(f'{path}: {summary}', logging.INFO), (f'{path}: {faults}(annotation 4)', logging.WARNING)]
    load(write_coco())
    assert lines[2][0].endswith('dropped 0') and len(lines) == 3


def test_fields_that_may_be_missing(write_coco):
    dataset = load(write_coco(annotations=[box(1, 2, 10, 20)]))  # neither area nor iscrowd
    assert instances(dataset) == [{'bbox': [1, 2, 11, 22], 'bbox_label': 0, 'ignore_flag': 0}]
    # Fields that mmdet believes and we do not need.
    dataset = load(write_coco(annotations=[box(1, 2, 10, 20, area=0, segmentation=[])]))
    assert len(instances(dataset)) == 1


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r'nowhere\.json: No such file.*ann_file'):
        load(tmp_path / 'nowhere.json')


def test_broken_json_is_located(write_coco):
    path = write_coco(text='{"images": [],\n "annotations": [1, 2,]\n}')
    with pytest.raises(ValueError, match=f'{path} is broken JSON at line 2, column 2'):
        load(path)
    path.write_bytes(b'\xff\xfe\x00')
    with pytest.raises(ValueError, match=f'{path} is not UTF-8'):
        load(path)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'text': '[]'}, 'must hold a JSON object, got a list'),
        ({'text': '{}'}, r'must hold a list "images", it has the keys \[\'annotations\'\]'),
        ({'categories': None}, 'must hold a list "categories"'),
        ({'annotations': {}}, 'must hold a list "annotations"'),
        ({'images': []}, 'has no images'),
        ({'images': [5]}, '"images" must be a JSON object, got 5'),
        ({'images': [{'id': 1, 'file_name': 'a.png'}]}, '"images" lacks width, height: .*a.png'),
        (
            {'images': [{**IMAGE, 'width': 0}]},
            'must be integers above 0, got width=0 .*1.png',
        ),
        (
            {'images': [{**IMAGE, 'height': '30'}]},
            'must be integers above 0, got height=.30. .str',
        ),
        ({'images': [IMAGE, IMAGE]}, r'1 ids in "images" are not unique, among them \[1\]'),
        ({'categories': [{'id': 7}]}, '"categories" lacks name'),
        ({'categories': [CATEGORIES[0], {'id': 7, 'name': 'dog'}]}, r'ids in "categories" are not unique.*\[7\]'),
        ({'categories': [*CATEGORIES, {'id': 8, 'name': 'dog'}]}, r'names in "categories" are not unique.*dog'),
        ({'annotations': [box(1, 2, 3, 4), box(1, 2, 3, 4)]}, r'ids in "annotations" are not unique.*\[1\]'),
        ({'annotations': [{'id': 1, 'image_id': 1, 'category_id': 7}]}, '"annotations" lacks bbox'),
        ({'annotations': [{'bbox': [1, 2, 3, 4]}]}, 'lacks id, image_id, category_id'),
    ],
)
def test_faulty_entries(write_coco, changes, message):
    path = write_coco(**changes)
    with pytest.raises(ValueError, match=message) as error:
        load(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ('classes', 'message'),
    [
        (('cat', 'Dog'), "did you mean 'dog' by 'Dog'"),
        (('cats', 'dog'), "did you mean 'cat' by 'cats'"),
        (('cat', 'zebra'), "'zebra' not in the file. Set class_names"),
        (('dog', 'cat'), r"in the order of the file, \('cat', 'dog'\)"),
        (('cat', 'cat'), 'each once'),
    ],
)
def test_classes_that_do_not_fit(write_coco, classes, message):
    with pytest.raises(ValueError, match=message) as error:
        load(write_coco(), classes=classes)
    # Both lists are named.
    assert str(('cat', 'dog')) in str(error.value) and str(classes) in str(error.value)


def test_metainfo_that_mmdet_would_misread(write_coco):
    with pytest.raises(ValueError, match=r"tuple of names, got 'cat': .*\('name',\)"):
        load(write_coco(), classes='cat')
    with pytest.raises(ValueError, match=r'leaves no box .* metainfo classes \(\)'):
        load(write_coco(), classes=())
    with pytest.raises(
        ValueError, match=r"categories \('cat', 'dog'\), metainfo classes are \('person', .*not in the file"
    ):
        load(write_coco(), metainfo={'CLASSES': ('cat', 'dog')})


def test_nothing_to_train_on(write_coco):
    for annotations in ([], [box(1, 2, 0, 0)], [box(1, 2, 10, 10, iscrowd=1)]):
        path = write_coco(annotations=annotations)
        with pytest.raises(ValueError, match=r"leaves no box to train on.*\('cat', 'dog'\).*\('cat', 'dog'\)"):
            load(path)
        assert len(load(path, test_mode=True)) == 2


def test_images_to_predict_on_need_no_annotations(write_coco):
    path = write_coco()
    content = json.loads(path.read_text())
    del content['annotations']
    path.write_text(json.dumps(content))
    assert len(load(path, test_mode=True)) == 2


def test_instances_are_not_carried_along(write_coco):
    """MultiImageMixDataset would copy them for every image at every step."""
    dataset = load(write_coco(), pipeline=[{'type': 'mmdet.LoadAnnotations', 'with_bbox': True}])
    assert 'instances' not in dataset[0] and len(dataset[0]['gt_bboxes']) == 2
    assert dataset[1]['gt_bboxes'].tensor.shape == (0, 4)


def test_the_same_as_mmdet_on_a_good_file(bccd_config):
    """On annotations without fault the base class reads the very same."""
    from mmdet.datasets import CocoDataset

    config = bccd_config('train', pipeline=[])
    config.pop('type')
    ours, theirs = CheckedCocoDataset(**config), CocoDataset(**config)
    assert len(ours) == len(theirs) == 205
    for i in range(205):
        mine, other = ours.get_data_info(i), theirs.get_data_info(i)
        assert mine == other
