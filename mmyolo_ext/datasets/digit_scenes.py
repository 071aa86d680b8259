"""Scenes of handwritten digits: drawn first, then rendered by pure functions.

A background blends two colours by a field 0..1 over the image, with some grain. Its darkest and lightest luma follow
from what was drawn, so that digits get a colour with enough contrast.

G digits in a scene. Opacities (h, w) are float32 in 0..1; boxes are xyxy in px, x2 and y2 exclusive.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

CLASSES = tuple('0123456789')
MIN_SIDE, MAX_SIDE = 18, 60  # px, longer side of a digit's box
EMPTY_SHARE = 0.06  # fraction of scenes without digits
MAX_DIGITS = 10
MAX_BOX_OVERLAP = 0.3  # intersection over the smaller box
MAX_INK_OVERLAP = 0.08  # shared ink over the smaller ink: above, digits become ambiguous
INK = 0.3  # smallest opacity of ink
MIN_CONTRAST = 100  # luma between a digit and every part of its background
CELL = 10  # px of an enlarged cell of a scan
SCAN_CELLS = 12  # cells along a side: eight, and two empty ones on each side
KINDS = {  # of backgrounds, with their fractions
    'flat': 0.2,
    'gradient': 0.2,
    'noise': 0.15,
    'clouds': 0.15,
    'stripes': 0.1,
    'ruled': 0.1,
    'checks': 0.1,
}
LUMA_BGR = np.array([0.114, 0.587, 0.299])  # ITU-R BT.601
MAX_STEP = 25  # luma between the two colours of a background


@dataclass(frozen=True)
class Background:
    """Parameters of one background of ``size`` x ``size`` px; colours are BGR 0..255."""

    size: int
    kind: str
    bgr: tuple[float, float, float]
    other_bgr: tuple[float, float, float]
    angle: float
    period: float
    grain: float
    seed: int

    @property
    def luma_range(self) -> tuple[float, float]:
        """Darkest and lightest luma, without grain."""
        lumas = luma(self.bgr), luma(self.other_bgr)
        return min(lumas), max(lumas)


def luma(bgr: tuple[float, float, float]) -> float:
    """Return the brightness 0..255 of a BGR colour."""
    return float(LUMA_BGR @ np.asarray(bgr))


def colour_of_luma(rng: np.random.Generator, target: float) -> tuple[float, float, float]:
    """Draw a colour of the luma ``target``: a tint, blended with black or white."""
    grey = np.full(3, 128.0)
    tint = grey + rng.uniform(0, 0.6) * (rng.uniform(0, 255, 3) - grey)
    now = luma(tint)
    tint = tint * (target / now) if target < now else tint + (255 - tint) * (target - now) / (255 - now)
    return tuple(float(value) for value in tint)


def draw_background(rng: np.random.Generator, size: int) -> Background:
    """Draw a background: light paper, a dark board or anything between."""
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    base = float(rng.choice([rng.uniform(185, 250), rng.uniform(8, 70), rng.uniform(70, 185)], p=[0.45, 0.3, 0.25]))
    other = float(np.clip(base + rng.uniform(-MAX_STEP, MAX_STEP), 0, 255))
    return Background(
        size=size,
        kind=kind,
        bgr=colour_of_luma(rng, base),
        other_bgr=colour_of_luma(rng, base if kind in ('flat', 'noise') else other),
        angle=float(rng.uniform(0, np.pi)),
        period=float(rng.uniform(10, 48)),
        grain=float(rng.uniform(8, 20) if kind == 'noise' else rng.uniform(0, 5)),
        seed=int(rng.integers(2**31)),
    )


def _field(background: Background, rng: np.random.Generator) -> np.ndarray:
    """Return the blend field (size, size) in 0..1."""
    size, period = background.size, background.period
    y, x = np.mgrid[:size, :size].astype(np.float32)
    along = x * np.cos(background.angle) + y * np.sin(background.angle)
    if background.kind == 'gradient':
        return (along - along.min()) / (along.max() - along.min())
    if background.kind == 'stripes':
        return 0.5 + 0.5 * np.sin(2 * np.pi * along / period)
    if background.kind == 'clouds':
        octaves = [rng.random((cells, cells), dtype=np.float32) for cells in (3, 6, 12, 24)]
        octaves = [cv2.resize(octave, (size, size), interpolation=cv2.INTER_CUBIC) for octave in octaves]
        field = sum(octave / 2**level for level, octave in enumerate(octaves))
        return (field - field.min()) / (field.max() - field.min())
    if background.kind == 'ruled':
        from_line = np.abs((along + period / 2) % period - period / 2)
        return np.clip(1.5 - from_line, 0, 1)
    if background.kind == 'checks':
        return ((x // period + y // period) % 2).astype(np.float32)
    return np.zeros((size, size), np.float32)


def render_background(background: Background) -> np.ndarray:
    """Return the background as BGR float32 (size, size, 3), 0..255."""
    rng = np.random.default_rng(background.seed)
    blend = _field(background, rng)[..., None]
    first, second = (np.array(bgr, np.float32) for bgr in (background.bgr, background.other_bgr))
    grain = background.grain * rng.standard_normal((background.size, background.size, 1), dtype=np.float32)
    return np.clip(first + blend * (second - first) + grain, 0, 255)


@dataclass(frozen=True)
class Digit:
    """Parameters of one digit: its scan, deformation, place (left, top in px) and colour."""

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
    """Parameters of one image of ``size`` x ``size`` px."""

    size: int
    background: Background
    digits: tuple[Digit, ...]
    blur: float
    quality: int


def ink_box(alpha: np.ndarray) -> tuple[int, int, int, int]:
    """Return the tight box (x1, y1, x2, y2), px, x2 and y2 exclusive, of pixels of at least ``INK`` opacity."""
    rows, columns = np.flatnonzero((alpha >= INK).any(1)), np.flatnonzero((alpha >= INK).any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def pen_stroke(scan: np.ndarray) -> np.ndarray:
    """Enlarge a scan (8, 8) to the opacities (120, 120) of a pen stroke, with two empty cells around it.

    The grey level of a scan is the fraction of the cell that the pen covered. Plain enlargement would fill thin loops;
    the scan is sharpened and thresholded, and the opacity of the stroke follows the grey level.
    """
    cells = cv2.copyMakeBorder(scan, 2, 2, 2, 2, cv2.BORDER_CONSTANT)
    grey = cv2.resize(cells, None, fx=CELL, fy=CELL, interpolation=cv2.INTER_CUBIC)
    grey = cv2.GaussianBlur(grey, (0, 0), 0.28 * CELL)
    grey += 1.8 * (grey - cv2.GaussianBlur(grey, (0, 0), 1.3 * CELL))
    edge, pressure = np.clip((grey - 0.46) / 0.16, 0, 1), np.clip((grey - 0.6) / 0.5, 0, 1)
    return edge * (0.55 + 0.45 * pressure)


def render_digit(scan: np.ndarray, digit: Digit) -> np.ndarray:
    """Return the opacity (h, w) in 0..1 of a deformed scan, cropped to its ink, longer side ``digit.side`` px."""
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
    """Return the overlaps of two placed digits: of boxes over the smaller box, of ink over the smaller ink."""
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
    """Draw left and top: anywhere, or (in two of five cases) at the edge of a digit already placed."""
    height, width = shape
    if placed and rng.random() < 0.4:
        digit, alpha = placed[rng.integers(len(placed))]
        left = digit.left + (alpha.shape[1] - rng.uniform(0, 6) if rng.random() < 0.5 else rng.uniform(0, 6) - width)
        top = digit.top + rng.uniform(-0.4, 0.4) * height
    else:
        left, top = rng.uniform(0, size - width), rng.uniform(0, size - height)
    return int(np.clip(left, 0, size - width)), int(np.clip(top, 0, size - height))


def draw_scene(rng: np.random.Generator, scans: np.ndarray, pool: list[np.ndarray], size: int) -> Scene:
    """Draw a scene: a background, then digits one by one, each where it respects the limits of overlap.

    Args:
        rng: Random generator.
        scans: All scans (S, 8, 8).
        pool: Indices of the scans to use, of each class.
        size: Side of the image in px, at least twice ``MAX_SIDE``.
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
    """Return the image (size, size, 3), BGR uint8, and boxes xyxy (G, 4) in px."""
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
