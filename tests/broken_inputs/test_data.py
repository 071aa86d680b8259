"""Broken images and annotations end as one line before the first step, or train with a warning that names them."""

import io
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.config_errors import one_line

FIRST = '000000.jpg'
OTHERS = ('000001.jpg', '000002.jpg', '000003.jpg')


def encoded(image: np.ndarray, extension: str = '.jpg', *options: int) -> bytes:
    return cv2.imencode(extension, image, options)[1].tobytes()


def with_exif(image: np.ndarray, kind: str, orientation: int = 6) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image[..., ::-1])).save(buffer, kind, exif=exif)
    return buffer.getvalue()


def saved(image: np.ndarray, mode: str, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image[..., ::-1])).convert(mode).save(buffer, kind)
    return buffer.getvalue()


class Broken:
    """What a case may do to the copy of the data set; ``split`` is the one to break."""

    def __init__(self, data: Path, split: str) -> None:
        self.data, self.split = data, split
        self.json = data / 'annotations' / f'{split}.json'

    @property
    def first(self) -> Path:
        return self.data / self.split / FIRST

    @property
    def image(self) -> np.ndarray:
        return cv2.imread(str(self.first))

    def write(self, content: bytes) -> None:
        self.first.write_bytes(content)

    def replace(self, make: Callable[[], object]) -> None:
        self.first.unlink()
        make()

    def edit(self, change: Callable[[dict], object]) -> None:
        content = json.loads(self.json.read_text())
        changed = change(content)
        self.json.write_text(json.dumps(content if changed is None else changed))

    def each_box(self, change: Callable[[list], list]) -> None:
        def all_boxes(content: dict) -> None:
            for annotation in content['annotations']:
                annotation['bbox'] = change(annotation['bbox'])

        self.edit(all_boxes)

    def resize_first(self, height: int, width: int, boxes: list | None = None) -> None:
        """Give the first image other sides, noted in the file, and ``boxes`` alone."""
        self.write(encoded(np.random.RandomState(0).randint(0, 256, (height, width, 3), dtype=np.uint8)))

        def change(content: dict) -> None:
            content['images'][0].update(height=height, width=width)
            kept = [a for a in content['annotations'] if a['image_id'] != content['images'][0]['id']]
            new = [
                {'id': 10_000 + k, 'image_id': content['images'][0]['id'], 'category_id': 1, 'bbox': box, 'iscrowd': 0,
                 'area': box[2] * box[3]}
                for k, box in enumerate(boxes or [])
            ]  # fmt: skip
            content['annotations'] = kept + new

        self.edit(change)


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def zeroed(content: bytes, start: float = 0.6, count: int = 200) -> bytes:
    position = int(len(content) * start)
    return content[:position] + bytes(count) + content[position + count :]


def change_first(kind: str, **fields: object) -> Callable[[Broken], None]:
    return lambda b: b.edit(lambda content: content[kind][0].update(fields))


def drop_field(kind: str, field: str) -> Callable[[Broken], None]:
    return lambda b: b.edit(lambda content: content[kind][0].pop(field) and None)


def first_box(*bbox: object) -> Callable[[Broken], None]:
    return change_first('annotations', bbox=list(bbox))


def repeat(kind: str) -> Callable[[Broken], None]:
    return lambda b: b.edit(lambda content: content[kind].append(dict(content[kind][-1])))


def text(content: str | bytes) -> Callable[[Broken], object]:
    return lambda b: b.json.write_bytes(content if isinstance(content, bytes) else content.encode())


def categories(change: Callable[[list[dict]], object]) -> Callable[[Broken], None]:
    return lambda b: b.edit(lambda content: change(content['categories']) and None)


# name: what is broken, and the pattern of the one error line; exit code 2, no traceback
REFUSED_IMAGES = {
    'missing': (lambda b: b.first.unlink(), f'cannot use image .*{FIRST}: No such file or directory .check data_root'),
    'empty': (lambda b: b.write(b''), f'{FIRST}: the file is empty'),
    'half a JPEG': (lambda b: b.write(half(b.first.read_bytes())), f'{FIRST}: the file is cut short, copy it again'),
    'half a JPEG with an end marker': (
        lambda b: b.write(half(b.first.read_bytes()) + b'\xff\xd9'),
        f'{FIRST}: the file is damaged, copy it again .Corrupt JPEG data: premature end',
    ),
    'half a progressive JPEG with an end marker': (
        lambda b: b.write(half(encoded(b.image, '.jpg', cv2.IMWRITE_JPEG_PROGRESSIVE, 1)) + b'\xff\xd9'),
        f'{FIRST}: the file is damaged',
    ),
    'a header alone': (lambda b: b.write(b.first.read_bytes()[:40]), f'{FIRST}: the file is cut short'),
    'HTML': (lambda b: b.write(b'<!DOCTYPE html><html>404</html>'), f'{FIRST}: it cannot be decoded, is it an image'),
    'text': (lambda b: b.write(b'version https://git-lfs.github.com/spec/v1\n'), f'{FIRST}: it cannot be decoded'),
    'zeros': (lambda b: b.write(bytes(5000)), f'{FIRST}: it cannot be decoded'),
    'a damaged PNG': (lambda b: b.write(zeroed(encoded(b.image, '.png'))), f'{FIRST}: it cannot be decoded'),
    'half a PNG': (lambda b: b.write(half(encoded(b.image, '.png'))), f'{FIRST}: the file is cut short'),
    'half a WebP': (lambda b: b.write(half(encoded(b.image, '.webp'))), f'{FIRST}: it cannot be decoded'),
    'half a GIF': (lambda b: b.write(half(encoded(b.image, '.gif'))), f'{FIRST}: it cannot be decoded'),
    'half a TIFF': (lambda b: b.write(half(encoded(b.image, '.tiff'))), f'{FIRST}: it cannot be decoded'),
    'float TIFF': (
        lambda b: b.write(encoded(b.image.astype(np.float32) / 255, '.tiff')),
        f'{FIRST}: its pixels have type float32: convert it to 8 or 16 bits',
    ),
    'a folder': (lambda b: b.replace(lambda: b.first.mkdir()), f'{FIRST}: Is a directory'),
    'a pipe': (lambda b: b.replace(lambda: os.mkfifo(b.first)), f'{FIRST}: it is no regular file'),
    'a device': (lambda b: b.replace(lambda: b.first.symlink_to('/dev/zero')), f'{FIRST}: it is no regular file'),
    'a dangling link': (lambda b: b.replace(lambda: b.first.symlink_to('nowhere')), f'{FIRST}: No such file'),
    'a circle of links': (
        lambda b: b.replace(lambda: b.first.symlink_to(b.first)),
        f'{FIRST}: Too many levels of symbolic links',
    ),
    'sides other than noted': (
        change_first('images', width=200, height=100),
        rf'{FIRST}: it is \(128, 128\) \(height, width\), its annotation has \(100, 200\)\. .To skip',
    ),
    'EXIF ignored by the annotation': (
        lambda b: (b.write(with_exif(b.image[:96], 'JPEG')), change_first('images', width=128, height=96)(b)),
        rf'{FIRST}: it is \(128, 96\).*annotation has \(96, 128\): does the annotation ignore the EXIF orientation',
    ),
    'EXIF of a PNG ignored by the annotation': (
        lambda b: (b.write(with_exif(b.image[:96], 'PNG')), change_first('images', width=128, height=96)(b)),
        'does the annotation ignore the EXIF orientation',
    ),
    'EXIF of a WebP ignored by the annotation': (
        lambda b: (b.write(with_exif(b.image[:96], 'WEBP')), change_first('images', width=128, height=96)(b)),
        'does the annotation ignore the EXIF orientation',
    ),
    'every image missing': (
        lambda b: shutil.rmtree(b.data / b.split),
        'No such file or directory .*sampled .* images cannot be used',
    ),
}
REFUSED_FILES = {
    'missing': (lambda b: b.json.unlink(), r'cannot read annotation file .*\.json: No such file.*ann_file'),
    'a folder': (lambda b: (b.json.unlink(), b.json.mkdir()), 'cannot read annotation file .*Is a directory'),
    'a pipe': (lambda b: (b.json.unlink(), os.mkfifo(b.json)), 'cannot read annotation file .*no regular file'),
    'empty': (text(''), 'cannot read annotation file .*the file is empty'),
    'cut': (lambda b: b.json.write_text(half(b.json.read_bytes()).decode()), 'is broken JSON at line 1, column'),
    'a list': (text('[]'), 'must hold a JSON object, got a list'),
    'a number': (text('7'), 'must hold a JSON object, got a int'),
    'Latin-1': (text('{"café": 1}'.encode('latin-1')), 'is not UTF-8 text'),
    'UTF-16': (text('{"images": []}'.encode('utf-16')), 'is not UTF-8 text'),
    'XML': (text('<annotation><object/></annotation>'), 'broken JSON at line 1, column 1'),
    'deep': (text('[' * 200_000), 'nested too deeply'),
    'a deep object': (text('{"images": ' + '[' * 150_000 + ']' * 150_000 + '}'), 'nested too deeply'),
    'a number of 5000 digits': (text('{"images": ' + '9' * 5000 + '}'), 'cannot read annotation file .*limit'),
    'no images': (lambda b: b.edit(lambda c: c.pop('images') and None), 'must hold a list "images"'),
    'null images': (lambda b: b.edit(lambda c: c.update(images=None)), 'must hold a list "images"'),
    'an object of images': (lambda b: b.edit(lambda c: c.update(images={})), 'must hold a list "images"'),
    'no image': (lambda b: b.edit(lambda c: c.update(images=[], annotations=[])), 'has no images'),
    'no categories': (lambda b: b.edit(lambda c: c.update(categories=[])), "'8', '9' not in the file"),
    'null annotations': (lambda b: b.edit(lambda c: c.update(annotations=None)), 'must hold a list "annotations"'),
    'an image that is a number': (lambda b: b.edit(lambda c: c['images'].append(3)), 'must be a JSON object, got 3'),
    'an annotation that is a list': (lambda b: b.edit(lambda c: c['annotations'].append([])), r'object, got \[\]'),
    'duplicate image ids': (repeat('images'), '1 ids in "images" are not unique'),
    'duplicate annotation ids': (repeat('annotations'), '1 ids in "annotations" are not unique'),
    'duplicate category ids': (
        categories(lambda c: c.append({'id': 3, 'name': 'x'})),
        '1 ids in "categories" are not unique',
    ),
    'duplicate category names': (
        categories(lambda c: c.append({'id': 99, 'name': '3'})),
        '1 names in "categories" are not unique, among them .\'3\'.',
    ),
    'a misspelt category': (categories(lambda c: c[9].update(name='nin')), "'9' not in the file"),
    'permuted categories': (categories(lambda c: c.reverse() or True), 'write the classes in the order of the file'),
    'a category name that is null': (
        categories(lambda c: c[0].update(name=None)),
        'name of an entry of "categories" must be text',
    ),
    'a category name that is a number': (categories(lambda c: c[0].update(name=0)), 'must be text, got .*.name.: 0'),
    'an empty category name': (categories(lambda c: c[0].update(name=' ')), 'must be text'),
    'half a character': (categories(lambda c: c[0].update(name='\ud800')), 'must be text'),
    'a category id of text': (categories(lambda c: c[0].update(id='0')), "must be an integer.*got '0' .str"),
    'a category id that is true': (categories(lambda c: c[1].update(id=True)), 'must be an integer.*bool'),
    'image ids of text': (
        lambda b: b.edit(
            lambda c: (
                [e.update({k: str(e[k])}) for n, k in (('images', 'id'), ('annotations', 'image_id')) for e in c[n]]
                and None
            )
        ),
        "id of an entry of \"images\" must be an integer, as COCO's evaluation requires, got '0' .str",
    ),
    'an image id that is a list': (change_first('images', id=[1, 2]), r'must be an integer.*got \[1, 2\] .list'),
    'an image id that is null': (change_first('images', id=None), 'must be an integer.*None'),
    'a huge image id': (change_first('images', id=10**40), 'must be an integer.*huge'),
    'an image id with a fraction': (change_first('images', id=0.5), 'must be an integer.*0.5 .float'),
    'an image id of an annotation that is an object': (
        change_first('annotations', image_id={}),
        'image_id of an entry of "annotations" must be an integer',
    ),
    'an annotation id of text': (change_first('annotations', id='x'), 'must be an integer'),
    'a category id of an annotation that is a list': (
        change_first('annotations', category_id=[1]),
        'category_id of an entry of "annotations" must be an integer',
    ),
    'no file name': (drop_field('images', 'file_name'), 'an entry of "images" lacks file_name'),
    'a file name that is a number': (change_first('images', file_name=7), 'file_name .* must be text'),
    'a file name that is null': (change_first('images', file_name=None), 'file_name .* must be text'),
    'an empty file name': (change_first('images', file_name=''), 'file_name .* must be text'),
    'a file name that is a folder': (change_first('images', file_name='.'), 'Is a directory'),
    'a file name of 5000 letters': (
        change_first('images', file_name='a' * 5000),
        'cannot use image .*File name too long',
    ),
    'a file name with a zero byte': (change_first('images', file_name='a\0b'), 'cannot use image .*null'),
    'no width': (drop_field('images', 'width'), 'an entry of "images" lacks width'),
    'a width of text': (change_first('images', width='128'), "integers above 0, got width='128' .str"),
    'a width that is null': (change_first('images', width=None), 'integers above 0, got width=None'),
    'a width of NaN': (change_first('images', width=float('nan')), 'integers above 0, got width=nan'),
    'a width of infinity': (change_first('images', width=float('inf')), 'integers above 0, got width=inf'),
    'a negative height': (change_first('images', height=-128), 'integers above 0, got height=-128'),
    'a height of 0': (change_first('images', height=0), 'integers above 0, got height=0'),
    'a height that is true': (change_first('images', height=True), 'integers above 0, got height=True .bool'),
    'a height with a fraction': (change_first('images', height=127.5), 'integers above 0, got height=127.5'),
    'a huge height': (change_first('images', height=10**400), 'integers above 0'),
    'no bbox': (drop_field('annotations', 'bbox'), 'an entry of "annotations" lacks bbox'),
    'no category id': (drop_field('annotations', 'category_id'), 'an entry of "annotations" lacks category_id'),
    'iscrowd of text': (change_first('annotations', iscrowd='0'), 'iscrowd must be 0 or 1'),
    'an absolute file name': (
        change_first('images', file_name='/etc/passwd'),
        "file_name '/etc/passwd' is an absolute path: use paths inside data_root, or set allow_outside=True",
    ),
    'an absolute file name of Windows': (change_first('images', file_name='C:\\a.jpg'), 'is an absolute path'),
    'an address': (change_first('images', file_name='http://127.0.0.1/a.jpg'), 'is a URL: download the images'),
    'an address of a file': (change_first('images', file_name='file:///etc/passwd'), 'is a URL'),
    'a file name that leads out': (
        lambda b: (
            shutil.copy(b.first, b.data.parent / 'outside.jpg'),
            change_first('images', file_name='../../outside.jpg')(b),
        ),
        "file_name '../../outside.jpg' is outside .*allow_outside=True",
    ),
    'a file name that leads out by backslashes': (
        change_first('images', file_name='..\\..\\outside.jpg'),
        'is outside',
    ),
    'a file name that leads out later': (change_first('images', file_name='a/../../../x.jpg'), 'is outside'),
    'corners as boxes': (
        lambda b: b.each_box(lambda box: [box[0], box[1], box[0] + box[2], box[1] + box[3]]),
        r'reach beyond their image; read as corners \(x1, y1, x2, y2\), \d+ of \d+ lie inside.*convert them',
    ),
    'centres as boxes': (
        lambda b: b.each_box(lambda box: [box[0] + box[2] / 2, box[1] + box[3] / 2, box[2], box[3]]),
        r'reach beyond their image; read as \(centre x, centre y, width, height\), \d+ of \d+ lie inside',
    ),
    'relative boxes': (
        lambda b: b.each_box(lambda box: [value / 128 for value in box]),
        'from 0 to 1: they seem to be relative',
    ),
    'every box twice': (
        lambda b: b.edit(lambda c: c['annotations'].extend([{**a, 'id': a['id'] + 10_000} for a in c['annotations']])),
        r'\d+ of \d+ boxes \(50.0%\) repeat another box',
    ),
}
# of the training split alone: what leaves no box
REFUSED_BOXES = {
    'orphans alone': (
        lambda b: b.edit(lambda c: [a.update(image_id=999) for a in c['annotations']] and None),
        'leaves no box to train on: .*dropped 151: 151 of an unknown image',
    ),
    'no annotations': (lambda b: b.edit(lambda c: c.update(annotations=[])), 'leaves no box to train on'),
    'no key annotations': (lambda b: b.edit(lambda c: c.pop('annotations') and None), 'leaves no box to train on'),
    'boxes of text': (lambda b: b.each_box(lambda box: list(map(str, box))), '151 not four finite numbers'),
    'crowds alone': (
        lambda b: b.edit(lambda c: [a.update(iscrowd=1) for a in c['annotations']] and None),
        'leaves no box to train on: .*151 to be ignored',
    ),
}
# name: what is broken, and the warning; exit code 0
WARNED = {
    'a JPEG damaged in the middle': (lambda b: b.write(zeroed(b.first.read_bytes())), 'may be damaged'),
    '16-bit grey': (
        lambda b: b.write(encoded(b.image[..., 0].astype(np.uint16) * 257, '.png')),
        '1 of 24 sampled training images .*000000.jpg. have 16 bits per channel: they are scaled to 8 bits',
    ),
    '16-bit colour': (
        lambda b: b.write(encoded(b.image.astype(np.uint16) * 257, '.png')),
        'have 16 bits per channel: they are scaled',
    ),
    '12 of 16 bits': (
        lambda b: b.write(encoded(b.image.astype(np.uint16) * 16, '.png')),
        'have 16 bits per channel and no value above 4096 of 65535: they become nearly black',
    ),
    'EXIF on a square image': (
        lambda b: b.write(with_exif(b.image, 'JPEG')),
        'have an EXIF orientation: they are rotated by it',
    ),
    'transparency': (
        lambda b: b.write(encoded(np.dstack([b.image, np.full((128, 128), 9, np.uint8)]), '.png')),
        'have transparent parts',
    ),
    'a GIF called JPEG': (lambda b: b.write(encoded(b.image, '.gif')), 'are GIF or APNG'),
    'a single colour': (lambda b: b.write(encoded(np.zeros_like(b.image))), 'are of a single colour'),
    'one pixel': (lambda b: b.resize_first(1, 1), r'1 training images are under 10 px .*\(1 x 1 px\)'),
    'one pixel with a box': (lambda b: b.resize_first(1, 1, [[0, 0, 1, 1]]), r'under 10 px .*\(1 x 1 px\)'),
    '1 x 3000': (lambda b: b.resize_first(1, 3000, [[10, 0, 80, 1]]), r'more than 50 times as long .*\(3000 x 1 px\)'),
    '3000 x 1': (lambda b: b.resize_first(3000, 1), r'more than 50 times as long .*\(1 x 3000 px\)'),
    'an unknown category': (change_first('annotations', category_id=77), r'1 of an unknown category \(annotation 1\)'),
    'a box without area': (first_box(5, 5, 0, 0), r'1 of zero or negative size \(annotation 1\)'),
    'NaN': (first_box(float('nan'), 5, 20, 20), '1 not four finite numbers'),
    'a box that is an object': (change_first('annotations', bbox={'x': 1}), '1 not four finite numbers'),
    '1e308': (first_box(5, 5, 1e308, 1e308), '1 with a number above 1,000,000'),
    '400 digits': (first_box(5, 5, 10**400, 20), '1 with a number above 1,000,000'),
    'far outside': (first_box(500, 500, 20, 20), '1 outside the image'),
    'under one pixel': (first_box(5, 5, 0.2, 20), '1 under one pixel'),
    'orphans': (change_first('annotations', image_id=999), '1 of an unknown image'),
    'one box twice': (
        lambda b: b.edit(lambda c: c['annotations'].append({**c['annotations'][0], 'id': 9999})),
        '1 of 152 boxes .0.7%. repeat another box',
    ),
    'clipped boxes': (
        lambda b: b.each_box(lambda box: [box[0] - 40, box[1] - 40, box[2] + 80, box[3] + 80]),
        'reach beyond their image and are clipped',
    ),
    'an image listed twice': (
        lambda b: b.edit(lambda c: c['images'].append({**c['images'][0], 'id': 999})),
        '1 training images are listed more than once',
    ),
    'copies of an image': (
        lambda b: shutil.copy(b.first, b.first.with_name(OTHERS[0])),
        '1 of 24 training images have the content of another one',
    ),
    'training images in validation': (
        lambda b: shutil.copy(b.first, b.data / 'val' / OTHERS[0]),
        '1 of 8 validation images have the content of training images',
    ),
}


@pytest.mark.parametrize('name', REFUSED_IMAGES)
def test_an_image_is_refused(data, train, name):
    breaks, message = REFUSED_IMAGES[name]
    # cases take turns between the splits, and both are covered by each fault of the loader
    split = ('train', 'val')[list(REFUSED_IMAGES).index(name) % 2]
    breaks(Broken(data, split))
    assert_refused(train(), message)


@pytest.mark.parametrize('name', REFUSED_FILES)
def test_an_annotation_file_is_refused(data, config, train, name):
    breaks, message = REFUSED_FILES[name]
    split = ('train', 'val')[list(REFUSED_FILES).index(name) % 2]
    breaks(Broken(data, split))
    assert_refused_early(config, train, split, message)


@pytest.mark.parametrize('name', REFUSED_BOXES)
def test_training_without_boxes_is_refused(data, config, train, name):
    breaks, message = REFUSED_BOXES[name]
    breaks(Broken(data, 'train'))
    assert_refused_early(config, train, 'train', message)


def test_the_error_of_a_data_set_ends_the_tool(data, train):
    REFUSED_FILES['a list'][0](Broken(data, 'val'))
    assert_refused(train(), r'val_dataloader\.dataset.*val\.json must hold a JSON object')


@pytest.mark.parametrize('name', WARNED)
def test_what_is_odd_is_warned_about(data, train, name):
    breaks, message = WARNED[name]
    breaks(Broken(data, 'train'))
    run = train()
    assert run.error == '' and run.code == 0, run.text[-2000:]
    assert any(matches(message, line) for line in run.warnings), run.warnings


def test_a_pipeline_that_cannot_process_a_thin_image_is_refused(data, train):
    """mmcv's resize with keep_ratio leaves no pixel of the short side: round(1 * 128 / 3000) = 0."""
    Broken(data, 'train').resize_first(1, 3000)
    resize = "dict(type='Resize', scale=(128, 128), keep_ratio=True)"
    steps = f"dict(type='mmyolo_ext.LoadImage'), dict(type='LoadAnnotations', with_bbox=True), {resize}"
    pipeline = f"[{steps}, dict(type='mmyolo_ext.RandomAffine', size=(128, 128)), dict(type='PackDetInputs')]"
    run = train(f'train_dataloader = dict(dataset=dict(dataset=dict(pipeline={pipeline})))')
    assert_refused(run, rf'the pipeline of the training data set cannot process .*{FIRST} \(3000 x 1 px\)')


def test_an_image_outside_may_be_permitted(data, train):
    broken = Broken(data, 'train')
    broken.first.rename(data.parent / 'outside.jpg')
    change_first('images', file_name='../../outside.jpg')(broken)
    broken.edit(lambda content: content['images'][1].update(file_name=str(data / 'train' / OTHERS[0])))
    run = train('train_dataloader = dict(dataset=dict(dataset=dict(allow_outside=True)))')
    assert run.code == 0 and run.error == ''


def test_harmless_images_train_without_a_word(data, train):
    """Grey, palette, opaque alpha and CMYK images, links, odd names, and folders written with a backslash."""
    folder = data / 'train'
    for number, (mode, kind) in enumerate(
        (('L', 'JPEG'), ('P', 'PNG'), ('RGBA', 'PNG'), ('CMYK', 'JPEG'), ('1', 'PNG'))
    ):
        scene = cv2.imread(str(folder / f'{number:06}.jpg'))
        (folder / f'{number:06}.jpg').write_bytes(saved(scene, mode, kind))
    (folder / 'a folder').mkdir()
    (folder / '000006.jpg').rename(folder / 'a folder' / 'grün 苹果.jpg')
    (folder / '000007.jpg').rename(data.parent / 'elsewhere.jpg')
    (folder / '000007.jpg').symlink_to(data.parent / 'elsewhere.jpg')
    Broken(data, 'train').edit(lambda content: content['images'][6].update(file_name='a folder\\grün 苹果.jpg'))
    run = train()
    assert run.code == 0 and run.error == ''
    assert not [line for line in run.warnings if 'Check: ' in line or 'image' in line.lower()]


def test_fields_that_are_not_needed_may_be_missing_or_wrong(data, train):
    """Neither training nor the evaluation of COCO needs them."""

    def change(content: dict) -> None:
        for annotation in content['annotations']:
            del annotation['area'], annotation['iscrowd']
        content['annotations'][0].update(area='large', segmentation=[[1, 2]])
        content['annotations'][1]['area'] = float('nan')
        content.update(info=None, licenses=7)

    for split in ('train', 'val'):
        Broken(data, split).edit(change)
    run = train()
    assert run.code == 0 and run.error == ''


def test_validation_without_boxes_is_refused(data, train):
    Broken(data, 'val').edit(lambda content: content.update(annotations=[]))
    assert_refused(train(), r'val\.json: no validation image has a box.*Set val_ann')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (
            "model = dict(bbox_head=dict(prior_generator=dict(base_sizes=[[(2000, 2000)] * 3] * 3)))",
            r'the anchors can match 0.0% of the training boxes .*anchors 2000 x 2000.*tools/anchors.py',
        ),
        (
            "model = dict(bbox_head=dict(prior_generator=dict(base_sizes=[[(-10, 13)] * 3] * 3)))",
            'base_sizes must be a number above 0, got -10',
        ),
        (
            "default_hooks = dict(checkpoint=dict(save_best='coco/mAP50'))",
            r"save_best='coco/mAP50' is no score of the evaluator, did you mean 'coco/bbox_mAP_50'\? It gives",
        ),
        (
            "custom_hooks = [dict(type='EarlyStoppingHook', monitor='bbox_mAP')]",
            "monitor='bbox_mAP' is no score of the evaluator, did you mean 'coco/bbox_mAP'",
        ),
    ],
)  # fmt: skip
def test_a_model_that_does_not_fit_the_data(train, text, message):
    assert_refused(train(text), message)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            lambda content: content['categories'].reverse(),
            'the annotation file of val_evaluator has the categories .* scores would be of other classes',
        ),
        (
            lambda content: content.update(images=content['images'][:2], annotations=content['annotations'][:2]),
            'the annotation file of val_evaluator lacks images of the val data set, among them the id',
        ),
    ],
)
def test_an_evaluator_that_does_not_fit_the_data(data, train, change, message):
    content = json.loads((data / 'annotations' / 'val.json').read_text())
    change(content)
    (data / 'annotations' / 'other.json').write_text(json.dumps(content))
    run = train('', '--cfg-options', f'val_evaluator.ann_file={data}/annotations/other.json')
    assert_refused(run, message)


def test_anchors_that_fit_few_boxes_are_warned_about(train):
    """Digits have sides of up to 60 px: only those of over 25 px are within a ratio of 4 of an anchor of 100 px."""
    run = train('model = dict(bbox_head=dict(prior_generator=dict(base_sizes=[[(100, 100)] * 3] * 3)))')
    assert run.code == 0 and any('% of the training boxes (best possible recall)' in line for line in run.warnings)


def test_the_check_can_be_turned_off(data, train):
    Broken(data, 'val').edit(lambda content: content.update(annotations=content['annotations'][:1]))
    breaks, _ = REFUSED_FILES['every box twice']
    breaks(Broken(data, 'train'))
    run = train('', '--check', 'off')
    assert run.code == 0 and run.error == '' and not [line for line in run.warnings if 'Check: ' in line]


@pytest.mark.parametrize('name', ['train', 'test'])
def test_a_checkpoint_of_permuted_classes_is_refused(data, train, tmp_path, tool, name):
    first = train()
    checkpoint = next(first.work_dir.glob('epoch_1.pth'))
    checkpoint.rename(tmp_path / 'first.pth')
    for split in ('train', 'val', 'test'):
        Broken(data, split).edit(lambda content: content['categories'].reverse())
    classes = "class_names = tuple('9876543210')"
    if name == 'train':
        run = train(f"{classes}\nload_from = '{tmp_path / 'first.pth'}'", '--work-dir', tmp_path / 'b')
    else:
        (tmp_path / 'test.py').write_text(f"_base_ = '{tmp_path / 'mine.py'}'\n{classes}\n")
        arguments = (tmp_path / 'test.py', tmp_path / 'first.pth', '--work-dir', tmp_path / 'c')
        run = tool('test.py', *arguments)
    assert_refused(run, "the checkpoint was trained on the classes .*the same in another order, so '0' and others")


def assert_refused_early(config, train, split: str, message: str) -> None:
    """Build the data set; where that is no error, train, because later checks refuse it."""
    cfg = load_config(config(''))
    init_default_scope('mmdet')
    try:
        DATASETS.build(cfg[f'{split}_dataloader'].dataset)
    except (ValueError, OSError) as error:
        assert matches(message, one_line(error)), error
    else:
        assert_refused(train(), message)


def assert_refused(run, message: str) -> None:
    assert run.code == 2, run.text[-2000:]
    assert matches(message, run.error), run.error


def matches(pattern: str, line: str) -> bool:
    return re.search(pattern, line) is not None
