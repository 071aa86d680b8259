"""The images that users name: files, folders, patterns, videos, cameras, addresses, arrays; without torch."""

import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

import cv2
import numpy as np

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
VIDEOS = (
    *('.mp4', '.avi', '.mov', '.mkv', '.m4v', '.webm', '.mpg', '.mpeg', '.wmv', '.flv'),
    *('.ts', '.m3u8', '.mjpg', '.mjpeg'),
)
MOST_BYTES, TIMEOUT = 100 * 2**20, 30  # of a downloaded image; seconds
FPS = 25.0  # of a video whose own rate is not known
LIVE = ('.m3u8', '.ts', '.mjpg', '.mjpeg')  # of addresses by http; others are files, of which no frame is dropped
RECONNECTS, FIRST_WAIT = 5, 1.0  # tries in a row; seconds before the first, each further one waits twice as long
LOGGER = logging.getLogger('mmyolo_ext')


class Input(NamedTuple):
    """An image to detect on.

    Args:
        name: For messages.
        image: Path or array (H, W, 3) BGR.
        frame: Number in its video, from 0; numbers of dropped frames of a live source are missing. None for images.
        time: Seconds since the first frame: by the rate of a file, by the clock for a live source. None for images.
    """

    name: str
    image: str | Path | np.ndarray
    frame: int | None = None
    time: float | None = None


def is_one_image(source: Any) -> bool:
    """Return whether a source is one image, not something that may hold several."""
    if isinstance(source, np.ndarray) or is_pil(source):
        return True
    if isinstance(source, str) and '://' in source:
        return not _is_stream(source)
    if not isinstance(source, (str, Path)) or is_camera(source):
        return False
    path = Path(source)
    return path.suffix.lower() not in VIDEOS and not path.is_dir() and (path.is_file() or not _is_pattern(source))


def inputs(source: Any, allow_download: bool = False) -> Iterator[Input]:
    """Yield the images of a source one by one; frames of videos are read when they are asked for.

    Cameras and streams are live: each request gets the newest frame, and older ones that nobody asked for are dropped.
    A stream that breaks is opened again.

    Args:
        source: Path of an image, a folder (searched recursively) or a video; a pattern with ``*``; the index of a
            camera; an address of an image or a stream; an array (H, W, 3) BGR uint8; an image of PIL; or several of
            these.
        allow_download: Open addresses.

    Raises:
        ValueError: If there is no such image, or it is an address and ``allow_download`` is not set.
    """
    if isinstance(source, np.ndarray):
        yield Input('array', source)
    elif is_pil(source):
        yield Input(getattr(source, 'filename', '') or 'PIL image', _from_pil(source))
    elif isinstance(source, str) and '://' in source:
        yield from _from_address(source, allow_download)
    elif is_camera(source):
        yield from _live_frames(int(source), f'camera {source}')
    elif isinstance(source, (str, Path)):
        for file in find_files(source):
            yield from _frames(str(file), str(file)) if file.suffix.lower() in VIDEOS else (Input(str(file), file),)
    elif isinstance(source, Iterable):
        for part in source:
            yield from inputs(part, allow_download)
    else:
        raise ValueError(
            f'images are paths, arrays, PIL images, camera indices or lists of them, got {type(source).__name__}'
        )


def find_files(pattern: str | Path) -> list[Path]:
    """Return a file as named, the images and videos in a folder, or the matches of a pattern, in order.

    Raises:
        ValueError: If there is none.
    """
    path = Path(pattern).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.rglob('*') if file.suffix.lower() in SUFFIXES + VIDEOS)
    elif path.is_file():
        files = [path]
    elif not _is_pattern(pattern):
        raise ValueError(f'there is no image {pattern}')
    else:
        files = [file for file in map(Path, sorted(glob(str(path), recursive=True))) if file.is_file()]
    if not files:
        raise ValueError(f'no images match {str(pattern)!r}; in folders, suffixes are {", ".join(SUFFIXES + VIDEOS)}')
    return files


def is_pil(source: Any) -> bool:
    """Return whether an object is an image of PIL, which is not imported for this."""
    return any(kind.__module__ == 'PIL.Image' and kind.__name__ == 'Image' for kind in type(source).__mro__)


def _from_pil(image: Any) -> np.ndarray:
    from PIL import ImageOps

    return np.ascontiguousarray(np.asarray(ImageOps.exif_transpose(image).convert('RGB'))[..., ::-1])


def is_camera(source: Any) -> bool:
    """Return whether a source is the index of a camera."""
    is_text = isinstance(source, str) and source.isascii() and source.isdigit() and not Path(source).exists()
    return is_text or (isinstance(source, (int, np.integer)) and not isinstance(source, bool))


def _is_pattern(source: str | Path) -> bool:
    return any(sign in str(source) for sign in '*?[')


def _is_stream(address: str) -> bool:
    parts = urlparse(address)
    return parts.scheme not in ('http', 'https') or Path(parts.path).suffix.lower() in VIDEOS


def is_live(source: str | int | Path) -> bool:
    """Return whether a source is a camera or a stream, which has no end and may drop frames.

    An address by http without the suffix of an image or video may be one: its answer says so.
    """
    if isinstance(source, str) and '://' in source:
        parts = urlparse(source)
        suffix = Path(parts.path).suffix.lower()
        return parts.scheme not in ('http', 'https') or suffix in LIVE or suffix not in SUFFIXES + VIDEOS
    return is_camera(source)


def _from_address(address: str, allow_download: bool) -> Iterator[Input]:
    scheme = urlparse(address).scheme
    if scheme not in ('http', 'https', 'rtsp', 'rtsps', 'rtmp', 'udp', 'tcp'):
        raise ValueError(f'{address} cannot be opened: addresses start with http, https, rtsp, rtmp, udp or tcp')
    if not allow_download:
        raise ValueError(
            f'{address} is an address, and nothing is downloaded unless you ask for it: set allow_download=True '
            '(--allow-download), or give a file'
        )
    if _is_stream(address):
        yield from _live_frames(address, address) if is_live(address) else _frames(address, address)
        return
    image = _download(address)
    yield from _live_frames(address, address) if image is None else (Input(address, image),)


def _download(address: str) -> np.ndarray | None:
    """Return an image, or None if the address turns out to be a stream: cameras send one JPEG after another."""
    from mmyolo_ext.image_io import decode_image

    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
            if answer.headers.get_content_maintype() in ('multipart', 'video'):
                return None
            content = answer.read(MOST_BYTES + 1)
    except (OSError, urllib.error.URLError) as error:
        raise ValueError(f'{address} cannot be downloaded ({error})') from error
    if len(content) > MOST_BYTES:
        raise ValueError(f'{address} has more than {MOST_BYTES >> 20} MB, download it by yourself and give its path')
    try:
        return decode_image(content)[0]
    except ValueError as error:
        raise ValueError(f'{address}: {error}') from error


def frame_rate(capture: cv2.VideoCapture) -> float:
    """Return the frames per second of an open video, :data:`FPS` if they are not known."""
    rate = capture.get(cv2.CAP_PROP_FPS)
    return rate if 0 < rate < 1000 else FPS


def _frames(source: str, name: str) -> Iterator[Input]:
    """Yield all frames of a file."""
    capture = cv2.VideoCapture(source)
    try:
        if not capture.isOpened():
            raise ValueError(f'{name} cannot be opened by OpenCV: is it there, and is it a video?')
        rate, number = frame_rate(capture), 0
        there, image = capture.read()
        while there:
            yield Input(name, image, number, number / rate)
            number += 1
            there, image = capture.read()
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if number < 0.9 * count:  # containers round the count
            LOGGER.warning(f'{name} ends after {number} of {count} frames: it is damaged or incomplete')
    finally:
        capture.release()


def _live_frames(source: str | int, name: str) -> Iterator[Input]:
    """Yield the newest frame of a camera or stream each time; a thread reads all of them, and opens it again."""
    newest: list[Input] = []  # at most one
    ready, stopped = threading.Condition(), threading.Event()
    reader = threading.Thread(target=_read_live, args=(source, name, newest, ready, stopped), daemon=True)
    reader.start()
    seen = False
    try:
        while True:
            with ready:
                ready.wait_for(lambda: newest or stopped.is_set())
                frame = newest.pop() if newest else None
            if frame is None:
                break
            seen = True
            yield frame
    finally:
        stopped.set()
    if not seen:
        raise ValueError(f'{name} cannot be opened by OpenCV: is it there, and does it send a video?')
    LOGGER.warning(f'{name} ended, and {RECONNECTS} tries to open it again failed')


def _read_live(
    source: str | int, name: str, newest: list, ready: threading.Condition, stopped: threading.Event
) -> None:
    number, failed, start = 0, 0, None
    try:
        while not stopped.is_set():
            capture = cv2.VideoCapture(source)
            there, image = capture.read()
            while there and not stopped.is_set():
                failed, start = 0, start or time.monotonic()
                with ready:
                    newest[:] = [Input(name, image, number, time.monotonic() - start)]
                    ready.notify()
                number += 1
                there, image = capture.read()
            capture.release()
            if number == 0 or failed == RECONNECTS:
                break
            stopped.wait(FIRST_WAIT * 2**failed)
            failed += 1
    finally:
        with ready:
            stopped.set()
            ready.notify()
