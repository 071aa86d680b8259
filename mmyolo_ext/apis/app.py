"""A web page on Gradio that shows what detectors find on an image or a video; two models at a time.

A network runs once per image. It returns all predictions with a score of at least :data:`LOWEST`, before NMS; the page
then applies confidence, NMS and one class per prediction to them each time a control is moved.
"""

import base64
import html
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import numpy as np

from mmyolo_ext.apis.inference import CHECKPOINTS, EXPORTS, NMS_IOU, Detector
from mmyolo_ext.apis.inputs import frame_rate
from mmyolo_ext.apis.outputs import Outputs, describe
from mmyolo_ext.apis.results import Detections
from mmyolo_ext.apis.tracking import LOW_SCORE, track
from mmyolo_ext.export.runtime import need, suppress

LOWEST = 0.05  # score of predictions that are kept
MOST, SHOWN = 3000, 300  # predictions of an image before NMS, and boxes after it
EXPLAINED = 3  # detections with a heat map
TILES = (('whole image', 0), *((f'tiles of {side} px', side) for side in (320, 640, 960, 1280)))
NO_MODEL = 'none'
COLUMNS = ('class', 'score', 'x1', 'y1', 'x2', 'y2')
CSS = """
.gradio-container { max-width: 1500px !important; margin: auto; }
.json-link { font-size: 0.9em; }
iframe.report { width: 100%; height: 80vh; border: 1px solid var(--border-color-primary); border-radius: 8px; }
"""


class Model:
    """A detector that is loaded when it is first used, and returns its predictions before NMS.

    Args:
        path: A checkpoint, an export, or the folder of a run, of which the best checkpoint is taken.
        device: As for :class:`Detector`.

    Attributes:
        runs: How many images the network has seen.

    Raises:
        ValueError: If there is no model at ``path``.
    """

    def __init__(self, path: str | Path, device: str | None = None) -> None:
        self.folder = Path(path) if Path(path).is_dir() else Path(path).parent
        self.file, self._device, self.runs = find_model(Path(path)), device, 0
        self._lock = Lock()
        self.name = self.file.stem if self.folder == Path() else f'{self.folder.name}/{self.file.stem}'

    @cached_property
    def detector(self) -> Detector:
        """The detector, whose NMS drops nothing."""
        on = {} if self.file.suffix.lower() in EXPORTS else {'device': self._device}
        detector = Detector(self.file, nms_iou=None, **on)
        set_nms(detector, 1.0, MOST)
        return detector

    def find(self, image: str | Path | np.ndarray, tile: int = 0) -> Detections:
        """Return all predictions on an image, see :func:`chosen`; with ``tile``, those of tiles of this side."""
        self.runs += 1
        with self._on(tile):
            return self.detector(image, LOWEST)

    def watch(self, video: str, score: float, tile: int = 0) -> Iterator[Detections]:
        """Yield the predictions on each frame of a video as :meth:`find` does on an image, from ``score`` on."""
        with self._on(tile):
            for found in self.detector([video], score):
                self.runs += 1
                yield found

    def heat_map(self, image: str | Path | np.ndarray, confidence: float) -> np.ndarray:
        """Return a drawing of what the best detections depend on, see :func:`mmyolo_ext.apis.explain.explain`."""
        if self.file.suffix.lower() in EXPORTS:
            raise ValueError(f'a heat map needs a checkpoint (.pth), got {self.file.name}')
        from mmyolo_ext.apis.explain import explain

        with self._suppressing():
            return explain(self.detector._torch, image, score_thr=confidence, max_detections=EXPLAINED).draw()

    @contextmanager
    def _on(self, tile: int) -> Iterator[None]:
        """Let the detector see tiles of this side, whose NMS acts as in prediction; 0 is the whole image."""
        if not tile:
            with self._lock:
                yield
            return
        with self._suppressing():
            self.detector._tile = tile
            try:
                yield
            finally:
                self.detector._tile = None

    @contextmanager
    def _suppressing(self) -> Iterator[None]:
        """Let the network's NMS act as in prediction."""
        with self._lock:
            set_nms(self.detector, NMS_IOU, SHOWN)
            try:
                yield
            finally:
                set_nms(self.detector, 1.0, MOST)


def find_model(path: Path) -> Path:
    """Return the model file that ``path`` is, or the best, else the newest checkpoint of a run."""
    if path.is_file() and path.suffix.lower() in (*CHECKPOINTS, *EXPORTS):
        return path
    found = sorted(path.glob('best_*.pth'), key=os.path.getmtime) or sorted(path.glob('*.pth'), key=os.path.getmtime)
    if not path.is_dir() or not found:
        wanted = ', '.join((*CHECKPOINTS, *EXPORTS))
        raise ValueError(f'a model is a file ({wanted}) or the folder of a run with a checkpoint, got {path}')
    return found[-1]


def set_nms(detector: Detector, nms_iou: float, most: int) -> None:
    """Set the NMS of a detector; with 1.0 it drops nothing. An export with NMS in its graph keeps its own."""
    if detector._torch is None:
        detector.model.rules |= {'nms_iou': nms_iou, 'max_per_img': most}
        return
    for part in (getattr(detector.model, name, None) for name in ('bbox_head', 'roi_head')):
        test_cfg = getattr(part, 'test_cfg', None) or {}
        test_cfg |= {'max_per_img': most, 'score_thr': max(LOWEST, test_cfg.get('score_thr', 0))}
        if 'nms' in test_cfg:
            test_cfg['nms']['iou_threshold'] = nms_iou


def chosen(found: Detections, confidence: float, nms_iou: float, exclusive: bool, most: int = SHOWN) -> Detections:
    """Return the boxes that a detector with these thresholds finds, from predictions before NMS.

    Args:
        found: Predictions, best first.
        confidence: Lowest score.
        nms_iou: Of two boxes of a class that overlap by more, the worse is dropped.
        exclusive: A prediction counts for its best class only.
        most: Number of boxes.
    """
    found = found.keep(found.scores >= confidence)
    if exclusive:
        # the classes of a prediction share its box, and the best comes first
        _, first = np.unique(found.boxes_xyxy, axis=0, return_index=True)
        found = found.keep(np.sort(first))
    boxes = suppress(*found, {'class_agnostic': False, 'nms_iou': nms_iou, 'max_per_img': most})
    return Detections(*boxes, found.names, found.image_hw, found.image, found.frame, found.time)


def table(found: Detections) -> list[list]:
    """Return a row of :data:`COLUMNS` per box."""
    return [
        [found.names[label], round(score, 3), *(round(side, 1) for side in box)]
        for box, score, label in zip(*(field.tolist() for field in found), strict=True)
    ]


def json_link(found: Detections, name: str) -> str:
    """Return a link that holds the detections as JSON."""
    content = base64.b64encode(json.dumps(describe(name, found)).encode()).decode()
    link = f'<a download="{html.escape(Path(name).stem)}.json" href="data:application/json;base64,{content}">'
    return f'<span class="json-link">{len(found.scores)} boxes &middot; {link}Download JSON</a></span>'


def worst_images(folder: Path) -> list[tuple[str, Detections]]:
    """Return a text and the ground truth of each image of the report of a run, those with most errors first.

    Errors are missed objects and false detections at the report's operating point, by its matching.
    """
    from mmyolo_ext.evaluation.matching import match
    from mmyolo_ext.evaluation.report.write import read_report

    truth, detections, numbers = read_report(folder)
    matching = match(truth, detections)
    kept = matching.kept(numbers['operating_point']['confidence'])
    images, names = truth['images'], tuple(matching.class_names)
    false = np.bincount(matching.image[kept & (matching.partner < 0)], minlength=len(images))
    missed = np.bincount(matching.gt_image[~matching.gt_crowd], minlength=len(images))
    missed -= np.bincount(matching.image[kept & (matching.partner >= 0)], minlength=len(images))
    found = []
    for at in np.argsort(-(false + missed), kind='stable').tolist():
        own = matching.gt_image == at
        boxes = matching.gt_xywh[own]
        boxes[:, 2:] += boxes[:, :2]
        file = images[at]['file_name']
        text = f'{Path(file).name}: {missed[at]} missed, {false[at]} false'
        found.append((text, Detections(boxes, np.full(len(boxes), np.nan), matching.gt_label[own], names, image=file)))
    return found


def build(models: list[Model]) -> Any:
    """Return the page as ``gradio.Blocks``; :func:`launch` serves it."""
    os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
    os.environ['HF_HUB_DISABLE_TELEMETRY'] = '1'
    gr = need('gradio')
    by_name = {model.name: model for model in models}
    names = list(by_name)
    hide = gr.update(visible=False)
    reports = {name: model.folder / 'report' for name, model in by_name.items()}
    reports = {name: folder for name, folder in reports.items() if (folder / 'report.json').is_file()}
    worst = {name: worst_images(folder) for name, folder in reports.items()}

    def choices(name: str) -> Any:
        options = [(text, number) for number, (text, _) in enumerate(worst.get(name, []))]
        return gr.update(choices=options, value=None, visible=bool(options))

    def choose(number: int | None, name: str) -> list:
        if number is None:
            return [gr.skip(), hide]
        truth = worst[name][number][1]
        drawn = cv2.cvtColor(truth.plot(), cv2.COLOR_BGR2RGB)
        return [str(truth.image), gr.update(value=drawn, visible=True)]

    def detect(file: str | None, side: int, *chosen_names: str) -> list[Detections | None]:
        try:
            return [by_name[name].find(file, side) if file and name in by_name else None for name in chosen_names]
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error

    def show(found: list, side: int, confidence: float, nms_iou: float, exclusive: bool) -> list:
        outputs = []
        for number, one in enumerate(found):
            if one is None:
                outputs += [gr.update(visible=number == 0), None, '', []]
                continue
            kept = chosen(one, confidence, nms_iou, exclusive, MOST if side else SHOWN)
            drawn = cv2.cvtColor(kept.plot(), cv2.COLOR_BGR2RGB)
            outputs += [gr.update(visible=True), drawn, json_link(kept, str(one.image)), table(kept)]
        return outputs

    def explained(file: str | None, name: str, confidence: float) -> Any:
        if not file:
            raise gr.Error('Choose an image first.', print_exception=False)
        try:
            drawn = by_name[name].heat_map(file, confidence)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error
        return gr.update(value=cv2.cvtColor(drawn, cv2.COLOR_BGR2RGB), visible=True)

    def film(
        file: str | None,
        side: int,
        name: str,
        confidence: float,
        nms_iou: float,
        exclusive: bool,
        tracked: bool,
        progress: Any = gr.Progress(),  # noqa: B008  Gradio finds it as a default
    ) -> tuple[str, dict]:
        if not file:
            raise gr.Error('Choose a video first.', print_exception=False)
        try:
            return detect_video(by_name[name], file, side, (confidence, nms_iou, exclusive), tracked, progress)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error

    with gr.Blocks(title='mmyolo_ext', analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        source, state = gr.State(), gr.State([None, None])
        with gr.Row():
            first = gr.Dropdown(names, value=names[0], label='Model')
            second = gr.Dropdown([NO_MODEL, *names], value=names[1] if names[1:] else NO_MODEL, label='Compare with')
            confidence = gr.Slider(LOWEST, 1, 0.25, step=0.01, label='Confidence')
            nms_iou = gr.Slider(0.05, 0.95, 0.45, step=0.01, label='IoU of NMS')
            exclusive = gr.Checkbox(False, label='One class per prediction')
        controls = [confidence, nms_iou, exclusive]
        with gr.Tab('Image'):
            with gr.Row():
                image = gr.File(label='Image', file_types=['image'], type='filepath', height=140)
                example = gr.Dropdown([], label='Image of the validation set, most errors first', visible=False)
                with gr.Column(min_width=160):
                    tile = gr.Dropdown(list(TILES), value=0, label='Detect on')
                    explain = gr.Button('Heat map of model A')
            with gr.Row():
                views = [view for number in range(2) for view in result_view(gr, number)]
                truth = gr.Image(
                    label='Ground truth',
                    interactive=False,
                    format='jpeg',
                    buttons=['fullscreen'],
                    visible=False,
                    elem_id='truth',
                )
            heat = gr.Image(
                label='What the best detections depend on, by level',
                interactive=False,
                format='jpeg',
                buttons=['fullscreen'],
                visible=False,
                elem_id='heat',
            )
        with gr.Tab('Video'), gr.Row():
            with gr.Column():
                video = gr.File(label='Video', file_types=['video'], type='filepath', height=140)
                film_tile = gr.Dropdown(list(TILES), value=0, label='Detect on')
                tracked = gr.Checkbox(False, label='Number the objects (ByteTrack)')
                start = gr.Button('Detect', variant='primary')
                counts = gr.JSON(label='Counts')
            seen = gr.Video(label='Detections', interactive=False)
        if reports:
            with gr.Tab('Report') as tab:
                report = gr.HTML()
            tab.select(lambda name: frame_of(reports.get(name)), first, report)
            first.change(lambda name: frame_of(reports.get(name)), first, report)
        quick = {'show_progress': 'hidden', 'trigger_mode': 'always_last'}
        page.load(choices, first, example)
        first.change(choices, first, example)
        image.change(lambda file: [file, hide], image, [source, truth])
        example.change(choose, [example, first], [source, truth])
        for change in (source.change, first.change, second.change, tile.change):
            change(detect, [source, tile, first, second], state).then(show, [state, tile, *controls], views)
        for change in (source.change, first.change):
            change(lambda: hide, None, heat)
        explain.click(explained, [source, first, confidence], heat)
        for control in controls:
            control.change(show, [state, tile, *controls], views, **quick)
        start.click(film, [video, film_tile, first, *controls, tracked], [seen, counts])
    return page


def result_view(gr: Any, number: int) -> tuple:
    """Return column, image, link and table of one of the two models."""
    with gr.Column(visible=number == 0, elem_id=f'result-{number}') as column:
        view = gr.Image(label=f'Detections {"AB"[number]}', interactive=False, format='jpeg', buttons=['fullscreen'])
        link = gr.HTML(elem_id=f'json-{number}')
        rows = gr.Dataframe(headers=list(COLUMNS), interactive=False, max_height=300, elem_id=f'table-{number}')
    return column, view, link, rows


def frame_of(report: Path | None) -> str:
    """Return a report as a page within the page."""
    page = report and report / 'index.html'
    if page is None or not page.is_file():
        return 'This model has no report: <code>mmyolo-ext report RUN</code> writes it.'
    return f'<iframe class="report" sandbox="allow-scripts" srcdoc="{html.escape(page.read_text("utf-8"))}"></iframe>'


def detect_video(
    model: Model, file: str, side: int, thresholds: tuple[float, float, bool], tracked: bool, progress: Any
) -> tuple[str, dict]:
    """Write a WebM, which browsers play, with the boxes of a video; return its path and the counts."""
    capture = cv2.VideoCapture(file)
    count, rate = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), frame_rate(capture)
    capture.release()
    confidence, *rest = thresholds
    folder, writer = Path(tempfile.mkdtemp()), None
    frames = model.watch(file, min(confidence, LOW_SCORE) if tracked else confidence, side)
    with closing(frames), Outputs(folder, model.detector.names, ()) as outputs:
        found = (chosen(one, LOWEST, *rest, MOST if side else SHOWN) for one in frames)
        for one in track(found, confidence) if tracked else found:
            outputs.add(file, 'film', one)
            drawn = one.plot()
            if writer is None:
                code = cv2.VideoWriter_fourcc(*'VP80')
                writer = cv2.VideoWriter(str(folder / 'film.webm'), code, rate, drawn.shape[1::-1])
            writer.write(drawn)
            if one.frame % 10 == 0:
                progress((one.frame + 1, max(count, one.frame + 1)), unit='frames')
    if writer is None:
        raise ValueError(f'{Path(file).name} has no frames')
    writer.release()
    return str(folder / 'film.webm'), outputs.counts(file)


def launch(page: Any, host: str, port: int | None, most_mb: int, wait: bool = True) -> str:
    """Serve a page and return its address; no request leaves this machine, and only ``host`` is listened on."""
    gr = need('gradio')
    theme = gr.themes.Soft(font=['system-ui', 'sans-serif'], font_mono=['ui-monospace', 'monospace'])
    page.queue(default_concurrency_limit=1)
    _, address, _ = page.launch(
        **{'server_name': host, 'server_port': port, 'share': False, 'max_file_size': f'{most_mb}mb'},
        **{
            'theme': theme,
            'css': CSS,
            'ssr_mode': False,
            'footer_links': [],
            'quiet': True,
            'prevent_thread_lock': True,
        },
    )
    print(f'open {address} (Ctrl-C ends)', flush=True)
    if wait:
        page.block_thread()
    return address
