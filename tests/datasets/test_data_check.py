"""Each check finds its fault and nothing else; injected label errors are found; a repaired copy is clean."""

import json
import random
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_formats import HEIGHT, MAKERS, WIDTH, labelme, make_labelme, make_voc, make_yolo_ultralytics, write
from PIL import Image

from mmyolo_ext.cli.check import main
from mmyolo_ext.datasets import find_dataset
from mmyolo_ext.datasets.data_check import CHECKS, check_data, check_splits, inspect_splits
from mmyolo_ext.datasets.data_fix import fix_splits
from mmyolo_ext.datasets.data_section import data_section
from mmyolo_ext.datasets.image_facts import ImageFacts, difference_hash, near_pairs
from mmyolo_ext.datasets.raw_labels import find_splits, read_split
from mmyolo_ext.datasets.sources import build

REPO = Path(__file__).parents[2]
W, H = 96, 64
NAMES = ('ant', 'bee')
ANCHORS = [(10, 13), (16, 30), (33, 23), (62, 45), (59, 119)]


def scene(seed: int) -> np.ndarray:
    """A coarse random image, whose hash differs from those of other seeds, with fine noise."""
    rng = np.random.RandomState(seed)
    coarse = cv2.resize(rng.randint(40, 215, (8, 12, 3)).astype(np.uint8), (W, H), interpolation=cv2.INTER_NEAREST)
    return coarse + rng.randint(0, 30, (H, W, 3)).astype(np.uint8)


class Data:
    """Two COCO files without a fault in a folder; cases change them."""

    def __init__(self, root: Path) -> None:
        self.root, self.detections = root, None
        self.contents = {}
        for split, numbers in (('train', range(12)), ('val', range(12, 18))):
            content = {'images': [], 'annotations': []}
            content['categories'] = [{'id': label + 1, 'name': name} for label, name in enumerate(NAMES)]
            for number in numbers:
                image = {'id': number, 'file_name': f'{split}/{number}.png', 'width': W, 'height': H}
                content['images'].append(image)
                for k in range(4):  # boxes that differ in all images, 16 to 27 px
                    x, y, w, h = 2 + 22 * k + number % 3, 5 + number, 16 + k, 20 + number % 8
                    box = {'id': 100 * number + k, 'image_id': number, 'category_id': 1 + k % 2, 'bbox': [x, y, w, h]}
                    content['annotations'].append({**box, 'area': w * h, 'iscrowd': 0})
            self.contents[split] = content
        self.train, self.val = self.contents.values()

    def box(self, number: int = 0) -> dict:
        return self.train['annotations'][number]

    def path(self, number: int = 0, split: str = 'train') -> Path:
        return self.root / self.contents[split]['images'][number]['file_name']

    def add(self, pixels: np.ndarray, split: str = 'train', **changes: object) -> Path:
        """Add an image with a box in its middle."""
        content = self.contents[split]
        height, width = pixels.shape[:2]
        image = {'id': 999, 'file_name': f'{split}/new.png', 'width': width, 'height': height, **changes}
        content['images'].append(image)
        box = [width // 4 + 1, height // 4, width // 2, height // 2]
        content['annotations'].append({'id': 9999, 'image_id': 999, 'category_id': 1, 'bbox': box})
        cv2.imwrite(str(self.root / image['file_name']), pixels)
        return self.root / image['file_name']

    def counts(self) -> dict[str, int]:
        splits = {split: (content, str(self.root)) for split, content in self.contents.items()}
        return {one.check: one.count for one in check_data(splits, self.detections, ANCHORS, (4 * H, 4 * W))}


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('clean')
    for split, image in ((split, image) for split, one in Data(root).contents.items() for image in one['images']):
        (root / split).mkdir(exist_ok=True)
        cv2.imwrite(str(root / image['file_name']), scene(image['id']))
    return root


CASES = {}
NOTES = {'few-train', 'few-val'}  # of 12 and 6 images


def case(*expected: str, count: int = 1):
    """Register a change of clean data that adds ``count`` findings of the first check, and any of the others."""

    def keep(change):
        CASES[expected[0]] = change, count, set(expected)
        return change

    return keep


@case('image-missing')
def _(data):
    data.path().unlink()


@case('image-empty')
def _(data):
    data.path().write_bytes(b'')


@case('image-truncated')
def _(data):
    data.path().write_bytes(data.path().read_bytes()[:-200])


@case('image-unreadable')
def _(data):
    data.path().write_text('no image')


@case('size-differs')
def _(data):
    data.train['images'][0]['width'] = W + 1


@case('size-turned', 'exif-rotated', 'image-suffix', 'box-outside', 'box-cut')
def _(data):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(data.path()).save(data.path(), 'JPEG', exif=exif)


@case('exif-rotated', 'image-suffix')
def _(data):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(data.path()).save(data.path(), 'JPEG', exif=exif)


@case('image-suffix')
def _(data):
    data.path().write_bytes(cv2.imencode('.jpg', scene(0))[1].tobytes())


@case('image-damaged', 'image-suffix')
def _(data):
    content = cv2.imencode('.jpg', scene(0))[1].tobytes()
    data.path().write_bytes(content[:-2] + b'\0\0\0\0' + content[-2:])


@case('listed-twice')
def _(data):
    data.train['images'].append({**data.train['images'][0], 'id': 99})


@case('names-by-case')
def _(data):
    data.add(scene(50), file_name='train/0.PNG')


@case('bits-16')
def _(data):
    cv2.imwrite(str(data.path()), scene(0).astype(np.uint16) * 257)


@case('transparent')
def _(data):
    cv2.imwrite(str(data.path()), np.dstack([scene(0), np.zeros((H, W), np.uint8)]))


@case('animated')
def _(data):
    frames = [Image.fromarray(scene(k)[..., ::-1]) for k in (0, 60)]
    frames[0].save(data.path(), save_all=True, append_images=frames[1:])


@case('single-colour')
def _(data):
    cv2.imwrite(str(data.path()), np.full((H, W, 3), 90, np.uint8))


@case('dark', 'blurred')
def _(data):
    cv2.imwrite(str(data.path()), scene(0) // 32)


@case('bright', 'blurred')
def _(data):
    cv2.imwrite(str(data.path()), 255 - scene(0) // 32)


@case('blurred')
def _(data):
    cv2.imwrite(str(data.path()), cv2.GaussianBlur(scene(0), (0, 0), 9))


@case('grey-among-colour')
def _(data):
    cv2.imwrite(str(data.path()), cv2.cvtColor(scene(0), cv2.COLOR_BGR2GRAY))


@case('small-image')
def _(data):
    data.add(scene(50)[:31])


@case('long-image', 'small-image', 'box-thin', 'box-small', 'anchor-recall')
def _(data):
    data.add(np.tile(scene(50)[:20], (1, 11, 1)))


@case('huge-image', 'box-thin', 'blurred')
def _(data):
    data.add(np.tile(scene(50), (64, 43, 1)))  # 4096 x 4128 px


@case('duplicate-image', 'duplicate-labels-differ')
def _(data):
    data.add(scene(0))


@case('duplicate-labels-differ', 'duplicate-image')
def _(data):
    data.add(scene(0))


@case('near-duplicate')
def _(data):
    data.add(scene(0) + 3)


@case('leak-path')
def _(data):
    image = data.train['images'][0]
    data.val['images'].append(image)
    data.val['annotations'] += [one for one in data.train['annotations'] if one['image_id'] == image['id']]


@case('leak-copy')
def _(data):
    shutil.copy(data.path(0), data.path(0, 'val'))
    boxes = [one for one in data.train['annotations'] if one['image_id'] == data.train['images'][0]['id']]
    rest = [one for one in data.val['annotations'] if one['image_id'] != 12]
    data.val['annotations'] = rest + [{**one, 'image_id': 12} for one in boxes]


@case('leak-near')
def _(data):
    cv2.imwrite(str(data.path(0, 'val')), scene(0) + 3)


@case('label-broken')
def _(data):
    data.box()['bbox'] = [1, 2, 'x', 4]


@case('class-out-of-range')
def _(data):
    data.box()['category_id'] = 7


@case('unknown-image')
def _(data):
    data.box()['image_id'] = 12345


@case('id-repeated')
def _(data):
    data.box()['id'] = data.box(1)['id']


@case('box-not-finite')
def _(data):
    data.box()['bbox'] = [1, 2, float('nan'), 4]


@case('box-empty')
def _(data):
    data.box()['bbox'][2] = -5


@case('box-outside')
def _(data):
    data.box()['bbox'][0] = W


@case('boxes-relative', 'box-under-pixel', 'box-tiny', 'box-small', count=48)
def _(data):
    for one in data.train['annotations']:
        one['bbox'] = (np.array(one['bbox']) / [W, H, W, H]).tolist()
        del one['area']


def convert(data, change) -> None:
    for one in data.train['annotations']:
        x, y, w, h = one['bbox']
        one['bbox'] = change(x, y, w, h)
        del one['area']


FORMAT_FAULTS = 'box-outside', 'box-cut', 'box-empty', 'box-nearly-repeated', 'box-two-classes', 'anchor-recall'


@case('boxes-xyxy', *FORMAT_FAULTS, count=48)
def _(data):
    convert(data, lambda x, y, w, h: [x, y, x + w, y + h])


@case('boxes-cxcywh', *FORMAT_FAULTS, count=48)
def _(data):
    convert(data, lambda x, y, w, h: [x + w / 2, y + h / 2, w, h])
    for one in data.train['annotations']:  # at the edge, where the formats differ
        one['bbox'][0] += 8


@case('axes-swapped', *FORMAT_FAULTS, count=48)
def _(data):
    convert(data, lambda x, y, w, h: [y, x, h, w])


@case('box-cut')
def _(data):
    data.box()['bbox'][0] = -3


@case('box-under-pixel', 'box-tiny')
def _(data):
    data.box().update(bbox=[5, 5, 0.4, 20], area=8)


@case('box-thin', 'box-small', 'box-tiny', 'anchor-recall')
def _(data):
    data.box().update(bbox=[5, 5, 1.5, 40], area=60)


@case('box-whole-image', 'anchor-recall')
def _(data):
    data.box()['bbox'] = [0, 0, W, H]
    del data.box()['area']


@case('box-repeated')
def _(data):
    data.train['annotations'].append({**data.box(), 'id': 77})


@case('box-nearly-repeated')
def _(data):
    x, y, w, h = data.box()['bbox']
    data.train['annotations'].append({**data.box(), 'id': 77, 'bbox': [x, y, w, h - 1], 'area': w * (h - 1)})


@case('box-two-classes')
def _(data):
    data.train['annotations'].append({**data.box(), 'id': 77, 'category_id': 2})


@case('box-same-place', count=12)
def _(data):
    for one in data.train['annotations'][::4]:
        one.update(bbox=[70, 44, 20, 18], area=360)


@case('box-tiny', 'box-small', 'blurred')
def _(data):
    data.box().update(bbox=[5, 5, 2, 30], area=60)  # the network input is as large
    data.train['images'][0].update(width=4 * W, height=4 * H)
    cv2.imwrite(str(data.path()), np.tile(scene(0), (4, 4, 1)))


@case('box-small')
def _(data):
    data.box().update(bbox=[5, 5, 2, 20], area=40)  # 8 px of the network input, which is four times as large


@case('area-differs')
def _(data):
    data.box()['area'] = 1000


@case('outline-differs')
def _(data):
    x, y, w, h = data.box()['bbox']
    data.box()['segmentation'] = [[x, y, x + w, y, x + w, y + h / 2]]


@case('all-ignored')
def _(data):
    for one in data.train['annotations'][:4]:
        one['iscrowd'] = 1


@case('crowded', *FORMAT_FAULTS)
def _(data):
    data.train['annotations'] += [{**data.box(), 'id': 5000 + k, 'iscrowd': 1} for k in range(300)]


@case('anchor-recall', 'box-thin', count=48)
def _(data):
    convert(data, lambda x, y, w, h: [x % 20, y, 70, 3 + x / 100])


@case('no-boxes', 'class-not-in-val')
def _(data):
    data.val['annotations'] = []


@case('class-order-differs')
def _(data):
    data.val['categories'].reverse()


@case('class-by-case', 'class-order-differs', 'class-not-in-train', 'class-not-in-val')
def _(data):
    data.val['categories'][0]['name'] = 'Ant'


@case('class-placeholder', 'class-empty')
def _(data):
    for content in data.contents.values():
        content['categories'].append({'id': 3, 'name': 'class3'})


@case('class-empty')
def _(data):
    for content in data.contents.values():
        content['categories'].append({'id': 3, 'name': 'cat'})


@case('class-not-in-train')
def _(data):
    for content in data.contents.values():
        content['categories'].append({'id': 3, 'name': 'cat'})
    data.val['annotations'][0]['category_id'] = 3


@case('class-not-in-val', 'class-few')
def _(data):
    for content in data.contents.values():
        content['categories'].append({'id': 3, 'name': 'cat'})
    data.box()['category_id'] = 3


@case('class-few', 'class-not-in-val')
def _(data):
    for one in data.train['annotations'][1:11:2]:
        one['category_id'] = 1  # 19 of 24 are left


@case('class-imbalance', 'class-few', 'box-nearly-repeated', *FORMAT_FAULTS, 'class-not-in-val')
def _(data):
    for content in data.contents.values():
        content['categories'].append({'id': 3, 'name': 'cat'})
    data.box()['category_id'] = 3
    rows = [(k % 12, 3 + k // 12 % 9 * 10, 4 + k // 108 * 6) for k in range(900)]
    data.train['annotations'] += [
        {'id': 5000 + k, 'image_id': image, 'category_id': 2, 'bbox': [x + image / 4, y, 4 + image / 9, 5]}
        for k, (image, x, y) in enumerate(rows)
    ]


@case('class-share-differs', 'box-repeated')
def _(data):
    boxes = [one for one in data.val['annotations'] if one['category_id'] == 1]
    for k in range(1, 14):
        data.val['annotations'] += [{**one, 'id': 10**6 + 1000 * k + one['id']} for one in boxes]
        extra = [one for one in data.val['annotations'][:24] if one['category_id'] == 2]
        data.val['annotations'] += [{**one, 'id': 2 * 10**6 + 1000 * k + one['id']} for one in extra if k < 2]


@case('background', 'class-few')
def _(data):
    data.train['annotations'] = data.train['annotations'][:20]  # of 5 images of 12


@case('no-val')
def _(data):
    del data.contents['val']


@case('few-train', count=1)
def _(data):
    pass


@case('few-val', count=1)
def _(data):
    pass


@case('val-larger', 'background')
def _(data):
    for number in range(20, 30):
        data.val['images'].append({'id': number, 'file_name': f'val/{number}.png', 'width': W, 'height': H})
        cv2.imwrite(str(data.root / f'val/{number}.png'), scene(number))


def detections_of(data, skip: tuple = ()) -> dict[str, np.ndarray]:
    """One detection with score 0.9 on each box of the training images."""
    found = {str(data.root / image['file_name']): [] for image in data.train['images']}
    for number, one in enumerate(data.train['annotations']):
        x, y, w, h = one['bbox']
        if number not in skip:
            path = data.root / f'train/{one["image_id"]}.png'
            found[str(path)].append((x, y, x + w, y + h, 0.9, one['category_id'] - 1))
    return {path: np.array(rows, np.float64).reshape(-1, 6) for path, rows in found.items()}


@case('label-missing')
def _(data):
    data.detections = detections_of(data)
    del data.train['annotations'][0]


@case('label-class')
def _(data):
    data.detections = detections_of(data)
    data.box()['category_id'] = 2


@case('label-misplaced')
def _(data):
    data.detections = detections_of(data)
    data.box()['bbox'][1] += 9


@case('label-undetected')
def _(data):
    data.detections = detections_of(data, skip=(0,))


OTHER_FORMATS = {
    *('data-refused', 'path-outside', 'image-without-label', 'orphan-label', 'coordinates-not-relative'),
    *('class-other', 'class-not-in-file', 'shape-without-box', 'boxes-xywh'),
}


def test_clean_data_have_no_finding(folder):
    assert Data(folder).counts() == {'few-train': 1, 'few-val': 1}


@pytest.mark.parametrize('check', sorted(CASES.keys() - OTHER_FORMATS))
def test_a_fault_is_found_by_its_check(check, folder, tmp_path):
    change, count, allowed = CASES[check]
    data = Data(shutil.copytree(folder, tmp_path / 'data'))
    change(data)
    counts = data.counts()
    assert counts.get(check) == count
    assert counts.keys() - NOTES <= allowed


def test_every_check_has_a_case():
    assert CASES.keys() | OTHER_FORMATS == CHECKS.keys()
    assert len(CHECKS) >= 40


def check_path(path: Path) -> dict[str, list[dict]]:
    """Items of each check of the data at a path, as the command finds them."""
    findings = check_data(find_splits(path)[0])
    return {one.check: one.items for one in findings}


def test_yolo_labels_are_read_line_by_line(tmp_path):
    root = make_yolo_ultralytics(tmp_path)
    labels = root / 'labels/train/1.txt'
    good = labels.read_text()
    write(labels, good + '0 0.5 0.5\n7 0.5 0.5 0.1 0.1\n-1 0.5 0.5 0.1 0.1\n0 40 20 8 8\n0 0.5 0.5 a b\n')
    write(root / 'labels/train/99.txt', good)
    (root / 'images/train/3.png').write_bytes(b'')
    found = check_path(root)
    assert [item['note'].split(':')[0] for item in found['label-broken']] == [f'{labels}, line {k}' for k in (3, 7)]
    assert [item['note'].split(':')[0] for item in found['class-out-of-range']] == [
        f'{labels}, line {k}' for k in (4, 5)
    ]
    assert [item['note'].split(':')[0] for item in found['coordinates-not-relative']] == [f'{labels}, line 6']
    assert [item['image'] for item in found['orphan-label']] == [str(root / 'labels/train/99.txt')]
    assert [item['image'] for item in found['image-empty']] == [str(root / 'images/train/3.png')]
    split = read_split('train', find_dataset(root).splits['train'])
    assert len(split.numbers) == 5  # all good lines


def test_voc_files_and_formats(tmp_path):
    root = make_voc(tmp_path)
    xml = root / 'Annotations/1.xml'
    (root / 'JPEGImages/4.png').unlink()
    write(root / 'Annotations/5.xml', '<annotation><object>')
    text = (
        '<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>'
    )
    boxes = [(30 + k, 10 + k, 9, 8) for k in range(12)]  # corner and size: the second corner is before the first
    write(
        xml,
        xml.read_text().replace('</annotation>', ''.join(text.format('ant', *one) for one in boxes)) + '</annotation>',
    )
    cv2.imwrite(str(root / 'JPEGImages/77.png'), scene(77))
    found = check_path(root)
    assert [item['image'] for item in found['image-missing']] == [str(root / 'Annotations/4.xml')]
    assert [item['image'] for item in found['label-broken']] == [str(root / 'Annotations/5.xml')]
    assert {Path(item['image']).name for item in found['image-without-label']} == {'77.png'}
    assert len(found['box-empty']) == 12
    assert len(found['boxes-xywh']) == 15  # all of train


def test_coco_paths_and_classes(tmp_path):
    path = MAKERS['coco_file'](tmp_path)
    content = json.loads(path.read_text())
    content['images'][2]['file_name'] = '/etc/3.png'
    path.write_text(json.dumps(content))
    config = {
        'type': 'mmyolo_ext.CheckedCocoDataset',
        'data_root': str(tmp_path),
        'ann_file': 'annotations/instances_train2017.json',
        'data_prefix': {'img': 'train2017'},
        'metainfo': {'classes': ('ant', 'Bee')},
    }
    found = {one.check: one.items for one in check_data({'train': config})}
    assert [item['image'] for item in found['path-outside']] == ['/etc/3.png']
    assert [Path(item['image']).name for item in found['image-without-label']] == ['3.png']
    assert [item['note'] for item in found['class-not-in-file']] == ["'Bee'; the file has ant, bee"]
    assert len(found['class-other']) == 1  # bee of image 1; that of image 3 is gone with its image


def test_labelme_files(tmp_path):
    root = make_labelme(tmp_path)
    write(root / 'train/2.json', '{')
    write(root / 'train/3.json', labelme('3', [(1, 0, 0, 80, 40)], '../photos/33.png'))
    found = check_path(root)
    assert [item['image'] for item in found['label-broken']] == [str(root / 'train/2.json')]
    assert [item['image'] for item in found['image-missing']] == [str(root / 'train/3.json')]
    assert len(found['shape-without-box']) == 4  # the tips of 1 and 4, 5 and 6


@pytest.mark.parametrize('name', MAKERS)
def test_every_format_gives_a_copy_between_splits(name, tmp_path):
    path = MAKERS[name](tmp_path)
    source = find_dataset(path)
    splits = {split: read_split(split, config) for split, config in source.splits.items()}
    shutil.copy(splits['train'].paths[0], splits['val'].paths[0])
    found = check_path(path)
    assert [item['image'] for item in found['leak-copy']] == [splits['val'].paths[0]]
    assert 'label-broken' not in found and 'size-differs' not in found
    for split, raw in splits.items():  # the boxes of the dataset, read in another way
        of_dataset = read_split(split, build(source.splits[split]))
        assert of_dataset.paths == raw.paths and (of_dataset.numbers == raw.numbers).all()
        content = source.read(split)
        expected = [one['bbox'] for one in content['annotations']]
        boxes = raw.boxes_xyxy
        assert np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1) == pytest.approx(np.array(expected))
        assert (raw.sizes_wh == (WIDTH, HEIGHT)).all()


def test_hashes_by_hand():
    grey = cv2.cvtColor(scene(3), cv2.COLOR_BGR2GRAY)
    small = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA)
    bits = ''.join('1' if small[y, x + 1] > small[y, x] else '0' for y in range(8) for x in range(8))
    assert difference_hash(grey) == int(bits, 2)
    rng = np.random.RandomState(0)
    hashes = [int(value) for value in rng.randint(0, 2**62, 40)]
    hashes += [value ^ sum(1 << int(k) for k in rng.permutation(64)[:n]) for n, value in enumerate(hashes[:12])]
    thumb = np.zeros((16, 16), np.uint8)
    slow = {(i, j) for j in range(52) for i in range(j) if bin(hashes[i] ^ hashes[j]).count('1') <= 7}
    assert set(near_pairs([ImageFacts(dhash=value, thumb=thumb) for value in hashes])) == slow
    assert len(slow) == 8  # 0 to 7 bits


def damaged(data: Data) -> None:
    """Faults that can be repaired without judgement, and a label that cannot be read."""
    data.path(1).write_bytes(b'')
    shutil.copy(data.path(2), data.path(0, 'val'))
    for one in data.train['annotations']:
        x, y, w, h = one['bbox']
        one['bbox'] = [x, y, x + w, y + h]
        del one['area']
    data.train['images'][3]['width'] *= 2
    data.train['images'][3]['height'] *= 2
    for one in data.train['annotations'][12:16]:
        one['bbox'] = [2 * value for value in one['bbox']]
    data.train['annotations'].append({**data.box(), 'id': 77})
    data.box(5)['bbox'] = 'none'


def test_the_command_and_the_repaired_copy(folder, tmp_path, capsys):
    data = Data(shutil.copytree(folder, tmp_path / 'data'))
    damaged(data)
    for split, content in data.contents.items():
        write(data.root / f'{split}.json', json.dumps(content))
    before = {path: path.read_bytes() for path in sorted(data.root.rglob('*.*'))}
    out, page = tmp_path / 'fixed', tmp_path / 'page.html'
    with pytest.raises(SystemExit) as ended:
        main([str(data.root), '--json', '--fix', str(out), '--html', str(page)])
    assert ended.value.code == 1
    findings = json.loads(capsys.readouterr().out)['findings']
    severities = [('error', 'warning', 'note').index(one['severity']) for one in findings]
    assert severities == sorted(severities)
    assert {path: path.read_bytes() for path in sorted(data.root.rglob('*.*'))} == before
    assert {one['check'] for one in findings} >= {
        'image-empty',
        'leak-copy',
        'boxes-xyxy',
        'size-differs',
        'label-broken',
    }
    text = page.read_text()
    assert text.count('<img') > 3 and 'http' not in text and len(text) < 5e6
    main([str(out)])  # exit code 0: notes only
    assert '0 errors, 0 warnings' in capsys.readouterr().out
    source = find_dataset(out)
    raw = {split: read_split(split, config) for split, config in source.splits.items()}
    clean = Data(folder)
    # without image 1 and, since it is in val now, image 2; and without box 5, of image 1
    expected = [one for one in clean.train['annotations'] if one['image_id'] not in (1, 2)]
    assert raw['train'].numbers.tolist() == [pytest.approx(one['bbox']) for one in expected]
    assert len(raw['val'].paths) == 6
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / 'nowhere.yaml')])
    assert ended.value.code == 2


def test_refused_data_are_checked_all_the_same(tmp_path, capsys):
    root = make_voc(tmp_path)
    xml = root / 'Annotations/6.xml'
    write(xml, xml.read_text().replace('ant', 'cat'))
    with pytest.raises(SystemExit) as ended:
        main([str(root)])
    assert ended.value.code == 1
    text = capsys.readouterr().out
    assert 'data-refused' in text and 'cat of val is not in train' in text and 'class-not-in-train' in text


def test_detections_of_a_run(folder, tmp_path, capsys):
    data = Data(shutil.copytree(folder, tmp_path / 'data'))
    boxes = [one for content in data.contents.values() for one in content['annotations']]
    truth = {
        'images': [
            {**image, 'file_name': str(data.root / image['file_name'])}
            for content in data.contents.values()
            for image in content['images']
        ],
        'categories': [{'id': 8, 'name': 'bee'}, {'id': 9, 'name': 'ant'}],  # in any order
    }
    ids = {1: 9, 2: 8}
    results = [
        {'image_id': one['image_id'], 'category_id': ids[one['category_id']], 'bbox': one['bbox'], 'score': 0.9}
        for one in boxes
    ]
    file = tmp_path / 'report/detections.json'
    write(file, json.dumps(results))
    data.box(4)['category_id'] = 2
    data.val['annotations'][3]['bbox'][1] += 9
    for split, content in data.contents.items():
        write(data.root / f'{split}.json', json.dumps(content))
    with pytest.raises(SystemExit, match='2'):
        main([str(data.root), '--predictions', str(file)])
    assert 'ground_truth.json' in capsys.readouterr().err
    write(file.with_name('ground_truth.json'), json.dumps(truth))
    with pytest.raises(SystemExit, match='1'):
        main([str(data.root), '--predictions', str(file), '--json'])
    found = {one['check']: one['items'] for one in json.loads(capsys.readouterr().out)['findings']}
    assert [Path(item['image']).name for item in found['label-class']] == ['1.png']
    assert [Path(item['image']).name for item in found['label-misplaced']] == ['12.png']
    assert not found.keys() & {'label-missing', 'label-undetected'}


@pytest.mark.parametrize('seed', range(12))
def test_any_json_is_checked(seed, folder):
    """Values of any type and size at any place are findings and no traceback."""
    rng = random.Random(seed)
    data = Data(folder)
    values = [
        None,
        [],
        {},
        'x',
        -1,
        1e308,
        float('nan'),
        2**70,
        True,
        '../x',
        '\ud800',
        'a\0b',
        10**400,
        [[1, 2], [3]],
    ]
    for _ in range(8):
        entries = rng.choice([*data.contents.values()])[rng.choice(['images', 'annotations', 'categories'])]
        position = rng.randrange(len(entries))
        if isinstance(entries[position], dict) and rng.random() < 0.9:
            key = rng.choice([*entries[position], 'segmentation'])
            value = rng.choice(values)
            entries[position][key] = [1, 2, value, 4] if key == 'bbox' and rng.random() < 0.5 else value
        else:
            entries[position] = rng.choice(values)
    raw = [read_split(split, (content, str(folder))) for split, content in data.contents.items()]
    facts = inspect_splits(raw)
    findings = check_splits(raw, facts)
    assert {one.check for one in findings} & {check for check, row in CHECKS.items() if row[0] != 'note'}
    assert json.dumps([one.to_dict() for one in findings]) and data_section(findings).encode()
    fix_splits(raw, facts)


def test_a_section_holds_its_images_and_escapes_names(folder):
    data = Data(folder)
    data.train['categories'][0]['name'] = data.val['categories'][0]['name'] = '<script>'
    data.box()['bbox'][0] = W
    findings = check_data({split: (content, str(folder)) for split, content in data.contents.items()})
    text = data_section(findings)
    assert '<script>' not in text and '&lt;script&gt;' in text and 'data:image/jpeg;base64,' in text
