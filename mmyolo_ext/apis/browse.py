"""Show what the network receives in training, and which predictions its assigner makes responsible for which box."""

import base64
import html
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import Tensor, nn

from mmyolo_ext.apis.results import class_colour
from mmyolo_ext.registry import MODELS

UNMATCHED = (0, 0, 255)  # BGR of boxes without positives
IGNORED = (150, 150, 150)
PANEL = 480  # px, least longer side of a panel
PAGE_STYLE = """:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:1600px;margin:2rem auto;
padding:0 1rem}figure{margin:2rem 0}img{width:100%;border-radius:6px}figcaption{white-space:pre-line}"""


@dataclass
class Positive:
    """A prediction that a box of the ground truth supervises.

    Attributes:
        part: The assigner that chose it, such as ``bbox_head.assigner``.
        box: Index of the box in its image.
        level: Index of the feature level; -1 if unknown, as for proposals and queries.
        anchor: Index of the anchor in its cell; -1 if unknown.
        cell_xy: Column and row of the cell; None if unknown.
        prior: The anchor, proposal or query, xyxy px of the network input; a point is a box without area.
    """

    part: str
    box: int
    level: int
    anchor: int
    cell_xy: tuple[int, int] | None
    prior: tuple[float, float, float, float]


@dataclass
class Browsed:
    """One image as the network receives it.

    Attributes:
        image: (H, W, 3) BGR uint8.
        path: File of the image, the first one of a mosaic.
        boxes_xyxy: (G, 4) px of the network input.
        labels: (G,).
        ignored_xyxy: Boxes of the ignore regions.
        names: Of the classes.
        positives: Of all assigners; None if the model has none that could be asked.
    """

    image: np.ndarray
    path: str
    boxes_xyxy: np.ndarray
    labels: np.ndarray
    ignored_xyxy: np.ndarray
    names: Sequence[str]
    positives: list[Positive] | None = field(default_factory=list)

    def unmatched(self, part: str) -> list[int]:
        """Return the boxes to which an assigner gave no positives."""
        found = {one.box for one in self.positives or () if one.part == part}
        return [box for box in range(len(self.boxes_xyxy)) if box not in found]


def browse(cfg: Config, count: int = 8, checkpoint: str | None = None) -> tuple[list[Browsed], str]:
    """Return images of the training as the network receives them, with the positives.

    The train loader's own dataset, pipeline, collate function and the model's data preprocessor run, without workers.

    Args:
        cfg: Config as of ``read_run_config``.
        count: Number of images.
        checkpoint: Weights for assigners that look at predictions (SimOTA, TAL); without, they are random.

    Returns:
        The images, and one line that says where the positives come from.
    """
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    seed = (cfg.get('randomness') or {}).get('seed') or 0
    torch.manual_seed(seed)
    np.random.seed(seed)
    model = MODELS.build(cfg.model)
    if checkpoint:
        from mmyolo_ext.apis.start import check_checkpoint
        from mmyolo_ext.checkpoint.mmengine_loader import install_reader

        install_reader()
        check_checkpoint(checkpoint)
        from mmengine.runner import load_checkpoint

        load_checkpoint(model, checkpoint, map_location='cpu', logger='silent')
    model.train()
    loader = Runner.build_dataloader(
        {**cfg.train_dataloader, 'num_workers': 0, 'persistent_workers': False}, seed=seed
    )
    names = (getattr(loader.dataset, 'metainfo', None) or {}).get('classes') or ()
    found, source = [], ''
    for batch in loader:
        data = model.data_preprocessor(batch, training=True)
        images = list(_images(data, model.data_preprocessor, names))
        positives, source = find_positives(model, data)
        for index, one in enumerate(images):
            one.positives = None if positives is None else positives[index]
        found += images
        if len(found) >= count:
            break
    return found[:count], source


def _images(data: dict, preprocessor: nn.Module, names: Sequence[str]) -> Iterator[Browsed]:
    """Undo normalization and channel order."""
    inputs = data['inputs']
    if getattr(preprocessor, '_enable_normalize', False):
        inputs = inputs * preprocessor.std + preprocessor.mean
    for pixels, sample in zip(inputs, data['data_samples'], strict=True):
        pixels = pixels.permute(1, 2, 0).clamp(0, 255).round().byte().cpu().numpy()
        image = np.ascontiguousarray(pixels[..., ::-1] if preprocessor._channel_conversion else pixels)
        gt, ignored = sample.gt_instances, sample.get('ignored_instances')
        regions = np.zeros((0, 4)) if ignored is None else _numpy(ignored.bboxes)
        path = sample.metainfo.get('img_path') or ''
        yield Browsed(image, str(path), _numpy(gt.bboxes), gt.labels.cpu().numpy(), regions, names)


def _numpy(boxes: Any) -> np.ndarray:
    return getattr(boxes, 'tensor', boxes).detach().float().cpu().numpy().reshape(-1, 4)


def find_positives(model: nn.Module, data: dict) -> tuple[list[list[Positive]] | None, str]:
    """Return the positives of each image, and where they come from.

    Heads of this package are asked directly. Of others, one loss is computed while the calls of their assigners are
    recorded; FCOS, which has none, is asked by ``get_targets``.
    """
    head = getattr(model, 'bbox_head', None)
    with torch.no_grad():
        if hasattr(getattr(head, 'assigner', None), 'prior_match_thr') or hasattr(head, 'anchors_wh'):
            return _ours(
                model, head, data
            ), f"positives by {type(head.assigner).__name__}, this package's own assigner"
        return _recorded(model, data)


def _ours(model: nn.Module, head: nn.Module, data: dict) -> list[list[Positive]]:
    from mmyolo_ext.models.heads.targets import collect_boxes

    samples = [sample.gt_instances for sample in data['data_samples']]
    gt = collect_boxes(samples, data['inputs'].device)
    gt.labels = torch.cat([item.labels for item in samples]).long()
    first = np.cumsum([0, *(len(item) for item in samples)])
    pred_maps = head(model.extract_feat(data['inputs']))[0]
    found = [[] for _ in samples]
    for level, matches in enumerate(head.assign(gt, pred_maps)):
        stride, anchors_wh = head.strides[level], head.anchors_wh[level]
        fields = (values.tolist() for values in matches.without_padding()[:5])
        for image, anchor, y, x, box in zip(*fields, strict=True):
            width, height = anchors_wh[anchor].tolist()
            center_x, center_y = (x + 0.5) * stride, (y + 0.5) * stride
            prior = (center_x - width / 2, center_y - height / 2, center_x + width / 2, center_y + height / 2)
            one = Positive('bbox_head.assigner', int(box - first[image]), level, anchor, (x, y), prior)
            found[image].append(one)
    return found


def _recorded(model: nn.Module, data: dict) -> tuple[list[list[Positive]] | None, str]:
    """Compute a loss of mmdet's model and read what its assigners returned."""
    count, calls, grids = len(data['data_samples']), [], {}
    with ExitStack() as stack:
        for part, owner, assigner in list(_assigners(model)):
            stack.enter_context(patch.object(assigner, 'assign', _recording(assigner.assign, part, calls)))
            generator = getattr(owner, 'prior_generator', None)
            if generator is not None and hasattr(generator, 'grid_priors'):
                grid = _keeping(generator.grid_priors, grids, part)
                stack.enter_context(patch.object(generator, 'grid_priors', grid))
        head = getattr(model, 'bbox_head', None)
        points = hasattr(head, '_get_targets_single') and hasattr(head, 'regress_ranges') and not calls
        if points:
            kept = {}
            stack.enter_context(patch.object(head, 'get_targets', _keeping(head.get_targets, kept, 'targets')))
            stack.enter_context(
                patch.object(
                    head.prior_generator, 'grid_priors', _keeping(head.prior_generator.grid_priors, grids, '')
                )
            )
        # some losses change the samples
        samples = [sample.clone() for sample in data['data_samples']]
        model.loss(data['inputs'], samples)
    if points and 'targets' in kept:
        return _of_points(head, kept['targets'], grids[''], data), "positives by the head's own get_targets"
    if not calls:
        return None, f'no positives: {type(head or model).__name__} has no assigner that could be asked'
    found, seen = [[] for _ in range(count)], Counter()
    for part, priors, gt_indices in calls:
        image, seen[part] = seen[part] % count, seen[part] + 1
        chosen = (gt_indices > 0).nonzero().flatten()
        boxes, priors = (gt_indices[chosen] - 1).tolist(), priors[chosen]
        places = _places(priors, grids.get(part))
        for box, prior, place in zip(boxes, _corners(priors).tolist(), places, strict=True):
            found[image].append(Positive(part, box, *place, tuple(prior)))
    return found, f"positives by the head's own {', '.join(sorted(seen))}"


def _assigners(model: nn.Module) -> Iterator[tuple[str, nn.Module, Any]]:
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if 'assigner' not in key or key == 'initial_assigner' and getattr(module, 'epoch', 0):
                continue
            several = value if isinstance(value, (list, tuple)) else [value]
            for index, one in enumerate(several):
                if hasattr(one, 'assign'):
                    yield f'{name}.{key}' + (f'[{index}]' if len(several) > 1 else ''), module, one


def _recording(assign: Callable, part: str, calls: list) -> Callable:
    def record(pred_instances: Any, *args: Any, **kwargs: Any) -> Any:
        result = assign(pred_instances, *args, **kwargs)
        priors = pred_instances.get('priors', pred_instances.get('bboxes'))
        if priors is not None:
            calls.append((part, getattr(priors, 'tensor', priors).detach(), result.gt_inds.detach()))
        return result

    return record


def _keeping(function: Callable, kept: dict, key: str) -> Callable:
    def call(*args: Any, **kwargs: Any) -> Any:
        kept[key] = function(*args, **kwargs)
        return kept[key]

    return call


def _places(priors: Tensor, grid: list[Tensor] | None) -> list[tuple[int, int, None]]:
    """Return the level of each prior, found by its coordinates in the grids of all levels; -1 if in none."""
    levels = torch.full((len(priors),), -1)
    for level, here in enumerate(grid or ()):
        here = getattr(here, 'tensor', here)
        if here.shape[1:] != priors.shape[1:]:
            continue
        if _are_points(here) and _are_points(priors):  # some heads move points to the middle of their cells
            levels[(priors[:, 2] == here[0, 2]).cpu()] = level
        else:
            for start in range(0, len(priors), 64):
                same = (priors[start : start + 64, None] == here[None]).all(-1).any(1)
                levels[start : start + 64][same.cpu()] = level
    return [(level, -1, None) for level in levels.tolist()]


def _corners(priors: Tensor) -> Tensor:
    """Return priors as boxes; points (x, y) and (x, y, stride, stride) become boxes without area."""
    return priors[:, [0, 1, 0, 1]] if priors.shape[1] == 2 or _are_points(priors) else priors[:, :4]


def _are_points(priors: Tensor) -> bool:
    """Return whether priors (K, 4) are points with the stride of their level, 4, 8 and so on to 128, in x and y."""
    strides = priors[:, 2:]
    powers = torch.isin(strides, strides.new_tensor([4, 8, 16, 32, 64, 128])).all()
    return bool(len(priors) and powers and (strides == strides[:, :1]).all())


def _of_points(head: nn.Module, targets: tuple, grid: list[Tensor], data: dict) -> list[list[Positive]]:
    """Read FCOS's targets: by level, (N * points,) labels and (N * points, 4) distances to the sides of a box."""
    count = len(data['data_samples'])
    gt = [torch.from_numpy(_numpy(sample.gt_instances.bboxes)) for sample in data['data_samples']]
    found = [[] for _ in range(count)]
    for level, (labels, distances, points) in enumerate(zip(*targets[:2], grid, strict=True)):
        scale = head.strides[level] if getattr(head, 'norm_on_bbox', False) else 1
        for index in (labels < head.num_classes).nonzero().flatten().tolist():
            image, place = divmod(index, len(points))
            point, (left, top, right, bottom) = points[place], (distances[index] * scale).tolist()
            x, y = point.tolist()
            box = gt[image].new_tensor([x - left, y - top, x + right, y + bottom])
            nearest = int((gt[image] - box).abs().sum(1).argmin())
            stride = head.strides[level]
            found[image].append(
                Positive('bbox_head', nearest, level, 0, (int(x // stride), int(y // stride)), (x, y, x, y))
            )
    return found


def summary(found: Sequence[Browsed]) -> list[str]:
    """Return per assigner the number of positives by level and the boxes without any."""
    boxes = sum(len(one.boxes_xyxy) for one in found)
    lines = [f'{len(found)} images, {boxes} boxes, {sum(len(one.ignored_xyxy) for one in found)} ignore regions']
    for part in sorted({positive.part for one in found for positive in one.positives or ()}):
        levels = Counter(p.level for one in found for p in one.positives or () if p.part == part)
        text = ', '.join(
            f'{"proposals or queries" if level < 0 else f"level {level}"}: {count}'
            for level, count in sorted(levels.items())
        )
        missing = sum(len(one.unmatched(part)) for one in found)
        lines.append(f'{part}: {sum(levels.values())} positives ({text}); {missing} of {boxes} boxes without any')
    return lines


def draw(one: Browsed) -> np.ndarray:
    """Return the image with its boxes; beside it, for each assigner a row with the positives of each level.

    Boxes and their positives have one colour; boxes without any positive on any level are red.
    """
    factor = max(1, math.ceil(PANEL / max(one.image.shape[:2])))
    image = cv2.resize(one.image, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    first = image.copy()
    for box, label in zip(one.boxes_xyxy, one.labels, strict=True):
        name = one.names[label] if label < len(one.names) else str(label)
        _box(first, box * factor, class_colour(int(label)), 2, name)
    for box in one.ignored_xyxy * factor:
        x1, y1, x2, y2 = (max(0, round(float(side))) for side in box)
        first[y1:y2, x1:x2] = first[y1:y2, x1:x2] // 2 + 75
        _box(first, box, IGNORED, 2, 'ignored')
    rows = [[first]]
    parts = sorted({positive.part for positive in one.positives or ()})
    for row, part in enumerate(parts or ([] if one.positives is None else [''])):
        mine = [positive for positive in one.positives if positive.part == part]
        panels = [_panel(one, image, part, mine, level, factor) for level in sorted({p.level for p in mine} or {0})]
        rows += [] if row == 0 else [[np.zeros_like(first)]]
        rows[row] += panels
    width = max(map(len, rows))
    rows = [panels + [np.zeros_like(first)] * (width - len(panels)) for panels in rows]
    return np.concatenate([np.concatenate(panels, axis=1) for panels in rows])


def _panel(one: Browsed, image: np.ndarray, part: str, mine: list[Positive], level: int, factor: int) -> np.ndarray:
    panel = image // 2 + 40
    here = [positive for positive in mine if positive.level == level]
    missing = set(one.unmatched(part))
    for index, box in enumerate(one.boxes_xyxy * factor):
        colour = UNMATCHED if index in missing else class_colour(index)
        _box(panel, box, colour, 2 if index in missing else 1, 'no positive' if index in missing else '')
    for positive in here:
        x1, y1, x2, y2 = (side * factor for side in positive.prior)
        centre = (round((x1 + x2) / 2), round((y1 + y2) / 2))
        box = one.boxes_xyxy[positive.box] * factor
        middle = (round(float(box[0] + box[2]) / 2), round(float(box[1] + box[3]) / 2))
        cv2.line(panel, centre, middle, class_colour(positive.box), 1, cv2.LINE_AA)
        cv2.circle(panel, centre, 3, class_colour(positive.box), -1, cv2.LINE_AA)
    name = 'proposals' if level < 0 else f'level {level}'
    boxes = len({positive.box for positive in here})
    _text(panel, f'{part} {name}: {len(here)} positives of {boxes} boxes', (6, 18), (255, 255, 255))
    return panel


def _box(image: np.ndarray, box: np.ndarray, colour: tuple, thick: int, name: str) -> None:
    x1, y1, x2, y2 = (int(round(float(side))) for side in box)
    cv2.rectangle(image, (x1, y1), (x2, y2), colour, thick, cv2.LINE_AA)
    if name:
        _text(image, name, (max(x1, 0) + 2, max(y1 - 3, 12)), colour)


def _text(image: np.ndarray, text: str, corner: tuple[int, int], colour: tuple) -> None:
    for shade, thick in (((0, 0, 0), 3), (colour, 1)):
        cv2.putText(image, text, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.45, shade, thick, cv2.LINE_AA)


def write(found: Sequence[Browsed], source: str, folder: Path, page: bool, title: str) -> list[Path]:
    """Write one JPEG per image, or one self-contained page of them, and all boxes and positives as positives.json."""
    folder.mkdir(parents=True, exist_ok=True)
    content = [
        {'image': one.path, 'boxes_xyxy': one.boxes_xyxy.round(2).tolist(), 'labels': one.labels.tolist()}
        | {'positives': None if one.positives is None else [asdict(positive) for positive in one.positives]}
        for one in found
    ]
    (folder / 'positives.json').write_text(json.dumps(content), encoding='utf-8')
    files, figures = [folder / 'positives.json'], []
    for index, one in enumerate(found):
        content = cv2.imencode('.jpg', draw(one), [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()
        if page:
            caption = '\n'.join([one.path, *summary([one])[1:]])
            data = base64.b64encode(content).decode()
            figures.append(
                f'<figure><img alt="{html.escape(Path(one.path).name)}" src="data:image/jpeg;base64,{data}">'
                f'<figcaption>{html.escape(caption)}</figcaption></figure>'
            )
        else:
            files.append(folder / f'{index:03}_{Path(one.path).stem}.jpg')
            files[-1].write_bytes(content)
    if not page:
        return files
    lines = ''.join(f'<li>{html.escape(line)}</li>' for line in [*summary(found), source])
    text = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<style>{PAGE_STYLE}</style><h1>{html.escape(title)}</h1><ul>{lines}</ul><p>Left: boxes and ignore regions '
        'as the network receives them. Right: the centres of the positives of each level, in the colour of their box; '
        'boxes without any positive are red.</p>'
        f'{"".join(figures)}</html>'
    )
    (folder / 'index.html').write_text(text, encoding='utf-8')
    return [*files, folder / 'index.html']
