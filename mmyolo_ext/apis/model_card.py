"""Write model cards for Hugging Face, with the metrics, data and origin of published weights."""

import platform
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import mmcv
import mmdet
import mmengine
import torch
from mmengine.config import Config

from mmyolo_ext.apis.config_nodes import kind, leaf_datasets, walk
from mmyolo_ext.checkpoint.config_text import parse_plain_parts
from mmyolo_ext.checkpoint.conversion import detect
from mmyolo_ext.checkpoint.model_zoo import is_zoo_name, origins_in
from mmyolo_ext.checkpoint.resuming import history_of
from mmyolo_ext.checkpoint.safe_load import read_checkpoint
from mmyolo_ext.export.runtime import need
from mmyolo_ext.registry import DATASETS
from mmyolo_ext.version import __version__

METRIC_NAMES = {'bbox_mAP': 'AP50-95', 'bbox_mAP_50': 'AP50', 'bbox_mAP_75': 'AP75', 'mAP': 'AP50'}
CLASS_SUFFIX = '_precision'  # of the metric of one class
LOADERS = {'training': 'train_dataloader', 'validation': 'val_dataloader', 'test': 'test_dataloader'}
# the licence of the tool that writes a format, which its owners claim for weights trained with it
FORMAT_LICENCES = {'ultralytics': 'AGPL-3.0', 'mmyolo': 'GPL-3.0'}
# the first entry with a part that occurs in a source applies
SOURCE_LICENCES = {
    'AGPL-3.0': ('ultralytics',),
    'GPL-3.0': ('openmmlab.com/mmyolo/',),
    'BSD-3-Clause': ('torchvision://', 'download.pytorch.org/'),
    'Apache-2.0': ('mmcls://', 'open-mmlab://', 'openmmlab.com/'),
}


class Metrics(NamedTuple):
    """Average precisions from 0 to 1, by the names of the metric without prefix, and how they were measured."""

    values: dict[str, float]
    source: str

    @property
    def overall(self) -> dict[str, float]:
        """Return the metrics over all classes by their usual names, the most important first."""
        return {METRIC_NAMES[name]: self.values[name] for name in METRIC_NAMES if name in self.values}


@dataclass(frozen=True)
class Origin:
    """Weights that a training started from: an address or the name of a file, its format and its licence."""

    source: str
    format: str | None = None
    licence: str | None = None
    note: str = ''

    def __str__(self) -> str:
        form = f'format of {self.format}' if self.format else ''
        parts = (form, f'licence {self.licence or "unknown"}', self.note)
        return f'{self.source} ({", ".join(part for part in parts if part)})'


def write_card(
    path: Path,
    cfg: Config,
    facts: Mapping[str, str],
    classes: Sequence[str],
    training: Mapping[str, object],
    metrics: Metrics | None,
    licence: str | None,
    origins: Sequence[Origin],
    origin_note: str | None,
) -> None:
    """Write the model card of published weights.

    Args:
        path: File to write; ``.pth`` and ``.py`` of the same stem are the weights and the config.
        cfg: The published config.
        facts: ``model``, ``precision``, ``sha256`` and ``activation`` of the weights, as text.
        classes: Class names.
        training: Epochs, iterations and seed, where known.
        metrics: Average precisions, None if unknown.
        licence: Of the weights, None if not stated.
        origins: What the training started from.
        origin_note: The publisher's statement about that.

    Raises:
        ValueError: If huggingface_hub is not installed.
    """
    hub = need('huggingface_hub', 'pip install huggingface_hub')
    name, data_text, evaluated = path.stem, *_data(cfg, classes, metrics)
    overall, task = metrics.overall if metrics else {}, 'object-detection'
    results = [
        hub.EvalResult(task, evaluated, evaluated, 'mean_average_precision', round(value, 4), metric_name=metric)
        for metric, value in overall.items()
    ]
    header = hub.ModelCardData(
        license=(licence or 'unknown').lower(),
        library_name='mmyolo_ext',
        pipeline_tag=task,
        tags=[task, 'mmdetection'],
        model_name=name,
        eval_results=results or None,
    )
    ap = 'Not measured.'
    if metrics:
        ap = _table([list(overall), [f'{value:.4f}' for value in overall.values()]])
        ap += f'\n\nOn {evaluated}, {metrics.source}.'
    start = [*origins, *([origin_note] if origin_note else ())] or ['random weights, according to the config']
    modules = (torch, mmengine, mmcv, mmdet)
    versions = {'Python': platform.python_version(), **{module.__name__: module.__version__ for module in modules}}
    rows = [[key, str(value)] for key, value in {**training, **versions, 'mmyolo_ext': __version__}.items()]
    sections = [
        f'# {name}',
        facts['model'],
        '## Average precision',
        ap,
        '## Data',
        data_text,
        '## Input and output',
        _bullets([*_input(cfg), f'class scores by {facts["activation"]}']),
        '## Licence and origin',
        f'These weights: {licence or "not stated"}.',
        _bullets([f'Start: {origin}.' for origin in start]),
        *(f'**{warning}**' for warning in licence_warnings(origins, licence)),
        '## Files',
        _bullets([f'`{name}.pth`: {facts["precision"]}; SHA-256 {facts["sha256"]}', f'`{name}.py`: complete config']),
        f'```bash\npython tools/predict.py {name}.py {name}.pth image.jpg\n'
        f'python tools/test.py {name}.py {name}.pth\n```',
        f"A config with `_base_ = '{name}.py'` starts training from these weights.",
        '## Training and versions',
        _table([['', ''], *rows]),
    ]
    hub.ModelCard(f'---\n{header.to_yaml()}\n---\n\n' + '\n\n'.join(sections) + '\n').save(path)


def licence_warnings(origins: Sequence[Origin], licence: str | None) -> list[str]:
    """Return a sentence for each origin with a copyleft licence."""
    return [
        f'{origin.source} is under {origin.licence}, which also applies to derived work: make sure that you may '
        f'distribute these weights under {licence or "your terms"}.'
        for origin in origins
        if (origin.licence or '').upper().startswith(('AGPL', 'GPL'))
    ]


def known_metrics(content: Mapping[str, Any]) -> Metrics | None:
    """Return the metrics that a best checkpoint holds of itself.

    Other checkpoints are saved before their own validation and hold metrics of an earlier one; for them it is None.
    """
    meta, hub = content.get('meta') or {}, content.get('message_hub') or {}
    info = hub.get('runtime_info') or {}
    best = [str(value) for key, value in info.items() if str(key).startswith('best_ckpt') and value]
    suffixes = (f'_epoch_{meta.get("epoch")}.pth', f'_iter_{meta.get("iter")}.pth')
    if not any(path.endswith(suffixes) for path in best):
        return None
    values = {}
    for name, scalar in (hub.get('log_scalars') or {}).items():
        metric, history = name.rpartition('/')[2], history_of(scalar)
        if name.startswith('val/') and history and (metric in METRIC_NAMES or metric.endswith(CLASS_SUFFIX)):
            values[metric] = float(history.current())
    return Metrics(values, 'by the validation of its training, in float32') if values else None


def find_origins(config: Mapping[str, Any], content: Any, name: str) -> list[Origin]:
    """Return what a checkpoint was trained from, following the files that exist; nothing in them is executed.

    Args:
        config: Config of the training; the one in the checkpoint counts too.
        content: The checkpoint, from ``read_checkpoint``.
        name: Name of its file.
    """
    seen: set[str] = set()
    found = _origins_of_content(content, name, seen)
    for source in pretrained_sources(config):
        found += _origins_of_source(source, seen)
    return list(dict.fromkeys(found))


def pretrained_sources(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a config loads weights from: ``load_from``, ``init_cfg``, ``pretrained`` and ``weights``."""
    if isinstance(config.get('load_from'), str):
        yield config['load_from']
    for node in walk(config.get('model')):
        yield from (init['checkpoint'] for init in pretrained_inits(node) if isinstance(init.get('checkpoint'), str))
        yield from (node[key] for key in ('pretrained', 'weights') if isinstance(node.get(key), str))
        if node.get('pretrained') is True:
            yield f'{kind(node)} {node.get("model_name", "")}'.strip()


def pretrained_inits(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the entries of type Pretrained in the ``init_cfg`` of a module's config."""
    inits = node.get('init_cfg')
    inits = inits if isinstance(inits, (list, tuple)) else [inits]
    return [init for init in inits if isinstance(init, Mapping) and kind(init) == 'Pretrained']


def _origins_of_source(source: str, seen: set[str]) -> list[Origin]:
    if source in seen:
        return []
    seen.add(source)
    if is_zoo_name(source):
        return [Origin(**entry) for entry in origins_in({'load_from': source})] or [Origin(source)]
    licences = [name for name, parts in SOURCE_LICENCES.items() if any(part in source.lower() for part in parts)]
    licence = licences[0] if licences else None
    if '://' in source or not re.search(r'\.\w+$', source):  # an address, or a model name of timm
        return [Origin(source, licence=licence)]
    path = Path(source).expanduser()
    if path.suffix == '.weights':
        return [Origin(path.name, 'darknet', licence)]
    try:
        content = read_checkpoint(path)
    except (OSError, ValueError):
        return [Origin(path.name, licence=licence, note='the file cannot be read here')]
    known = _origins_of_content(content, path.name, seen)
    return known or [Origin(path.name, detect(content), licence or meta_of(content).get('license'))]


def _origins_of_content(content: Any, name: str, seen: set[str]) -> list[Origin]:
    form = detect(content)
    if form in FORMAT_LICENCES:
        return [Origin(name, form, FORMAT_LICENCES[form])]
    meta, fields = meta_of(content), set(asdict(Origin('')))
    found = []
    if converted := re.fullmatch(r'(.+) \((\w+)\)', str(meta.get('converted_from'))):
        found.append(Origin(converted[1], converted[2], FORMAT_LICENCES.get(converted[2])))
    # a published file lists its origins
    for entry in meta['origins'] if isinstance(meta.get('origins'), list) else ():
        if isinstance(entry, dict) and set(entry) == fields and all(isinstance(v, str | None) for v in entry.values()):
            found.append(Origin(**entry))
    for source in pretrained_sources(parse_plain_parts(meta.get('cfg'))):
        found += _origins_of_source(source, seen)
    return found


def meta_of(content: Any) -> Mapping[str, Any]:
    """Return the meta of a checkpoint; empty if it has none."""
    meta = content.get('meta') if isinstance(content, Mapping) else None
    return meta if isinstance(meta, Mapping) else {}


def _data(cfg: Config, classes: Sequence[str], metrics: Metrics | None) -> tuple[str, str]:
    """Return the tables of images per split and boxes per class, and the name of the evaluated data."""
    splits, columns, evaluated = [['split', 'data', 'images']], [['class', *classes]], 'not stated'
    loaders = [(role, cfg[key]['dataset']) for role, key in LOADERS.items() if cfg.get(key)]
    for role, leaf in ((role, leaf) for role, dataset in loaders for leaf in leaf_datasets(dataset)):
        counted, evaluated = _count(leaf), _dataset_name(leaf)  # the last one: test, if the config has it
        splits.append([role, evaluated, f'{counted[0]:,}' if counted else 'not available'])
        if counted:
            columns.append([f'boxes, {role}', *(f'{counted[1][name]:,}' for name in classes)])
    by_class = [metrics.values.get(name + CLASS_SUFFIX) if metrics else None for name in classes]
    if any(value is not None for value in by_class):
        columns.append(['AP50-95', *('' if value is None else f'{value:.4f}' for value in by_class)])
    return f'{_table(splits)}\n\n{_table(list(zip(*columns, strict=True)))}', evaluated


def _count(leaf: dict) -> tuple[int, Counter] | None:
    """Return the number of images and of boxes per class name, without opening images; None if it cannot be built."""
    try:
        dataset = DATASETS.build({**leaf, 'pipeline': []})
        infos = [dataset.get_data_info(index) for index in range(len(dataset))]
        names = dataset.metainfo['classes']
    except Exception:  # each dataset class reports missing files in its own way
        return None
    boxes = [box for info in infos for box in info.get('instances', ()) if not box.get('ignore_flag')]
    return len(infos), Counter(names[box['bbox_label']] for box in boxes)


def _dataset_name(leaf: dict) -> str:
    """Return for example ``bccd/annotations/test.json``, without the folders of this machine."""
    root, file = str(leaf.get('data_root') or ''), str(leaf.get('ann_file') or leaf.get('data_yaml') or '')
    parts = Path(file).parts[-2:] if Path(file).is_absolute() else (*Path(root).parts[-1:], *Path(file).parts)
    return '/'.join(part for part in parts if part != '/') or str(leaf['type'])


def _input(cfg: Config) -> list[str]:
    """Return the steps from an image to the network input, with their arguments."""
    steps = next(leaf_datasets(cfg.test_dataloader.dataset)).pipeline
    steps = [dict(step) for step in steps if kind(step) in ('Letterbox', 'Resize', 'Pad')]
    lines = [f'{step.pop("type")}: {", ".join(f"{key} {value}" for key, value in step.items())}' for step in steps]
    preprocessor = cfg.model.get('data_preprocessor') or {}
    if preprocessor.get('mean') is not None:
        order, (mean, std) = 'RGB' if preprocessor.get('bgr_to_rgb') else 'BGR', map(preprocessor.get, ('mean', 'std'))
        lines.append(f'channels in the order {order}, (pixel - mean) / std with mean {list(mean)}, std {list(std)}')
    return lines


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = [rows[0], ['---'] * len(rows[0]), *rows[1:]]
    return '\n'.join(f'| {" | ".join(cell.replace("|", chr(92) + "|") for cell in line)} |' for line in lines)


def _bullets(lines: Sequence[str]) -> str:
    return '\n'.join(f'- {line}' for line in lines)
