"""Detect objects on images and videos: ``mmyolo-ext predict best.pth photo.jpg folder/ 'more/*.png' film.mp4``.

Writes each image and video with its boxes, and one JSON with all boxes in px of the images, or other formats; with
``--track``, objects keep their number over the frames of a video. An ONNX file is run without importing torch.
"""

import argparse
import signal
import sys
import tempfile
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from urllib.parse import urlparse

import cv2
import numpy as np

from mmyolo_ext.apis.inference import CHECKPOINTS, EXPORTS, NMS_IOU, Detector
from mmyolo_ext.apis.inputs import FPS, SUFFIXES, VIDEOS, find_files, frame_rate, is_camera, is_live
from mmyolo_ext.apis.outputs import FORMATS, Outputs
from mmyolo_ext.apis.tracking import LOW_SCORE, track
from mmyolo_ext.deferred import RARE_IN_MMDET, deferred
from mmyolo_ext.export.runtime import need
from mmyolo_ext.progress import with_bar
from mmyolo_ext.tiling import MERGES

LOOK_AGAIN = 20  # number of images, if nothing is found
LOWEST_USEFUL = 0.01  # lower scores are those of a detector that has learned nothing


def import_torch_model() -> None:
    """Import what a detector of PyTorch needs, and little else of mmdet and MMEngine: it halves the start."""
    with deferred(*RARE_IN_MMDET, unused=('torch.distributed.fsdp', 'torch.distributed.optim')):
        for part in ('apis.torch_model', 'models', 'datasets', 'cli.common'):
            import_module(f'mmyolo_ext.{part}')


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Detect objects on images and videos',
        usage='%(prog)s [CONFIG] MODEL INPUT [INPUT ...] [options]',
        epilog="example: %(prog)s best.pth photo.jpg folder/ 'more/*.png' film.mp4 --out-dir seen",
    )
    parser.add_argument(
        'model',
        help=f'checkpoint (.pth), export ({", ".join(EXPORTS)}), or a config (file or name) and its checkpoint',
    )
    parser.add_argument(
        'inputs', nargs='+', help='images, videos, folders (searched recursively), patterns in quotes, camera indices'
    )
    parser.add_argument('--out-dir', default='predictions', help='output folder (default: predictions)')
    parser.add_argument('--score-thr', type=float, default=0.25, help='minimum score of a box (default: 0.25)')
    parser.add_argument(
        '--nms-iou', type=float, default=NMS_IOU, help=f'most overlap (IoU) of two boxes of a class ({NMS_IOU})'
    )
    parser.add_argument('--tile', type=int, metavar='PX', help='cut large images into tiles of this side')
    parser.add_argument('--overlap', type=float, default=0.2, help='of neighbouring tiles, share of a side (0.2)')
    parser.add_argument('--merge-by', default='nms', choices=MERGES, help='how boxes of tiles are merged (nms)')
    parser.add_argument('--device', help='cpu, cuda:0, ...; default: a GPU if there is one')
    parser.add_argument('--half', action='store_true', help='compute in float16, on a CPU in bfloat16')
    parser.add_argument('--fuse', action='store_true', help='fold batch norms into convolutions')
    parser.add_argument('--no-draw', action='store_true', help='write no images and videos')
    parser.add_argument(
        '--formats',
        type=format_names,
        default=('json',),
        metavar='A,B',
        help=f'files with the boxes, of {", ".join(FORMATS)}, joined by commas (default: json)',
    )
    parser.add_argument('--track', action='store_true', help='number the objects in videos by ByteTrack')
    parser.add_argument('--allow-download', action='store_true', help='open inputs that are addresses (https, rtsp)')
    args = parser.parse_args(argv)
    args.checkpoint = None
    if Path(args.model).suffix.lower() not in (*CHECKPOINTS, *EXPORTS):
        args.checkpoint, *args.inputs = args.inputs
        if not args.inputs:
            parser.error(f'{args.model} is a config, so a checkpoint and images must follow')
    return args


def format_names(text: str) -> tuple[str, ...]:
    """Return the names in a list joined by commas."""
    names = tuple(name.strip() for name in text.split(','))
    for name in names:
        if name not in FORMATS:
            raise argparse.ArgumentTypeError(f'formats are {", ".join(FORMATS)}, got {name!r}')
    return names


def main(argv: Sequence[str] | None = None) -> None:
    """Detect as ``argv`` defines it, by default the command line."""
    args = parse_args(argv)
    left = f'what was found so far is in {args.out_dir}'
    if Path(args.model).suffix.lower() not in EXPORTS:
        import_torch_model()
        from mmyolo_ext.cli.common import tool

        return tool(predict, left=left)(args)
    code, line = 0, ''
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        predict(args)
    except (ValueError, OSError) as error:
        code, line = 2, f'error: {error}'
    except KeyboardInterrupt:
        code, line = 128 + signal.SIGINT, f'Interrupted; {left}'
    except SystemExit:
        code, line = 128 + signal.SIGTERM, f'Stopped by SIGTERM; {left}'
    finally:
        signal.signal(signal.SIGTERM, before)
    if code:
        print(line, file=sys.stderr)
        sys.exit(code)


def predict(args: argparse.Namespace) -> None:
    """Detect on all inputs, and write drawings and the files of ``--formats``."""
    sources = list_sources(args.inputs)
    if args.track:
        need('trackers')
    folder = Path(args.out_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(f'--out-dir {folder} cannot be written: {error.strerror}; choose another') from error
    detector = Detector(
        *(args.model, args.checkpoint, args.device),
        nms_iou=args.nms_iou,
        half=args.half,
        fuse=args.fuse,
        allow_download=args.allow_download,
        tile=args.tile,
        overlap=args.overlap,
        merge_by=args.merge_by,
    )
    skipped = 0
    with Outputs(folder, detector.names, args.formats) as outputs:
        named = list(zip(sources, output_names(sources), strict=True))
        for number, (source, name) in enumerate(with_bar(named, 'Inputs') if len(named) > 1 else named, 1):
            try:
                text = predict_source(args, detector, source, name, outputs)
            except ValueError as error:
                skipped += 1
                print(f'[{number}/{len(sources)}] skipped: {error}', file=sys.stderr)
                continue
            print(f'[{number}/{len(sources)}] {source}: {text}')
    print(f'{outputs.images} images, {skipped} skipped; boxes in {folder} ({", ".join(args.formats)})')
    if not outputs.images:
        raise ValueError(f'none of the {len(sources)} images could be read')
    if not outputs.boxes:
        print(why_nothing(args.score_thr, detector, sources))


def why_nothing(score_thr: float, detector: Detector, sources: list[str | Path]) -> str:
    """Return a line for a run without any box: the highest score on the first images, and what to do."""
    highest, count = 0.0, 0
    for source in [source for source in sources if not is_live(source)][:LOOK_AGAIN]:
        try:
            found = next(detector([source], 0.0))
        except (ValueError, StopIteration):  # skipped before, or without frames
            continue
        highest, count = max(highest, float(found.scores.max(initial=0.0))), count + 1
    text = f'No box has a score of at least {score_thr}'
    if not count:
        return f'{text}: lower --score-thr'
    text = f'{text}; the highest in the first {count} images or frames is {highest:.2g}'
    if highest < LOWEST_USEFUL:
        return f'{text}: does the model fit these images, and was its training long enough?'
    return f'{text}: try --score-thr {0.8 * highest:.2g}, or train longer'


def predict_source(
    args: argparse.Namespace, detector: Detector, source: str | Path, name: str, outputs: Outputs
) -> str:
    """Detect on one input, and return a text with counts. Ctrl-C ends a camera or stream, the command only before
    its first frame."""
    images, boxes = outputs.images, outputs.boxes
    writer, dropped, last, path = None, 0, -1, outputs.folder / name
    found = detector([source], min(args.score_thr, LOW_SCORE) if args.track else args.score_thr)
    found = track(found, args.score_thr) if args.track else found
    if is_video(source):
        found = with_bar(found, name, frame_count(source))
    try:
        for one in found:
            outputs.add(str(source), name, one)
            if one.frame is not None:
                dropped, last = dropped + one.frame - last - 1, one.frame
            if one.frame is None and not args.no_draw:
                one.save(path.with_suffix('.jpg') if path.suffix == '.mp4' else path)
            elif not args.no_draw:
                drawn = one.plot()
                writer = writer or open_writer(path.with_suffix('.mp4'), source, drawn)
                writer.write(drawn)
    except KeyboardInterrupt:
        if not is_live(source) or outputs.images == images:
            raise
    finally:
        if writer:
            writer.release()
    frames = [f'{outputs.images - images} frames'] if outputs.images - images != 1 else []
    objects = outputs.counts(str(source)).get('objects', {})
    tracked = [f'{sum(objects.values())} objects ({", ".join(f"{n} {name}" for name, n in objects.items())})']
    lost = [f'{dropped} frames dropped']
    return ', '.join([*frames, *lost[: bool(dropped)], f'{outputs.boxes - boxes} boxes', *tracked[: bool(objects)]])


def is_video(source: str | Path) -> bool:
    """Return whether a source has frames."""
    return is_live(source) or Path(source).suffix.lower() in VIDEOS


def frame_count(source: str | Path) -> int | None:
    """Return the number of frames that a video file names; None for others."""
    if not isinstance(source, Path):
        return None
    capture = cv2.VideoCapture(str(source))
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    return count if count > 0 else None


def list_sources(patterns: Iterable[str]) -> list[str | Path]:
    """Return files as named, those in folders, the matches of patterns, cameras and addresses, each once, in order.

    Raises:
        ValueError: If nothing matches one of them.
    """
    found = [[name] if '://' in name or is_camera(name) else find_files(name) for name in patterns]
    return list(dict.fromkeys(source for part in found for source in part))


def output_names(sources: list[str | Path]) -> list[str]:
    """Return a name for each drawing; equal names get the name of their folder as a prefix."""
    paths = [Path(urlparse(source).path) if isinstance(source, str) else source for source in sources]
    names = []
    for path in paths:
        is_image = path.suffix.lower() in SUFFIXES
        names.append(path.name if is_image else f'{path.stem or "stream"}.mp4')
        if not is_image and path.suffix.lower() not in VIDEOS and path.suffix:
            names[-1] = f'{path.stem}.jpg'
    names = [
        name if names.count(name) == 1 else f'{path.parent.name}_{name}'
        for path, name in zip(paths, names, strict=True)
    ]
    return [name if names.count(name) == 1 else f'{number}_{name}' for number, name in enumerate(names)]


def open_writer(file: Path, source: str | Path, drawn: np.ndarray) -> cv2.VideoWriter:
    """Start an MP4 with the frame rate of the video, and frames of the size of the first drawing."""
    fps = FPS
    if isinstance(source, Path):
        capture = cv2.VideoCapture(str(source))
        fps = frame_rate(capture)
        capture.release()
    return cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*'mp4v'), fps, drawn.shape[1::-1])


if __name__ == '__main__':
    main()
