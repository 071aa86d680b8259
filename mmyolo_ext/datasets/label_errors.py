"""Suspect label errors where the detections of a trained model and the labels disagree.

Letters: G boxes, D detections of one image.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mmyolo_ext.datasets.raw_labels import RawSplit

CONFIDENT = 0.4  # score of a detection without a box
CONTRADICTING = 0.1  # score of a detection that contradicts a box
CLASS_MARGIN = 0.15  # by which the score of another class exceeds that of the label's own
MATCH_IOU, NEAR_IOU = 0.5, 0.1  # of a detection that confirms a box, and of one that may be of the same object
PLACED_IOU = 0.65  # a box is misplaced if no detection reaches it
FAINT = 0.05  # score below which a detection confirms nothing

Suspicion = tuple[str, str, list[float], str]  # check, image, box xyxy, note


def suspect_labels(raw: Sequence[RawSplit], detections: dict[str, np.ndarray]) -> list[Suspicion]:
    """Compare the boxes of images with detections.

    * 'label-missing': a confident detection that overlaps no box
    * 'label-class': a box whose object is detected with another class, with a higher score than with its own
    * 'label-misplaced': a box beside which its class is detected, where nothing else is labelled
    * 'label-undetected': a box that no detection overlaps

    Args:
        raw: Splits.
        detections: Path of an image to (D, 6): xyxy px, score, label.

    Returns:
        Suspicions, the most confident first.
    """
    found = []
    for split in raw:
        boxes = split.boxes_xyxy
        fine = np.isfinite(boxes).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)
        order = np.argsort(split.image, kind='stable')
        starts = np.searchsorted(split.image[order], np.arange(len(split.paths) + 1))
        for number, path in enumerate(split.paths):
            if path in detections:
                own = order[starts[number] : starts[number + 1]]
                own = own[fine[own]]
                rows = detections[path][detections[path][:, 4] >= FAINT]
                found += _suspects(split, path, own, rows[np.argsort(-rows[:, 4], kind='stable')])
    found.sort(key=lambda row: -row[0])
    return [row[1:] for row in found]


def _suspects(split: RawSplit, path: str, own: np.ndarray, rows: np.ndarray) -> Iterator[tuple]:
    """Yield (confidence, *suspicion) of one image; ``own`` are its boxes, ``rows`` its detections by score."""
    boxes, labels, ignored = split.take_xyxy(own), split.labels[own], split.ignored[own]
    overlaps = iou(boxes, rows[:, :4])  # (G, D)
    scores, same = rows[:, 4], labels[:, None] == rows[None, :, 5]
    taken = _matched(overlaps, same, scores)
    free_detections = [d for d in range(len(rows)) if d not in taken.values()]
    misplaced: dict[int, int] = {}
    for d in free_detections:  # by score: a confident one beside a box of its class that nothing else confirms
        if scores[d] < CONTRADICTING:
            break
        candidates = [
            g
            for g in np.argsort(-overlaps[:, d])
            if g not in taken and g not in misplaced and not ignored[g] and same[g, d] and overlaps[g, d] >= NEAR_IOU
        ]
        if candidates and overlaps[:, d].max() < MATCH_IOU:
            misplaced[candidates[0]] = d
    for g, d in taken.items():
        if not same[g, d] or ignored[g]:
            continue
        if overlaps[g, d] < PLACED_IOU and scores[d] >= CONTRADICTING:
            misplaced[g] = d
    for g, d in misplaced.items():
        note = f'{split.where[own[g]]}: {_name(split, labels[g])} is detected at IoU {overlaps[g, d]:.2f}'
        yield scores[d], 'label-misplaced', path, boxes[g].tolist(), f'{note} with score {scores[d]:.2f}'
    for g in range(len(own)):
        if ignored[g] or g in misplaced:
            continue
        near = overlaps[g] >= MATCH_IOU
        other = np.flatnonzero(near & ~same[g])
        best_own = scores[near & same[g]].max(initial=0)
        if len(other) and scores[other[0]] >= max(CONTRADICTING, best_own + CLASS_MARGIN):
            d = other[0]
            note = f'{split.where[own[g]]}: {_name(split, labels[g])} is detected as {_name(split, int(rows[d, 5]))}'
            yield scores[d] - best_own, 'label-class', path, boxes[g].tolist(), f'{note} with score {scores[d]:.2f}'
        elif not (overlaps[g] >= NEAR_IOU).any():
            note = f'{split.where[own[g]]}: {_name(split, labels[g])} has no detection above {FAINT}'
            yield 0.0, 'label-undetected', path, boxes[g].tolist(), note
    for d in free_detections:
        if scores[d] < CONFIDENT:
            break
        duplicates = iou(rows[[d], :4], rows[:d, :4])[0] if d else np.zeros(0)
        explained = d in misplaced.values() or (overlaps[:, d] >= MATCH_IOU).any() or (duplicates >= MATCH_IOU).any()
        if not explained:
            note = f'{_name(split, int(rows[d, 5]))} is detected with score {scores[d]:.2f}'
            yield scores[d], 'label-missing', path, rows[d, :4].tolist(), note


def _matched(overlaps: np.ndarray, same: np.ndarray, scores: np.ndarray) -> dict[int, int]:
    """Match each box to one detection at IoU >= 0.5: by score, first those of its own class, then the others."""
    taken: dict[int, int] = {}
    for own_class in (True, False):
        for d in range(overlaps.shape[1]):
            if d in taken.values():
                continue
            values = np.where(same[:, d] == own_class, overlaps[:, d], 0)
            values[list(taken)] = 0
            if len(values) and values.max() >= MATCH_IOU:
                taken[int(values.argmax())] = d
    return taken


def _name(split: RawSplit, label: int) -> str:
    return split.classes[label] if 0 <= label < len(split.classes) else f'class {label}'


def iou(boxes_xyxy: np.ndarray, others_xyxy: np.ndarray) -> np.ndarray:
    """Return the IoU (A, B) of boxes (A, 4) and (B, 4)."""
    overlap = np.minimum(boxes_xyxy[:, None, 2:], others_xyxy[None, :, 2:])
    overlap = (overlap - np.maximum(boxes_xyxy[:, None, :2], others_xyxy[None, :, :2])).clip(0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clip(0).prod(-1) for boxes in (boxes_xyxy, others_xyxy)]
    return overlap / np.maximum(areas[0][:, None] + areas[1][None] - overlap, 1e-9)


def read_detections(file: Path, raw: Sequence[RawSplit]) -> dict[str, np.ndarray]:
    """Read COCO results of a run, with its ``ground_truth.json`` beside them.

    Images are found by their path, else by a file name that is there once; classes by their names.

    Raises:
        ValueError: If a file is missing or broken, or none of the images is in the data.
    """
    truth_file = file.with_name('ground_truth.json')
    try:
        results, truth = (json.loads(path.read_text(encoding='utf-8')) for path in (file, truth_file))
        images = {image['id']: image['file_name'] for image in truth['images']}
        names = {category['id']: category['name'] for category in truth['categories']}
        rows = [
            (one['image_id'], one['category_id'], *map(float, one['bbox']), float(one['score'])) for one in results
        ]
    except OSError as error:
        raise ValueError(
            f'cannot read {error.filename}: {error.strerror}: give report/detections.json of a run'
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f'{file} and {truth_file.name} must hold COCO results and their ground truth: {error!r}'
        ) from None
    paths = {os.path.realpath(path): path for split in raw for path in split.paths}
    by_name = defaultdict(list)
    for path in paths.values():
        by_name[os.path.basename(path)].append(path)
    labels = {name: label for label, name in enumerate(raw[0].classes)}
    found = defaultdict(list)
    for image in images.values():
        same_name = by_name[os.path.basename(image)]
        path = paths.get(os.path.realpath(image)) or (same_name[0] if len(same_name) == 1 else None)
        if path:
            found[path] = []
    located = {os.path.basename(path): path for path in found}
    for image_id, category, x, y, w, h, score in rows:
        image = images.get(image_id, '')
        path = paths.get(os.path.realpath(image)) or located.get(os.path.basename(image))
        if path in found and names.get(category) in labels:
            found[path].append((x, y, x + w, y + h, score, labels[names[category]]))
    if not found:
        raise ValueError(
            f'none of the {len(images)} images of {truth_file} is in the data: give those of this data set'
        )
    return {path: np.array(own, np.float64).reshape(-1, 6) for path, own in found.items()}
