"""Do the boxes of an annotation file look as COCO's should, (x, y, width, height) in px, each there once?

Letters: G boxes.
"""

import numpy as np

TOLERANCE = 0.01  # of a side of the image, at least 1 px, by which a box may reach beyond without being counted
SUSPICIOUS_SHARE = 0.02  # of boxes beyond their image, from which on other formats are tried
CLIPPED_SHARE = 0.1  # of boxes beyond their image, from which on it is worth a warning
FITTING_SHARE = (
    0.1  # of the boxes that are beyond as they are, the most that may be so in the format they seem to have
)
LEAST_BOXES = 5  # beyond their image, to suspect a format
REPEATED_SHARE = 0.1  # of boxes that are there twice, from which on it is an error
FEW_REPEATED = 0.001


def suspect_boxes(boxes_xywh: np.ndarray, sizes_wh: np.ndarray, keys: np.ndarray) -> list[tuple[bool, str]]:
    """What all boxes of a file together give reason to suspect.

    Args:
        boxes_xywh: (G, 4) as they stand in the file, NaN where they are no numbers.
        sizes_wh: (G, 2) px of their images.
        keys: (G, 2) ids of the image and of the category of each.

    Returns:
        Pairs: whether it is an error, and a sentence that names numbers and cure.
    """
    finite = np.isfinite(boxes_xywh).all(1) & (np.abs(boxes_xywh) < 1e9).all(1)
    boxes_xywh, sizes_wh, keys = boxes_xywh[finite], sizes_wh[finite], keys[finite]
    if not len(boxes_xywh):
        return []
    return [*_suspect_format(boxes_xywh, sizes_wh), *_suspect_repeats(boxes_xywh, keys)]


def _suspect_format(boxes: np.ndarray, sizes_wh: np.ndarray) -> list[tuple[bool, str]]:
    total = len(boxes)
    if total >= LEAST_BOXES and boxes.max() <= 1 and boxes.min() >= 0 and sizes_wh.min() > 1:
        return [
            (
                True,
                f'All numbers of the {total} boxes are from 0 to 1: they seem to be relative to the image. COCO boxes '
                'are (x, y, width, height) in px: multiply them by the width and height of the image',
            )
        ]
    first, second = boxes[:, :2], boxes[:, 2:]
    margin = np.maximum(TOLERANCE * sizes_wh, 1.0)
    beyond = int(_beyond(first, first + second, sizes_wh, margin).sum())
    if beyond < max(SUSPICIOUS_SHARE * total, LEAST_BOXES):
        return []
    corners = int((_beyond(first, second, sizes_wh, margin) | (second <= first).any(1)).sum())
    centres = int(_beyond(first - second / 2, first + second / 2, sizes_wh, margin).sum())
    facts = f'{beyond} of {total} boxes ({beyond / total:.0%}) reach beyond their image'
    for faulty, name in ((corners, 'corners (x1, y1, x2, y2)'), (centres, '(centre x, centre y, width, height)')):
        if faulty <= FITTING_SHARE * beyond and faulty == min(corners, centres):
            return [
                (
                    True,
                    f'{facts}; read as {name}, {total - faulty} of {total} lie inside: the file seems to hold these. '
                    'COCO boxes are (x, y, width, height) with x, y the top left corner: convert them',
                )
            ]
    if beyond >= CLIPPED_SHARE * total:
        return [(False, f'{facts} and are clipped: are width and height of the images and the boxes of one scale?')]
    return []


def _beyond(low: np.ndarray, high: np.ndarray, sizes_wh: np.ndarray, margin: np.ndarray) -> np.ndarray:
    return ((low < -margin) | (high > sizes_wh + margin)).any(1)


def _suspect_repeats(boxes: np.ndarray, keys: np.ndarray) -> list[tuple[bool, str]]:
    """Boxes of one image, one category and the same numbers."""
    rows = np.concatenate([boxes.view(np.uint64), keys.astype(np.uint64)], 1)
    with np.errstate(over='ignore'):
        mixed = np.zeros(len(rows), np.uint64)
        for column in rows.T:  # FNV-1a on words, with a shift so that high bits count
            mixed = (mixed ^ column) * np.uint64(0x100000001B3)
            mixed ^= mixed >> np.uint64(29)
    repeated = len(mixed) - len(np.unique(mixed))
    if repeated <= FEW_REPEATED * len(rows):
        return []
    text = (
        f'{repeated} of {len(rows)} boxes ({repeated / len(rows):.1%}) repeat another box of the same image and '
        'category: remove them, since validation can match only one of each'
    )
    return [(repeated >= REPEATED_SHARE * len(rows), text)]
