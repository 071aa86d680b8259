"""Small data sets in every format, written from one list of boxes."""

import json
import zipfile
from pathlib import Path

import cv2
import numpy as np

NAMES = ('ant', 'bee')
WIDTH, HEIGHT = 80, 40
# (class, x1, y1, x2, y2) of each image; '2' is background
TRAIN = {
    '1': [(0, 8, 4, 24, 20), (1, 40, 10, 72, 30)],
    '2': [],
    '3': [(1, 0, 0, 80, 40)],
    '4': [(0, 20, 20, 28, 36), (0, 60, 2, 76, 10)],
}
VAL = {'5': [(1, 10, 5, 30, 35)], '6': [(0, 4, 8, 12, 16)]}


def draw(folder: Path, images: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in images:
        pixels = np.random.RandomState(int(name)).randint(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        cv2.imwrite(str(folder / f'{name}.png'), pixels)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_coco(path: Path, images: dict, names: tuple = NAMES) -> None:
    rows = [(number, box) for number, boxes in enumerate(images.values()) for box in boxes]
    content = {
        'images': [
            {'id': i, 'file_name': f'{name}.png', 'width': WIDTH, 'height': HEIGHT} for i, name in enumerate(images)
        ],
        'categories': [{'id': 5 + i, 'name': name} for i, name in enumerate(names)],
        'annotations': [
            {'id': i, 'image_id': image, 'category_id': 5 + c, 'bbox': [x1, y1, x2 - x1, y2 - y1]}
            for i, (image, (c, x1, y1, x2, y2)) in enumerate(rows)
        ],
    }
    write(path, json.dumps(content))


def yolo_line(box: tuple) -> str:
    c, x1, y1, x2, y2 = box
    return f'{c} {(x1 + x2) / 160} {(y1 + y2) / 80} {(x2 - x1) / 80} {(y2 - y1) / 40}\n'


def polygon_line(box: tuple) -> str:
    """A rhombus that touches the middle of each side of the box."""
    c, x1, y1, x2, y2 = box
    points = ((x1 + x2) / 2, y1), (x2, (y1 + y2) / 2), ((x1 + x2) / 2, y2), (x1, (y1 + y2) / 2)
    return f'{c} ' + ' '.join(f'{x / 80} {y / 40}' for x, y in points) + '\n'


def write_yolo(root: Path, layout: str = '{split}/images', line=yolo_line) -> None:
    """Labels of images with boxes alone: no file is background."""
    for split, images in (('train', TRAIN), ('val', VAL)):
        folder = root / layout.format(split=split)
        draw(folder, images)
        for name, boxes in images.items():
            if boxes:
                label = str(folder).replace('images', 'labels') + f'/{name}.txt'
                write(Path(label), ''.join(map(line, boxes)))


def xml(name: str, boxes: list) -> str:
    objects = ''.join(
        f'<object><name>{NAMES[c]}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>'
        '</bndbox></object>'
        for c, x1, y1, x2, y2 in boxes
    )
    size = f'<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>'
    return f'<annotation><filename>{name}.png</filename>{size}{objects}</annotation>'


def labelme(name: str, boxes: list, image: str = '') -> str:
    shapes = [
        {'label': NAMES[c], 'points': [[x2, y1], [x1, y2]], 'shape_type': 'rectangle'} for c, x1, y1, x2, y2 in boxes
    ]
    shapes += [{'label': 'tip', 'points': [[1, 1]], 'shape_type': 'point'}]
    content = {'shapes': shapes, 'imagePath': image or f'{name}.png', 'imageHeight': HEIGHT, 'imageWidth': WIDTH}
    return json.dumps({'version': '5', 'imageData': 'aGk=', **content})


def make_yolo_ultralytics(root: Path) -> Path:
    write_yolo(root, 'images/{split}')
    write(root / 'data.yaml', 'path:\ntrain: images/train\nval: images/val\nnames:\n  0: ant\n  1: bee\n')
    return root


def make_yolo_roboflow(root: Path) -> Path:
    write_yolo(root, '{split}/images')
    text = "train: ../train/images\nval: ../val/images\ntest: ../test/images\nnc: 2\nnames: ['ant', 'bee']\n"
    write(root / 'data.yaml', text)
    return root / 'data.yaml'


def make_yolo_lists(root: Path) -> Path:
    """Text files of images, a list of them, a path, and polygons."""
    write_yolo(root / 'set', 'images/{split}', polygon_line)
    write(root / 'set/a.txt', './images/train/1.png\nimages/train/2.png\n')
    write(root / 'set/b.txt', f'{root}/set/images/train/3.png\n\nimages/train/4.png')
    write(root / 'any.yml', 'path: set\ntrain: [a.txt, b.txt]\nval: images/val\nnames: [ant, bee]\n')
    return root / 'any.yml'


def make_yolo_labelimg(root: Path) -> Path:
    """Images and labels together, with a list of the classes in each folder."""
    write_yolo(root, '{split}')
    for split in ('train', 'val'):
        write(root / split / 'classes.txt', '\ufeffant\r\nbee\r\n')
    return root


def make_yolo_cvat(root: Path) -> Path:
    """Darknet's files, whose paths begin with data/."""
    write_yolo(root, 'obj_{split}_data')
    for split, images in (('train', TRAIN), ('val', VAL)):
        write(root / f'{split}.txt', ''.join(f'data/obj_{split}_data/{name}.png\n' for name in images))
    write(root / 'obj.names', 'ant\nbee\n')
    write(root / 'obj.data', 'classes = 2\ntrain = data/train.txt\nvalid = data/val.txt\nnames = data/obj.names\n')
    return root


def make_yolo_of_windows(root: Path) -> Path:
    """Lists of absolute paths of another machine, and the hidden files of Jupyter and macOS."""
    write_yolo(root, 'images/{split}')
    for split, images in (('train', TRAIN), ('val', VAL)):
        write(root / f'{split}.txt', '\r\n'.join(f'C:\\Users\\me\\ants\\images\\{split}\\{n}.png' for n in images))
        draw(root / f'images/{split}/.ipynb_checkpoints', images)
        write(root / f'images/{split}/._1.png', 'not an image')
    write(root / 'data.yaml', 'train: C:\\ants\\train.txt\nval: /content/ants/images/val\nnames: [ant, bee]\n')
    return root


def make_coco_file(root: Path) -> Path:
    for split, images in (('train', TRAIN), ('val', VAL)):
        draw(root / f'{split}2017', images)
        write_coco(root / f'annotations/instances_{split}2017.json', images)
        write(root / f'annotations/captions_{split}2017.json', '{"images": [], "annotations": [], "info": {}}')
    return root / 'annotations/instances_train2017.json'


def make_coco_folder(root: Path) -> Path:
    return make_coco_file(root).parents[1]


def make_coco_roboflow(root: Path) -> Path:
    for split, images in (('train', TRAIN), ('valid', VAL)):
        draw(root / split, images)
        file = root / split / '_annotations.coco.json'
        write_coco(file, images)
        content = json.loads(file.read_text())
        categories = [{**category, 'supercategory': 'insects'} for category in content['categories']]
        content['categories'] = [{'id': 0, 'name': 'insects', 'supercategory': 'none'}, *categories]
        write(file, json.dumps(content))
    return root


def make_voc(root: Path) -> Path:
    draw(root / 'JPEGImages', {**TRAIN, **VAL})
    for name, boxes in {**TRAIN, **VAL}.items():
        write(root / f'Annotations/{name}.xml', xml(name, boxes))
    for split, images in (('train', TRAIN), ('val', VAL)):
        write(root / f'ImageSets/Main/{split}.txt', '\n'.join(images))
    return root


def make_voc_flat(root: Path) -> Path:
    """labelImg's folders, images and XML together."""
    for split, images in (('train', TRAIN), ('valid', VAL)):
        draw(root / split, images)
        for name, boxes in images.items():
            write(root / split / f'{name}.xml', xml(name, boxes))
    return root


def make_voc_by_folder(root: Path) -> Path:
    """A folder for each split in ``annotations`` and in ``images``, whose names differ from those of the XML files."""
    for split, images in (('train', TRAIN), ('val', VAL)):
        draw(root / 'images' / split, images)
        for name, boxes in images.items():
            text = xml(name, boxes).replace('<filename>', '<filename>D:\\my ants\\')
            write(root / 'annotations' / split / f'of {name}.xml', '\ufeff' + text)
        write(root / 'annotations' / split / '._of 1.xml', 'not XML')
    return root


def make_labelme(root: Path) -> Path:
    for split, images in (('train', TRAIN), ('val', VAL)):
        draw(root / 'photos', images)
        for name, boxes in images.items():
            write(root / split / f'{name}.json', labelme(name, boxes, f'..\\photos\\{name}.png'))
    return root


def make_zip(root: Path) -> Path:
    make_yolo_roboflow(root / 'bees')
    with zipfile.ZipFile(root / 'bees.zip', 'w') as archive:
        for file in sorted((root / 'bees').rglob('*.*')):
            archive.write(file, f'export/{file.relative_to(root / "bees")}')
    (root / 'bees').rename(root / 'original')
    return root / 'bees.zip'


MAKERS = {name[5:]: maker for name, maker in globals().items() if name.startswith('make_')}
