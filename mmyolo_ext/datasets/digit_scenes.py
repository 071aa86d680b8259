"""One scene of handwritten digits: drawn first, then rendered by pure functions.

G digits in a scene. Opacities (h, w) are float32 in 0..1; boxes are xyxy in px, x2 and y2 outside.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from .digit_backgrounds import Background, colour_of_luma, draw_background, render_background

CLASSES = tuple('0123456789')
MIN_SIDE, MAX_SIDE = 18, 60  # px, longer side of a digit's box
EMPTY_SHARE = 0.06  # of the scenes
MAX_DIGITS = 10
MAX_BOX_OVERLAP = 0.3  # intersection over the smaller box
MAX_INK_OVERLAP = 0.08  # shared ink over the lesser ink: above it a person starts to guess
INK = 0.3  # opacity from which a pixel counts as ink
MIN_CONTRAST = 100  # luma steps between a digit and every part of its background
CELL = 10  # px that one cell of a scan is enlarged to before the digit is brought to its size
SCAN_CELLS = 12  # cells along a side: eight, and two empty ones on either side


@dataclass(frozen=True)
class Digit:
    """One digit of a scene: which scan, and how it is bent, placed and coloured (left, top in px)."""

    scan: int
    label: int
    side: int
    degrees: float
    shear: float
    stretch: float
    bgr: tuple[float, float, float]
    left: int = 0
    top: int = 0


@dataclass(frozen=True)
class Scene:
    """Everything that was drawn for one picture of ``size`` x ``size`` px."""

    size: int
    background: Background
    digits: tuple[Digit, ...]
    blur: float
    quality: int


def ink_box(alpha: np.ndarray) -> tuple[int, int, int, int]:
    """Tight box (x1, y1, x2, y2), in px with x2 and y2 outside, of the pixels of at least ``INK`` opacity."""
    rows, columns = np.flatnonzero((alpha >= INK).any(1)), np.flatnonzero((alpha >= INK).any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def pen_stroke(scan: np.ndarray) -> np.ndarray:
    """A scan (8, 8) drawn out to opacities (120, 120) as a pen would have made it, two empty cells around it.

    The grey of a scan is the share of the cell that the pen covered. Enlarged as it is, thin loops fill up; so it is
    sharpened against its neighbourhood first, then cut at a half, and its darkness within follows the grey.
    """
    cells = cv2.copyMakeBorder(scan, 2, 2, 2, 2, cv2.BORDER_CONSTANT)
    grey = cv2.resize(cells, None, fx=CELL, fy=CELL, interpolation=cv2.INTER_CUBIC)
    grey = cv2.GaussianBlur(grey, (0, 0), 0.28 * CELL)
    grey += 1.8 * (grey - cv2.GaussianBlur(grey, (0, 0), 1.3 * CELL))
    edge, pressure = np.clip((grey - 0.46) / 0.16, 0, 1), np.clip((grey - 0.6) / 0.5, 0, 1)
    return edge * (0.55 + 0.45 * pressure)


def render_digit(scan: np.ndarray, digit: Digit) -> np.ndarray:
    """Opacity (h, w) in 0..1 of a bent scan, cropped to its ink, its longer side ``digit.side`` px."""
    turn, middle = np.deg2rad(digit.degrees), SCAN_CELLS * CELL / 2
    bend = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    bend = bend @ np.array([[digit.stretch, digit.shear], [0, 1]])
    matrix = np.hstack([bend, [[middle], [middle]] - bend @ [[middle], [middle]]])
    pen = pen_stroke(scan)
    stroke = cv2.warpAffine(pen, matrix, pen.shape, flags=cv2.INTER_LINEAR)
    x1, y1, x2, y2 = ink_box(stroke)
    stroke = stroke[y1:y2, x1:x2]
    scale = digit.side / max(stroke.shape)
    width, height = (max(round(scale * side), 1) for side in stroke.shape[::-1])
    alpha = cv2.resize(stroke, (width, height), interpolation=cv2.INTER_AREA)
    x1, y1, x2, y2 = ink_box(alpha)
    return alpha[y1:y2, x1:x2]


def _shared(a: Digit, alpha_a: np.ndarray, b: Digit, alpha_b: np.ndarray) -> tuple[float, float]:
    """Overlap of two placed digits: of the boxes over the smaller box, of the ink over the lesser ink."""
    x1, x2 = max(a.left, b.left), min(a.left + alpha_a.shape[1], b.left + alpha_b.shape[1])
    y1, y2 = max(a.top, b.top), min(a.top + alpha_a.shape[0], b.top + alpha_b.shape[0])
    if x2 <= x1 or y2 <= y1:
        return 0.0, 0.0
    ink_a, ink_b = alpha_a >= INK, alpha_b >= INK
    part_a = ink_a[y1 - a.top : y2 - a.top, x1 - a.left : x2 - a.left]
    part_b = ink_b[y1 - b.top : y2 - b.top, x1 - b.left : x2 - b.left]
    box_share = (x2 - x1) * (y2 - y1) / min(alpha_a.size, alpha_b.size)
    return box_share, float((part_a & part_b).sum() / min(ink_a.sum(), ink_b.sum()))


def _draw_digit(rng: np.random.Generator, pool: list[np.ndarray], background: Background) -> Digit:
    label = int(rng.integers(len(CLASSES)))
    low, high = background.luma_range
    dark, light = max(low - MIN_CONTRAST, 0), max(255 - high - MIN_CONTRAST, 0)
    pick = rng.uniform(0, dark + light)
    return Digit(
        scan=int(rng.choice(pool[label])),
        label=label,
        side=round(rng.triangular(MIN_SIDE + 1, 0.8 * MAX_SIDE, MAX_SIDE)),
        degrees=float(rng.uniform(-8, 8)),
        shear=float(rng.uniform(-0.1, 0.1)),
        stretch=float(rng.uniform(0.8, 1.1)),
        bgr=colour_of_luma(rng, pick if pick < dark else 255 - (pick - dark)),
    )


def _draw_place(rng: np.random.Generator, shape: tuple[int, int], placed: list, size: int) -> tuple[int, int]:
    """Left and top: anywhere, or (two times in five) beside or over the edge of a digit that is there already."""
    height, width = shape
    if placed and rng.random() < 0.4:
        digit, alpha = placed[rng.integers(len(placed))]
        left = digit.left + (alpha.shape[1] - rng.uniform(0, 6) if rng.random() < 0.5 else rng.uniform(0, 6) - width)
        top = digit.top + rng.uniform(-0.4, 0.4) * height
    else:
        left, top = rng.uniform(0, size - width), rng.uniform(0, size - height)
    return int(np.clip(left, 0, size - width)), int(np.clip(top, 0, size - height))


def draw_scene(rng: np.random.Generator, scans: np.ndarray, pool: list[np.ndarray], size: int) -> Scene:
    """Draw a scene: its background, then digits one by one, each kept where it respects the limits of overlap.

    Args:
        rng: Where every draw comes from.
        scans: All scans (S, 8, 8).
        pool: For each class, the scan indices this scene may use.
        size: Side of the picture in px, at least twice ``MAX_SIDE``.
    """
    background = draw_background(rng, size)
    wanted = 0 if rng.random() < EMPTY_SHARE else int(rng.integers(1, MAX_DIGITS + 1))
    placed: list[tuple[Digit, np.ndarray]] = []
    one_pen = rng.random() < 0.4
    for _ in range(wanted):
        digit = _draw_digit(rng, pool, background)
        digit = replace(digit, bgr=placed[0][0].bgr) if one_pen and placed else digit
        alpha = render_digit(scans[digit.scan], digit)
        for _ in range(20):
            left, top = _draw_place(rng, alpha.shape, placed, size)
            digit = replace(digit, left=left, top=top)
            shares = [_shared(digit, alpha, *other) for other in placed]
            if all(box <= MAX_BOX_OVERLAP and ink <= MAX_INK_OVERLAP for box, ink in shares):
                placed.append((digit, alpha))
                break
    digits = tuple(digit for digit, _ in placed)
    return Scene(size, background, digits, float(rng.uniform(0.0, 0.8)), int(rng.integers(85, 96)))


def render_scene(scene: Scene, scans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Picture (size, size, 3), BGR uint8, and boxes xyxy (G, 4) in px; (0, 4) for a scene without digits."""
    image = render_background(scene.background)
    boxes = np.zeros((len(scene.digits), 4), int)
    for digit, box in zip(scene.digits, boxes, strict=True):
        alpha = render_digit(scans[digit.scan], digit)
        box[:] = np.add(ink_box(alpha), [digit.left, digit.top] * 2)
        patch = image[digit.top : digit.top + alpha.shape[0], digit.left : digit.left + alpha.shape[1]]
        patch += alpha[..., None] * (np.array(digit.bgr, np.float32) - patch)
    if scene.blur > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), scene.blur)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), boxes
