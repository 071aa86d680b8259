"""Backgrounds of the digits scenes: flat, gradient, noise and textures, in any colour.

A background is a blend of two colours by a field 0..1 over the picture, with some grain on it. Its darkest and
lightest luma are known from what was drawn, so that a digit's colour can be chosen against all of it.
"""

from dataclasses import dataclass

import cv2
import numpy as np

KINDS = {'flat': 0.2, 'gradient': 0.2, 'noise': 0.15, 'clouds': 0.15, 'stripes': 0.1, 'ruled': 0.1, 'checks': 0.1}
"""And the share of each among the scenes."""
LUMA_BGR = np.array([0.114, 0.587, 0.299])  # ITU-R BT.601
MAX_STEP = 25  # luma steps between the two colours


@dataclass(frozen=True)
class Background:
    """What was drawn for one background of ``size`` x ``size`` px; colours are BGR 0..255."""

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
        """Darkest and lightest luma, grain apart."""
        lumas = luma(self.bgr), luma(self.other_bgr)
        return min(lumas), max(lumas)


def luma(bgr: tuple[float, float, float]) -> float:
    """Brightness 0..255 of a BGR colour."""
    return float(LUMA_BGR @ np.asarray(bgr))


def colour_of_luma(rng: np.random.Generator, target: float) -> tuple[float, float, float]:
    """A random colour of the luma ``target``: a tint, darkened to black or lightened to white as needed."""
    grey = np.full(3, 128.0)
    tint = grey + rng.uniform(0, 0.6) * (rng.uniform(0, 255, 3) - grey)
    now = luma(tint)
    tint = tint * (target / now) if target < now else tint + (255 - tint) * (target - now) / (255 - now)
    return tuple(float(value) for value in tint)


def draw_background(rng: np.random.Generator, size: int) -> Background:
    """Draw a background: light paper, dark board or anything between."""
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
    """The blend (size, size) in 0..1."""
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
    """The background as BGR float32 (size, size, 3), 0..255."""
    rng = np.random.default_rng(background.seed)
    blend = _field(background, rng)[..., None]
    first, second = (np.array(bgr, np.float32) for bgr in (background.bgr, background.other_bgr))
    grain = background.grain * rng.standard_normal((background.size, background.size, 1), dtype=np.float32)
    return np.clip(first + blend * (second - first) + grain, 0, 255)
