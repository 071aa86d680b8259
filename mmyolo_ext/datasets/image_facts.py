"""Read every image of a data set once, and find images that look alike by a perceptual hash."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import cv2
import numpy as np

from mmyolo_ext.image_io import (
    JPEG_START,
    PNG_START,
    decode_image,
    exif_orientation,
    is_truncated,
    peculiarities,
    read_bytes,
)
from mmyolo_ext.progress import with_bar

STARTS = {
    JPEG_START: ('.jpg', '.jpeg', '.jpe', '.jfif'),
    PNG_START: ('.png', '.apng'),
    b'BM': ('.bmp',),
    b'GIF8': ('.gif',),
    b'II*\0': ('.tif', '.tiff'),
    b'MM\0*': ('.tif', '.tiff'),
}
# the start of what peculiarities says, and the check that reports it
PECULIAR = {
    'have an EXIF': 'exif-rotated',
    'have 16': 'bits-16',
    'have transparent': 'transparent',
    'are GIF': 'animated',
}
SIDE = 256  # px, to which images are reduced before their sharpness is measured
THUMB = 16  # px
BANDS, BAND_BITS = 8, 8
MAX_BITS = 7  # of 64, by which the hashes of images that look alike differ; below BANDS
MAX_LEVELS = 6  # mean difference of their thumbnails, grey levels
MAX_GROUP = 4000  # images with an equal band; more look alike in their layout alone


@dataclass
class ImageFacts:
    """What one image file is like.

    Args:
        size_wh: px, upright; None if it cannot be decoded.
        faults: (check, note).
        orientation: Of EXIF, 1 to 8.
        digest: Hash of the pixels.
        dhash: 64 bits, each whether a pixel of the 8 x 9 px image is darker than its right neighbour (difference
            hash).
        thumb: (16, 16) grey.
        grey: Whether all channels are equal.
        single_colour: Whether all pixels are equal.
        mean: Grey level.
        sharpness: Variance of the Laplacian at 256 px.
    """

    size_wh: tuple[int, int] | None = None
    faults: list[tuple[str, str]] = field(default_factory=list)
    orientation: int = 1
    digest: bytes = b''
    dhash: int = 0
    thumb: np.ndarray | None = None
    grey: bool = False
    single_colour: bool = False
    mean: float = 0.0
    sharpness: float = 0.0


def inspect_images(paths: Sequence[str]) -> dict[str, ImageFacts]:
    """Read images, with as many threads as there are cores."""
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        found = pool.map(inspect, paths)
        try:
            return dict(zip(paths, with_bar(found, 'Reading images', len(paths)), strict=True))
        except BaseException:  # of a signal: the images that are left are not read
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def inspect(path: str) -> ImageFacts:
    """Read one image file."""
    if not os.path.isfile(path):
        return ImageFacts(faults=[('image-missing', '')])
    if not os.path.getsize(path):
        return ImageFacts(faults=[('image-empty', '')])
    try:
        content = read_bytes(path)
        if is_truncated(content):
            return ImageFacts(faults=[('image-truncated', f'{len(content):,} bytes')])
        image, complaint = decode_image(content)
    except ValueError as error:
        return ImageFacts(faults=[('image-unreadable', str(error))])
    facts = ImageFacts(image.shape[1::-1], orientation=exif_orientation(content))
    facts.faults += [('image-damaged', complaint)] if complaint else []
    facts.faults += [
        (PECULIAR[key], '') for text in peculiarities(content) for key in PECULIAR if text.startswith(key)
    ]
    suffixes = next((suffixes for start, suffixes in STARTS.items() if content.startswith(start)), None)
    if content[:4] == b'RIFF' and content[8:12] == b'WEBP':
        suffixes = ('.webp',)
    if suffixes and os.path.splitext(path)[1].lower() not in suffixes:
        facts.faults.append(('image-suffix', f'its content is {suffixes[0][1:].upper()}'))
    facts.digest = hashlib.blake2b(image.tobytes() + repr(image.shape).encode(), digest_size=16).digest()
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    facts.thumb = cv2.resize(grey, (THUMB, THUMB), interpolation=cv2.INTER_AREA)
    facts.dhash = difference_hash(grey)
    facts.grey = bool((image == image[..., :1]).all())
    facts.single_colour = image.size > 3 and bool((image == image[0, 0]).all())
    facts.mean = float(grey.mean())
    scale = SIDE / max(grey.shape)
    if scale < 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    facts.sharpness = float(cv2.Laplacian(grey, cv2.CV_32F).var())
    return facts


def difference_hash(grey: np.ndarray) -> int:
    """Return the 64-bit difference hash of a grey image (H, W)."""
    small = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    bits = (small[:, 1:] > small[:, :-1]).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), 'big')


def near_pairs(facts: Sequence[ImageFacts]) -> Iterator[tuple[int, int]]:
    """Yield positions (first, second), first < second, of images that look alike, in ascending order of the second.

    Hashes that differ by at most 7 of 64 bits are equal in one of 8 bands of 8 bits, so only those are compared.
    Thumbnails confirm it: hashes do not tell pale images apart.
    """
    hashes = np.array([fact.dhash for fact in facts], np.uint64)
    found = set()
    for band in range(BANDS):
        keys = (hashes >> np.uint64(band * BAND_BITS)) & np.uint64(2**BAND_BITS - 1)
        order = np.argsort(keys, kind='stable')
        edges = np.flatnonzero(np.diff(keys[order])) + 1
        for group in np.split(order, edges):
            group = group[:MAX_GROUP]
            for position, first in enumerate(group[:-1]):
                others = group[position + 1 :]
                bits = np.unpackbits((hashes[others] ^ hashes[first]).view(np.uint8).reshape(-1, 8), axis=1).sum(1)
                found |= {(int(first), int(second)) for second in others[bits <= MAX_BITS]}
    for first, second in sorted(found, key=lambda pair: pair[::-1]):
        difference = np.abs(facts[first].thumb.astype(np.int16) - facts[second].thumb)
        if difference.mean() <= MAX_LEVELS:
            yield first, second
