"""Ground truth and detections for the tests of reports, with every count done slowly, one box at a time."""

import numpy as np

CLASSES = ('cat', 'dog', 'owl')


def make_case(seed: int, images: int = 6, boxes: int = 5, found: int = 9, classes: int = 3) -> tuple[dict, list[dict]]:
    """Random boxes, some of them crowds, and detections near them, some twice, some with other classes, ties in score.

    Image ids are not in the order of the file.
    """
    random = np.random.RandomState(seed)
    gt = {
        'images': [
            {'id': int(at), 'file_name': f'{at}.png', 'width': 320, 'height': 240}
            for at in random.permutation(images) + 3
        ],
        'categories': [{'id': 10 + at, 'name': CLASSES[at] if at < 3 else f'class {at}'} for at in range(classes)],
        'annotations': [],
    }
    detections = []
    for image in (entry['id'] for entry in gt['images']):
        xywh = np.concatenate((random.uniform(0, 150, (boxes, 2)), random.uniform(20, 120, (boxes, 2))), 1).round(1)
        labels = random.randint(10, 10 + classes, boxes)
        for box, label in zip(xywh.tolist(), labels.tolist(), strict=True):
            entry = {'id': len(gt['annotations']) + 1, 'image_id': image, 'category_id': label, 'bbox': box}
            gt['annotations'].append({**entry, 'area': box[2] * box[3], 'iscrowd': int(random.rand() < 0.1)})
        near = random.randint(0, boxes, found)
        shift = random.normal(0, 12, (found, 4)) * (random.rand(found, 1) < 0.7)
        new = (xywh[near] + shift).round(1)
        new[:, 2:] = np.maximum(new[:, 2:], 4)
        of_class = np.where(random.rand(found) < 0.7, labels[near], random.randint(10, 10 + classes, found))
        for box, label, score in zip(new.tolist(), of_class.tolist(), random.rand(found).round(1), strict=True):
            detections.append({'image_id': image, 'category_id': label, 'bbox': box, 'score': float(score)})
    return gt, detections


def iou(a: list[float], b: list[float], crowd: bool = False) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (a[2] * a[3] + (0 if crowd else b[2] * b[3] - width * height))


class SlowCount:
    """Everything a report counts at a confidence, by loops over single boxes. Error types follow the TIDE paper."""

    def __init__(self, gt: dict, detections: list[dict], confidence: float = 0.0) -> None:
        self.gt = gt
        self.boxes = [entry for entry in gt['annotations'] if not entry['iscrowd']]
        crowds = [entry for entry in gt['annotations'] if entry['iscrowd']]
        ids = sorted(range(len(detections)), key=lambda at: (-detections[at]['score'], detections[at]['image_id'], at))
        self.owner = {}  # id of a box: index of the detection that found it
        self.true, self.false = {}, []  # index: box; indices in the order of falling scores
        for at in ids:
            one = detections[at]
            if one['score'] < confidence:
                continue
            same = [box for box in self.boxes if self.related(one, box)]
            best = None
            for box in same:
                if box['id'] in self.owner or iou(one['bbox'], box['bbox']) < 0.5:
                    continue
                if best is None or iou(one['bbox'], box['bbox']) >= iou(one['bbox'], best['bbox']):
                    best = box
            if best is not None:
                self.owner[best['id']], self.true[at] = at, best
            elif not any(
                self.related(one, box) and iou(one['bbox'], box['bbox'], crowd=True) >= 0.5 for box in crowds
            ):
                self.false.append(at)
        self.detections = detections

    @staticmethod
    def related(one: dict, box: dict) -> bool:
        return one['image_id'] == box['image_id'] and one['category_id'] == box['category_id']

    def matrix(self) -> np.ndarray:
        names = [category['id'] for category in self.gt['categories']]
        counts, taken = np.zeros((len(names) + 1, len(names) + 1), int), set(self.owner)
        for at, box in self.true.items():
            counts[names.index(box['category_id']), names.index(self.detections[at]['category_id'])] += 1
        for at in self.false:
            one, best = self.detections[at], None
            for box in self.boxes:
                if box['image_id'] == one['image_id'] and box['id'] not in taken:
                    value = iou(one['bbox'], box['bbox'])
                    if value >= 0.5 and (best is None or value >= iou(one['bbox'], best['bbox'])):
                        best = box
            row = -1
            if best is not None:
                taken.add(best['id'])
                row = names.index(best['category_id'])
            counts[row, names.index(one['category_id'])] += 1
        for box in self.boxes:
            if box['id'] not in taken:
                counts[names.index(box['category_id']), -1] += 1
        return counts

    def errors(self) -> tuple[dict[str, list[int]], dict[int, dict]]:
        """Indices of detections by error type, ids of missed boxes, and the box of each error that has one."""
        types = {name: [] for name in ('classification', 'localization', 'both', 'duplicate', 'background')}
        target = {}
        for at in self.false:
            one = self.detections[at]
            here = [(iou(one['bbox'], box['bbox']), box) for box in self.boxes if box['image_id'] == one['image_id']]
            same = [pair for pair in here if pair[1]['category_id'] == one['category_id']]
            other = [pair for pair in here if pair[1]['category_id'] != one['category_id']]
            best_same, best_other = (
                max(pairs, key=lambda pair: (pair[0], pair[1]['id']), default=(0, None)) for pairs in (same, other)
            )
            if 0.1 <= best_same[0] < 0.5:
                types['localization'].append(at)
                target[at] = best_same[1]
            elif best_other[0] >= 0.5:
                types['classification'].append(at)
                target[at] = best_other[1]
            elif best_same[0] >= 0.5:
                types['duplicate'].append(at)
            elif best_other[0] < 0.1:
                types['background'].append(at)
            else:
                types['both'].append(at)
        covered = set(self.owner) | {box['id'] for box in target.values()}
        types['missed'] = [box['id'] for box in self.boxes if box['id'] not in covered]
        return types, target

    def mended(self, name: str) -> float:
        """AP50 after the errors of a type were mended, by the evaluation below."""
        types, target = self.errors()
        true = {at: box['category_id'] for at, box in self.true.items()}
        false = {at: self.detections[at]['category_id'] for at in self.false}
        boxes, taken = list(self.boxes), set(self.owner)
        if name == 'missed':
            boxes = [box for box in boxes if box['id'] not in types['missed']]
        else:
            for at in types[name]:  # of several, the first has the highest score
                del false[at]
                if at in target and target[at]['id'] not in taken:
                    taken.add(target[at]['id'])
                    true[at] = target[at]['category_id']
        return self.ap(true, false, boxes)

    def ap(self, true: dict[int, int], false: dict[int, int], boxes: list[dict]) -> float:
        values = []
        for category in (entry['id'] for entry in self.gt['categories']):
            count = sum(box['category_id'] == category for box in boxes)
            if not count:
                continue
            of_class = [at for at, one in [*true.items(), *false.items()] if one == category]
            key = self.detections
            of_class.sort(key=lambda at: (-key[at]['score'], key[at]['image_id'], at))
            points, hits = [], 0
            for rank, at in enumerate(of_class, 1):
                hits += at in true
                points.append((hits / count, hits / rank))
            levels = [
                max((precision for recall, precision in points if recall >= level), default=0)
                for level in np.linspace(0, 1, 101)
            ]
            values.append(sum(levels) / 101)
        return sum(values) / len(values)

    def plain_ap(self) -> float:
        category = {at: self.detections[at]['category_id'] for at in [*self.true, *self.false]}
        return self.ap({at: category[at] for at in self.true}, {at: category[at] for at in self.false}, self.boxes)

    def calibration_error(self) -> float:
        """Over ten bins of all detections of the count."""
        total, bins = len(self.true) + len(self.false), {}
        for at in [*self.true, *self.false]:
            score = self.detections[at]['score']
            bins.setdefault(min(int(score * 10), 9), []).append((score, at in self.true))
        return sum(
            abs(sum(score for score, _ in rows) - sum(hit for _, hit in rows)) / total for rows in bins.values()
        )
