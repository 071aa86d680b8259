"""Scenes of handwritten digits: drawn first, then rendered by pure functions.

A background blends two colours by a field 0..1 over the image, with some grain. Its darkest and lightest luma follow
from what was drawn, so that digits get a colour with enough contrast.

G digits in a scene. Opacities (h, w) are float32 in 0..1; boxes are xyxy in px, x2 and y2 exclusive.
"""

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


def luma_range(background: dict) -> tuple[float, float]:
    """Return the darkest and lightest luma of a background, without grain."""
    lumas = luma(background['bgr']), luma(background['other_bgr'])
    return min(lumas), max(lumas)


def draw_background(rng: np.random.Generator) -> dict:
    """Draw the arguments of :func:`render_background`: light paper, a dark board or anything between."""
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    base = float(rng.choice([rng.uniform(185, 250), rng.uniform(8, 70), rng.uniform(70, 185)], p=[0.45, 0.3, 0.25]))
    other = float(np.clip(base + rng.uniform(-MAX_STEP, MAX_STEP), 0, 255))
    return {
        'kind': kind,
        'bgr': colour_of_luma(rng, base),
        'other_bgr': colour_of_luma(rng, base if kind in ('flat', 'noise') else other),
        'angle': float(rng.uniform(0, np.pi)),
        'period': float(rng.uniform(10, 48)),
        'grain': float(rng.uniform(8, 20) if kind == 'noise' else rng.uniform(0, 5)),
        'seed': int(rng.integers(2**31)),
    }


def _field(size: int, kind: str, angle: float, period: float, rng: np.random.Generator) -> np.ndarray:
    """Return the blend field (size, size) in 0..1."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    along = x * np.cos(angle) + y * np.sin(angle)
    if kind == 'gradient':
        return (along - along.min()) / (along.max() - along.min())
    if kind == 'stripes':
        return 0.5 + 0.5 * np.sin(2 * np.pi * along / period)
    if kind == 'clouds':
        octaves = [rng.random((cells, cells), dtype=np.float32) for cells in (3, 6, 12, 24)]
        octaves = [cv2.resize(octave, (size, size), interpolation=cv2.INTER_CUBIC) for octave in octaves]
        field = sum(octave / 2**level for level, octave in enumerate(octaves))
        return (field - field.min()) / (field.max() - field.min())
    if kind == 'ruled':
        from_line = np.abs((along + period / 2) % period - period / 2)
        return np.clip(1.5 - from_line, 0, 1)
    if kind == 'checks':
        return ((x // period + y // period) % 2).astype(np.float32)
    return np.zeros((size, size), np.float32)


def render_background(
    size: int, kind: str, bgr: tuple, other_bgr: tuple, angle: float, period: float, grain: float, seed: int
) -> np.ndarray:
    """Return a background as BGR float32 (size, size, 3), 0..255; both colours are BGR 0..255."""
    rng = np.random.default_rng(seed)
    blend = _field(size, kind, angle, period, rng)[..., None]
    first, second = np.array(bgr, np.float32), np.array(other_bgr, np.float32)
    noise = grain * rng.standard_normal((size, size, 1), dtype=np.float32)
    return np.clip(first + blend * (second - first) + noise, 0, 255)


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


def render_digit(scan: np.ndarray, side: int, degrees: float, shear: float, stretch: float) -> np.ndarray:
    """Return the opacity (h, w) in 0..1 of a deformed scan, cropped to its ink, longer side ``side`` px."""
    turn, middle = np.deg2rad(degrees), SCAN_CELLS * CELL / 2
    bend = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    bend = bend @ np.array([[stretch, shear], [0, 1]])
    matrix = np.hstack([bend, [[middle], [middle]] - bend @ [[middle], [middle]]])
    pen = pen_stroke(scan)
    stroke = cv2.warpAffine(pen, matrix, pen.shape, flags=cv2.INTER_LINEAR)
    x1, y1, x2, y2 = ink_box(stroke)
    stroke = stroke[y1:y2, x1:x2]
    scale = side / max(stroke.shape)
    width, height = (max(round(scale * length), 1) for length in stroke.shape[::-1])
    alpha = cv2.resize(stroke, (width, height), interpolation=cv2.INTER_AREA)
    x1, y1, x2, y2 = ink_box(alpha)
    return alpha[y1:y2, x1:x2]


def _shared(a: dict, b: dict) -> tuple[float, float]:
    """Return the overlaps of two placed digits: of boxes over the smaller box, of ink over the smaller ink."""
    masks = [digit['alpha'] >= INK for digit in (a, b)]
    x1, y1 = max(a['left'], b['left']), max(a['top'], b['top'])
    x2 = min(digit['left'] + mask.shape[1] for digit, mask in zip((a, b), masks, strict=True))
    y2 = min(digit['top'] + mask.shape[0] for digit, mask in zip((a, b), masks, strict=True))
    if x2 <= x1 or y2 <= y1:
        return 0.0, 0.0
    part_a, part_b = (
        mask[y1 - digit['top'] : y2 - digit['top'], x1 - digit['left'] : x2 - digit['left']]
        for digit, mask in zip((a, b), masks, strict=True)
    )
    box_share = (x2 - x1) * (y2 - y1) / min(mask.size for mask in masks)
    return box_share, float((part_a & part_b).sum() / min(mask.sum() for mask in masks))


def _draw_digit(rng: np.random.Generator, scans: np.ndarray, pool: list[np.ndarray], background: dict) -> dict:
    label = int(rng.integers(len(CLASSES)))
    low, high = luma_range(background)
    dark, light = max(low - MIN_CONTRAST, 0), max(255 - high - MIN_CONTRAST, 0)
    pick = rng.uniform(0, dark + light)
    scan = int(rng.choice(pool[label]))
    side = round(rng.triangular(MIN_SIDE + 1, 0.8 * MAX_SIDE, MAX_SIDE))
    degrees, shear, stretch = rng.uniform(-8, 8), rng.uniform(-0.1, 0.1), rng.uniform(0.8, 1.1)
    bgr = colour_of_luma(rng, pick if pick < dark else 255 - (pick - dark))
    return {
        'scan': scan,
        'label': label,
        'bgr': bgr,
        'alpha': render_digit(scans[scan], side, degrees, shear, stretch),
    }


def _draw_place(rng: np.random.Generator, shape: tuple[int, int], placed: list[dict], size: int) -> tuple[int, int]:
    """Draw left and top: anywhere, or (in two of five cases) at the edge of a digit already placed."""
    height, width = shape
    if placed and rng.random() < 0.4:
        digit = placed[rng.integers(len(placed))]
        right = digit['left'] + digit['alpha'].shape[1]
        left = right - rng.uniform(0, 6) if rng.random() < 0.5 else digit['left'] + rng.uniform(0, 6) - width
        top = digit['top'] + rng.uniform(-0.4, 0.4) * height
    else:
        left, top = rng.uniform(0, size - width), rng.uniform(0, size - height)
    return int(np.clip(left, 0, size - width)), int(np.clip(top, 0, size - height))


def make_scene(
    rng: np.random.Generator, scans: np.ndarray, pool: list[np.ndarray], size: int
) -> tuple[np.ndarray, list[dict], dict, int]:
    """Make a scene: a background, then digits one by one, each where it respects the limits of overlap.

    Args:
        rng: Random generator.
        scans: All scans (S, 8, 8).
        pool: Indices of the scans to use, of each class.
        size: Side of the image in px, at least twice ``MAX_SIDE``.

    Returns:
        The image (size, size, 3), BGR uint8; the digits, each with ``scan``, ``label``, ``bgr``, ``alpha`` (its
        opacity), ``left``, ``top`` and ``box`` (xyxy px); the background; and the JPEG quality to write it with.
    """
    background = draw_background(rng)
    wanted = 0 if rng.random() < EMPTY_SHARE else int(rng.integers(1, MAX_DIGITS + 1))
    placed: list[dict] = []
    one_pen = rng.random() < 0.4
    for _ in range(wanted):
        digit = _draw_digit(rng, scans, pool, background)
        if one_pen and placed:
            digit['bgr'] = placed[0]['bgr']
        for _ in range(20):
            digit['left'], digit['top'] = _draw_place(rng, digit['alpha'].shape, placed, size)
            shares = [_shared(digit, other) for other in placed]
            if all(box <= MAX_BOX_OVERLAP and ink <= MAX_INK_OVERLAP for box, ink in shares):
                placed.append(digit)
                break
    image = render_background(size, **background)
    for digit in placed:
        paste_digit(image, digit)
    blur = rng.uniform(0.0, 0.8)
    if blur > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), placed, background, int(rng.integers(85, 96))


def paste_digit(image: np.ndarray, digit: dict) -> None:
    """Blend a digit into a float32 image, in place, and set its ``box``."""
    alpha, left, top = digit['alpha'], digit['left'], digit['top']
    patch = image[top : top + alpha.shape[0], left : left + alpha.shape[1]]
    patch += alpha[..., None] * (np.array(digit['bgr'], np.float32) - patch)
    digit['box'] = np.add(ink_box(alpha), [left, top] * 2).tolist()
