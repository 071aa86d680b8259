"""Publish a checkpoint: write the validated weights, their complete config and a model card, and check them."""

import hashlib
import os
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mmyolo_ext.apis import model_card
from mmyolo_ext.apis.config import load_config
from mmyolo_ext.apis.config_nodes import leaf_datasets, walk
from mmyolo_ext.apis.inference import Detector
from mmyolo_ext.apis.torch_model import class_names_of
from mmyolo_ext.checkpoint.config_text import parse_config
from mmyolo_ext.checkpoint.matching import fit
from mmyolo_ext.checkpoint.mmengine_loader import install_reader, read_weights
from mmyolo_ext.checkpoint.safe_load import read_checkpoint
from mmyolo_ext.checkpoint.writing import pack, slim
from mmyolo_ext.engine.runner import Runner
from mmyolo_ext.registry import MODELS
from mmyolo_ext.version import __version__

# The config keys that influence predictions, and keys in them that do not.
INFLUENTIAL = ('model', 'test_dataloader')
IGNORED = ('data_root', 'num_workers', 'persistent_workers', 'prefetch_factor', 'pin_memory', 'init_cfg', 'pretrained')
ABSOLUTE_PATH = re.compile(r"'((?:/|~|[A-Za-z]:[\\/])[\w.][^']*)'")  # in the text of a config
HALF_SHARE = 0.05  # of the largest output: the error of float16 weights after some sixty layers


class Published(NamedTuple):
    """The files, their difference to the source, and notes and warnings for the publisher."""

    files: tuple[Path, ...]
    difference: str
    notes: list[str]
    warnings: list[str]


def publish(
    cfg: Config,
    checkpoint: Path,
    out: Path,
    *,
    half: bool = True,
    licence: str | None = None,
    origin: str | None = None,
    metrics: model_card.Metrics | None = None,
    test: bool = False,
    force: bool = False,
) -> Published:
    """Write the weights, their config and the model card once they have passed the check.

    Args:
        cfg: Config of the training, read by ``load_config``.
        checkpoint: Checkpoint of the training; not changed.
        out: ``.pth`` file to write, whose name gets the first digits of its SHA-256.
        half: Store float16, except for the statistics of norm layers.
        licence: Of the weights.
        origin: Statement for the card about what the training started from.
        metrics: Average precisions for the card; by default those known for this checkpoint.
        test: Measure the average precisions of the published file on the test data.
        force: Overwrite existing files.

    Raises:
        ValueError: If the checkpoint does not fit the config or has other classes, if a file exists already, or if the
            published weights differ from the source.
    """
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    content, model, classes = _read_source(cfg, checkpoint)
    parts = content if isinstance(content, Mapping) else {}
    origins = model_card.find_origins(cfg, content, checkpoint.name)
    trained = model_card.meta_of(content)
    changed = changed_keys(cfg, trained)
    state_dict, wide = slim(model.state_dict(), half)
    cfg = portable_config(cfg)
    text = cfg.pretty_text
    # without times and paths, so that the same weights get the same name again
    meta = {'cfg': text, 'dataset_meta': {'classes': classes}, 'mmyolo_ext_version': __version__}
    meta |= {'origins': [asdict(one) for one in origins]} if origins else {}
    meta |= {'license': licence} if licence else {}
    data, digits = pack(state_dict, meta)
    targets = [out.parent / f'{out.stem}-{digits}{suffix}' for suffix in ('.pth', '.py', '.md')]
    existing = [str(target) for target in targets if target.exists()]
    if existing and not force:
        raise ValueError(f'{", ".join(existing)} exists already: --force overwrites it')
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix='.publish') as folder:
        weights, config, card = (Path(folder) / target.name for target in targets)
        weights.write_bytes(data)
        source = ' '.join(checkpoint.name.split())
        start = f"load_from = '{{{{ fileDirname }}}}/{weights.name}'"
        lines = [start if line == 'load_from = None' else line for line in text.splitlines()]
        lines = [f'# Written by tools/publish.py for {weights.name}, from {source}.', *lines, '']
        config.write_text('\n'.join(lines), encoding='utf-8')
        difference = _check(config, weights, model, classes, half)
        if test:
            metrics = evaluate(config, weights)
        elif metrics is None and not changed:
            metrics = model_card.known_metrics(parts)
        facts = _facts(cfg, model, classes, weights, half)
        training = {key: trained[key] for key in ('epoch', 'iter', 'seed') if trained.get(key) is not None}
        model_card.write_card(card, cfg, facts, classes, training, metrics, licence, origins, origin)
        # the weights last: once they exist, the others do
        for file, target in zip((card, config, weights), reversed(targets), strict=True):
            os.replace(file, target)
    notes = _notes(parts, wide, half)
    warnings = model_card.licence_warnings(origins, licence) + _warnings(cfg, metrics, licence, changed)
    return Published(tuple(targets), difference, notes, warnings)


def evaluate(config: Path, checkpoint: Path) -> model_card.Metrics:
    """Evaluate a published file on the test data of its config."""
    install_reader()
    cfg = load_config(config)
    with TemporaryDirectory() as folder:
        cfg.work_dir, cfg.load_from, cfg.resume = folder, str(checkpoint), False
        values = Runner.from_cfg(cfg).test()
    values = {name.rpartition('/')[2]: value for name, value in values.items()}
    return model_card.Metrics(values, 'measured with this file')


def _read_source(cfg: Config, path: Path) -> tuple[Any, nn.Module, tuple[str, ...]]:
    """Return the content of a checkpoint, the model with exactly its weights, and its class names."""
    content, saved = read_checkpoint(path), read_weights(path)
    dataset_meta = model_card.meta_of(saved).get('dataset_meta') or {}
    classes = {str(key).lower(): value for key, value in dataset_meta.items()}.get('classes')
    if not classes:
        raise ValueError(f'{path} has no class names in its meta: publish the checkpoint that training wrote')
    classes = (classes,) if isinstance(classes, str) else tuple(classes)
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).eval()
    report, _ = fit(model, saved, start_anew=False)
    if not report.complete:
        raise ValueError(f'{path} does not fit the model of the config: {report}. Was it trained with this config?')
    model.load_state_dict(saved['state_dict'], strict=False)
    expected = class_names_of(next(leaf_datasets(cfg.test_dataloader.dataset)))
    if expected is not None and expected != classes:
        raise ValueError(f'{path} has the classes {classes}, the config {expected}: give the config of its training')
    return content, model, classes


def changed_keys(cfg: Config, meta: Mapping[str, Any]) -> list[str]:
    """Return the config keys that influence predictions and differ from the training's; none if it is unknown.

    Raises:
        ValueError: If the config in the checkpoint is not plain data; nothing of it is executed.
    """

    def differences(before: Any, now: Any, path: str) -> list[str]:
        if isinstance(before, dict) and isinstance(now, dict):
            pairs = {key: (before.get(key), now.get(key)) for key in {**before, **now} if key not in IGNORED}
        elif isinstance(before, (list, tuple)) and isinstance(now, (list, tuple)) and len(before) == len(now):
            pairs = dict(enumerate(zip(before, now, strict=True)))
        else:
            return [] if before == now else [path]
        return [found for key, pair in pairs.items() for found in differences(*pair, f'{path}.{key}')]

    trained, now = parse_config(meta['cfg']) if 'cfg' in meta else {}, cfg.to_dict()
    return [path for key in INFLUENTIAL if key in trained for path in differences(trained[key], now.get(key), key)]


def portable_config(cfg: Config) -> Config:
    """Return a copy without the settings of one run, and without initial weights, which the published file has."""
    cfg = deepcopy(cfg)
    for key in ('work_dir', 'launcher', 'local_rank', 'overridden'):
        cfg.pop(key, None)
    cfg.load_from, cfg.resume = None, False
    for node in walk(cfg.model):
        pretrained = model_card.pretrained_inits(node)
        if isinstance(node.get('init_cfg'), (list, tuple)):
            node['init_cfg'] = [init for init in node['init_cfg'] if init not in pretrained]
        elif pretrained:
            node['init_cfg'] = None
        if node.get('pretrained'):
            node['pretrained'] = False if node['pretrained'] is True else None
        if isinstance(node.get('weights'), str):
            node['weights'] = None
    return cfg


def _check(config: Path, checkpoint: Path, source: nn.Module, classes: tuple[str, ...], half: bool) -> str:
    """Reload the written files as all tools read them, and compare the outputs of both models."""
    detector = Detector(load_config(config), checkpoint, 'cpu')
    difference, largest = compare(source, detector.model)
    text = f'outputs differ by {difference:.2g}, the largest is {largest:.3g}'
    if not difference <= (HALF_SHARE * largest if half else 0) or detector.classes != classes:
        raise ValueError(f'the published weights differ from their source: {text}; nothing is published')
    return text


@torch.no_grad()
def compare(source: nn.Module, published: nn.Module) -> tuple[float, float]:
    """Return the largest difference of the outputs of two detectors for a random image, and the largest output.

    The outputs are those of the dense head, or the feature maps of a detector without one.
    """

    def outputs_of(model: nn.Module) -> list[Tensor]:
        image = torch.randint(0, 256, (3, 320, 320), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        outputs = model.extract_feat(model.data_preprocessor({'inputs': [image], 'data_samples': None})['inputs'])
        head = getattr(model, 'rpn_head', None) or getattr(model, 'bbox_head', None)
        # the heads of transformers do not take feature maps
        outputs = outputs if head is None or hasattr(model, 'encoder') else head(outputs)
        return [output for output in tree_leaves(outputs) if output is not None]

    wanted, got = outputs_of(source), outputs_of(published)
    difference = max(float((a - b).abs().max().nan_to_num(torch.inf)) for a, b in zip(wanted, got, strict=True))
    return difference, max(float(output.abs().max()) for output in wanted)


def _facts(cfg: Config, model: nn.Module, classes: tuple[str, ...], weights: Path, half: bool) -> dict[str, str]:
    head = getattr(model, 'bbox_head', None)
    sigmoid = getattr(head, 'use_sigmoid', getattr(head, 'use_sigmoid_cls', None))
    count = sum(parameter.numel() for parameter in model.parameters())
    parts = (cfg.model, *(cfg.model.get(name) or {} for name in ('backbone', 'neck', 'bbox_head')))
    types = ', '.join(str(part['type']) for part in parts if 'type' in part)
    return {
        'model': f'{types}: {count:,} parameters, {len(classes)} classes.',
        'precision': f'{"float16" if half else "float32"}, {weights.stat().st_size / 1e6:.1f} MB',
        'sha256': hashlib.sha256(weights.read_bytes()).hexdigest(),
        'activation': {True: 'sigmoid', False: 'softmax'}.get(sigmoid, 'the rule of the head'),
    }


def _notes(parts: Mapping[str, Any], wide: list[str], half: bool) -> list[str]:
    dropped = [key for key in parts if key not in ('state_dict', 'meta')] if 'state_dict' in parts else []
    notes = {
        f'dropped: {", ".join(dropped)}': dropped,
        'published are the EMA weights, which validation and test used': 'ema_state_dict' in dropped,
        'float16; the statistics of norm layers stay in float32': half,
        f'beyond the range of float16, so float32 too: {", ".join(wide)}': wide,
    }
    return [note for note, applies in notes.items() if applies]


def _warnings(cfg: Config, metrics: model_card.Metrics | None, licence: str | None, changed: list[str]) -> list[str]:
    paths = ', '.join(dict.fromkeys(ABSOLUTE_PATH.findall(cfg.pretty_text)))
    keys = ', '.join(changed)
    warnings = {
        f'the config differs from that of the training, so its AP does not apply: {keys}': changed,
        'the licence is not stated: give it by --license': not licence,
        'the average precision is unknown: measure it by --test or state it by --ap': metrics is None,
        f'the config has absolute paths, {paths}: replace them by --cfg-options, such as data_root=data/mine/': paths,
    }
    return [warning for warning, applies in warnings.items() if applies]
