"""Boxes on a picture."""

import colorsys
from pathlib import Path

import cv2
import numpy as np

from mmyolo_ext.apis.inference import Detections
from mmyolo_ext.image_io import read_image

READABLE_SIDE = 480  # px: on smaller pictures labels would hide what they name, so those are drawn enlarged
GOLDEN_ANGLE = 0.381966  # of a full turn: hues of successive classes stay far apart, however many there are


def class_colour(label: int) -> tuple[int, int, int]:
    """BGR, 0..255; the same for a class on every picture."""
    red, green, blue = colorsys.hsv_to_rgb((0.58 + label * GOLDEN_ANGLE) % 1, 0.85, 0.95)
    return int(255 * blue), int(255 * green), int(255 * red)


def draw(file: Path, found: Detections, classes: tuple[str, ...], target: Path) -> None:
    """Write the picture of ``file`` with its boxes, best on top, each with its class and score, to ``target``.

    A picture whose longer side is at most half of ``READABLE_SIDE`` is enlarged by a whole number first.
    """
    picture, _ = read_image(str(file))
    zoom = max(READABLE_SIDE // max(picture.shape[:2]), 1)
    picture = cv2.resize(picture, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    unit = max(round(min(picture.shape[:2]) / 320), 1)  # width of a line, px
    for box, score, label in reversed(list(zip(*found, strict=True))):
        colour = class_colour(label)
        left, top, right, bottom = (int(round(zoom * float(side))) for side in box)
        cv2.rectangle(picture, (left, top), (right, bottom), colour, unit)
        _write(picture, f'{classes[label]} {score:.2f}', (left, top), colour, unit)
    cv2.imencode(target.suffix, picture)[1].tofile(target)


def _write(picture: np.ndarray, text: str, corner: tuple[int, int], colour: tuple[int, int, int], unit: int) -> None:
    """Put ``text`` on a patch of ``colour`` above ``corner``, or below it where the picture ends."""
    scale = 0.4 * unit
    (width, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, unit)
    left = min(max(corner[0], 0), max(picture.shape[1] - width, 0))
    bottom = corner[1] if corner[1] >= height + base else corner[1] + height + base
    cv2.rectangle(picture, (left, bottom - height - base), (left + width, bottom), colour, cv2.FILLED)
    ink = (0, 0, 0) if sum(colour) > 380 else (255, 255, 255)
    cv2.putText(picture, text, (left, bottom - base), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, unit, cv2.LINE_AA)
