"""The detections on one image, and what is made of them; imports neither torch nor mmengine."""

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from mmyolo_ext.export.runtime import need, read_image

READABLE_SIDE = 480  # px: on smaller images labels would hide what they name, so those are drawn enlarged
GOLDEN_ANGLE = 0.381966  # of a full turn: hues of successive classes stay far apart for any number of classes


class _Arrays(NamedTuple):
    boxes_xyxy: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class Detections(_Arrays):
    """Detections on one image, best first: a tuple of three arrays, with attributes of the image.

    Args:
        boxes_xyxy: (n, 4), px of the image.
        scores: (n,); NaN where there is none, as of ground truth.
        labels: (n,), indices into ``names``.
        names: All classes.
        image_hw: Height and width of the image, px.
        image: Path, or array (H, W, 3) BGR uint8; a path is read again when the image is drawn or cropped.
        frame: Number of the frame in a video, from 0; None for images.
        time: Seconds since the first frame of the video; None for images.
        ids: (n,), the number of the object in the video, from 1, and 0 where there is none yet; None without tracking.

    Examples:
        >>> found = Detector('best.pth')('photo.jpg')
        >>> found.save('seen.jpg')
        >>> [found.names[label] for label in found.labels]
    """

    def __new__(
        cls,
        boxes_xyxy: np.ndarray,
        scores: np.ndarray,
        labels: np.ndarray,
        names: Sequence[str] = (),
        image_hw: tuple[int, int] | None = None,
        image: str | Path | np.ndarray | None = None,
        frame: int | None = None,
        time: float | None = None,
        ids: np.ndarray | None = None,
    ) -> 'Detections':
        found = super().__new__(cls, boxes_xyxy, scores, labels)
        found.names, found.image_hw, found.image = tuple(names), image_hw, image
        found.frame, found.time, found.ids = frame, time, ids
        return found

    def keep(self, index: np.ndarray, ids: np.ndarray | None = None) -> 'Detections':
        """Return the detections at ``index``, an array of indices or bools, with ``ids`` (n,) if they are given."""
        ids = self.ids[index] if ids is None and self.ids is not None else ids
        rest = (self.names, self.image_hw, self.image, self.frame, self.time, ids)
        return Detections(*(field[index] for field in self), *rest)

    def plot(self) -> np.ndarray:
        """Return the image (H, W, 3) BGR with boxes, classes and scores, best on top; ids choose the colours.

        An image whose longer side is at most half of ``READABLE_SIDE`` is enlarged by a whole number first.
        """
        image = self._pixels()
        zoom = max(READABLE_SIDE // max(image.shape[:2]), 1)
        image = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
        unit = max(round(min(image.shape[:2]) / 320), 1)  # width of a line, px
        ids = np.zeros(len(self.scores), int) if self.ids is None else self.ids
        for box, score, label, number in reversed(list(zip(*self, ids, strict=True))):
            colour = class_colour(number or label)
            left, top, right, bottom = (int(round(zoom * float(side))) for side in box)
            cv2.rectangle(image, (left, top), (right, bottom), colour, unit)
            name = f'{self._name(label)} #{number}' if number else self._name(label)
            text = name if np.isnan(score) else f'{name} {score:.2f}'
            _write(image, text, (left, top), colour, unit)
        return image

    def save(self, file: str | Path) -> Path:
        """Write the result of :meth:`plot` to an image file, and return its path."""
        return _save(self.plot(), Path(file))

    def crop(self, folder: str | Path | None = None) -> list[np.ndarray]:
        """Return the part of the image in each box, and write them to ``folder`` if it is given.

        Returns:
            Arrays (h, w, 3) BGR, in the order of the boxes; sides are rounded outwards, and at least 1 px long.
        """
        image = self._pixels()
        height, width = image.shape[:2]
        crops = []
        for number, (box, label) in enumerate(zip(self.boxes_xyxy, self.labels, strict=True)):
            left, top = np.floor(box[:2]).clip(0, [width - 1, height - 1]).astype(int)
            right, bottom = np.ceil(box[2:]).astype(int)
            crops.append(image[top : max(bottom, top + 1), left : max(right, left + 1)])
            if folder is not None:
                Path(folder).mkdir(parents=True, exist_ok=True)
                safe = ''.join(letter if letter.isalnum() else '_' for letter in self._name(label))
                _save(crops[-1], Path(folder) / f'{number:03}_{safe}.png')
        return crops

    def to_coco(self, image_id: int = 0, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Return entries of a COCO results file; ``bbox`` is x, y, width, height in px, ``track_id`` of tracked ones.

        Args:
            image_id: Of the image in the annotation file.
            category_ids: Of each class in the annotation file; by default 1, 2, ... in the order of ``names``.
        """
        tracks = [{}] * len(self.scores) if self.ids is None else [{'track_id': int(one)} for one in self.ids]
        rows = zip(self.boxes_xyxy.tolist(), self.scores.tolist(), self.labels.tolist(), tracks, strict=True)
        return [
            {
                'image_id': image_id,
                'category_id': label + 1 if category_ids is None else category_ids[label],
                'bbox': [left, top, right - left, bottom - top],
                'score': score,
                **track,
            }
            for (left, top, right, bottom), score, label, track in rows
        ]

    def to_supervision(self) -> Any:
        """Return ``supervision.Detections``, with the name of each box as ``data['class_name']``.

        Raises:
            ValueError: If the package supervision is not installed.
        """
        return need('supervision').Detections(
            xyxy=self.boxes_xyxy,
            confidence=self.scores,
            class_id=self.labels.astype(int),
            tracker_id=self.ids,
            data={'class_name': np.array([self._name(label) for label in self.labels], dtype=str)},
        )

    def _name(self, label: int) -> str:
        return self.names[label] if self.names else str(int(label))

    def _pixels(self) -> np.ndarray:
        if self.image is None:
            raise ValueError('these detections come without their image: set found.image to a path or an array')
        return read_image(self.image)


def class_colour(label: int) -> tuple[int, int, int]:
    """Return the BGR colour of a class, 0..255."""
    red, green, blue = colorsys.hsv_to_rgb((0.58 + label * GOLDEN_ANGLE) % 1, 0.85, 0.95)
    return int(255 * blue), int(255 * green), int(255 * red)


def _save(image: np.ndarray, file: Path) -> Path:
    try:
        done, content = cv2.imencode(file.suffix, image)
    except cv2.error:
        done = False
    if not done:
        raise ValueError(f'{file} must end in .jpg, .png or another kind of image')
    content.tofile(file)
    return file


def _write(image: np.ndarray, text: str, corner: tuple[int, int], colour: tuple[int, int, int], unit: int) -> None:
    """Write ``text`` on a patch of ``colour`` above ``corner``, or below it at the top of the image."""
    scale = 0.4 * unit
    (width, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, unit)
    left = min(max(corner[0], 0), max(image.shape[1] - width, 0))
    bottom = corner[1] if corner[1] >= height + base else corner[1] + height + base
    cv2.rectangle(image, (left, bottom - height - base), (left + width, bottom), colour, cv2.FILLED)
    ink = (0, 0, 0) if sum(colour) > 380 else (255, 255, 255)
    cv2.putText(image, text, (left, bottom - base), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, unit, cv2.LINE_AA)
