"""Publish a checkpoint: weights, config and card, checked and put in place together."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmyolo_ext.apis.config import load_config
from mmyolo_ext.apis.inference import Detector
from mmyolo_ext.apis.publishing.card import Card, licence_warnings
from mmyolo_ext.apis.publishing.check import Difference, compare, one_batch
from mmyolo_ext.apis.publishing.data_counts import count_data
from mmyolo_ext.apis.publishing.known_ap import Figures, known_figures
from mmyolo_ext.apis.publishing.origin import Origin, origins
from mmyolo_ext.apis.publishing.portable import config_text, input_lines, local_paths, portable
from mmyolo_ext.apis.publishing.source import Source, changed_since, read_source
from mmyolo_ext.engine.runner import Runner
from mmyolo_ext.version import __version__
from mmyolo_ext.weights import install_reader
from mmyolo_ext.weights.published import pack, slim


@dataclass(frozen=True)
class Options:
    """How to publish; see the tool."""

    half: bool = True
    licence: str | None = None
    origin: str | None = None
    figures: Figures | None = None
    test: bool = False
    force: bool = False


class Published(NamedTuple):
    """What has been written, how near it is to its source on a picture, and what to say of it."""

    files: tuple[Path, ...]
    difference: Difference
    picture: str
    notes: list[str]
    warnings: list[str]


def publish(cfg: Config, checkpoint: Path, out: Path, options: Options) -> Published:
    """Write the weights, their config and the model card; they take their places when they have passed the check.

    Args:
        cfg: of the training, read by ``load_config``.
        checkpoint: that the training wrote; it is left as it is.
        out: ``.pth`` file to write, whose name gets the start of its SHA-256.
        options: see there.

    Raises:
        ValueError: a checkpoint that is none, that does not fit the config or does not name the same classes; a file
            that is there already; a result that differs from its source.
    """
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    source = read_source(cfg, checkpoint)
    behind = origins(cfg, source.content, checkpoint.name)
    changed = changed_since(cfg, source.meta)
    state_dict, wide = slim(source.model.state_dict(), options.half)
    cfg = portable(cfg)
    text = cfg.pretty_text
    content, digits = pack(state_dict, _meta(text, source, behind, options))
    targets = [out.parent / f'{out.stem}-{digits}{suffix}' for suffix in ('.pth', '.py', '.md')]
    _check_targets(targets, options.force)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix='.publish') as folder:
        weights, config, card = (Path(folder) / target.name for target in targets)
        weights.write_bytes(content)
        config.write_text(config_text(text, weights.name, checkpoint.name), encoding='utf-8')
        difference, picture = _check(config, weights, source, options.half)
        figures = evaluate(config, weights) if options.test else options.figures
        if figures is None and not changed:
            figures = known_figures(source.parts, checkpoint)
        card.write_text(_card(cfg, source, behind, options, figures, weights).text(), encoding='utf-8')
        # the weights last: where they are, the rest is
        for file, target in zip((card, config, weights), reversed(targets), strict=True):
            os.replace(file, target)
    warnings = licence_warnings(behind, options.licence) + _warnings(cfg, figures, options.licence, changed)
    return Published(tuple(targets), difference, picture, _notes(source, wide, options.half), warnings)


def evaluate(config: Path, checkpoint: Path) -> Figures:
    """The figures of a published file on the test data of its config."""
    install_reader()
    cfg = load_config(config)
    with TemporaryDirectory() as folder:
        cfg.work_dir, cfg.load_from, cfg.resume = folder, str(checkpoint), False
        values = Runner.from_cfg(cfg).test()
    return Figures({name.rpartition('/')[2]: value for name, value in values.items()}, 'with this very file')


def _check(config: Path, checkpoint: Path, source: Source, half: bool) -> tuple[Difference, str]:
    """Reload what was written, as all tools read it, and compare on a picture."""
    cfg = load_config(config)
    detector = Detector(cfg, checkpoint, 'cpu')
    batch, picture = one_batch(cfg, detector.model)
    difference = compare(source.model, detector.model, batch)
    if not difference.within(half) or detector.classes != source.classes:
        raise ValueError(f'what was written differs from its source: {difference}; nothing is published')
    return difference, picture


def _meta(text: str, source: Source, behind: list[Origin], options: Options) -> dict:
    """Without times and places, so that the same weights get the same name again."""
    told = {'cfg': text, 'dataset_meta': {'classes': source.classes}, 'mmyolo_ext_version': __version__}
    if behind:
        told['origins'] = [origin._asdict() for origin in behind]
    return told | ({'license': options.licence} if options.licence else {})


def _card(
    cfg: Config, source: Source, behind: list[Origin], options: Options, figures: Figures | None, weights: Path
) -> Card:
    head = getattr(source.model, 'bbox_head', None)
    sigmoid = getattr(head, 'use_sigmoid', getattr(head, 'use_sigmoid_cls', None))
    count = sum(parameter.numel() for parameter in source.model.parameters())
    parts = (cfg.model, *(cfg.model.get(name) or {} for name in ('backbone', 'neck', 'bbox_head')))
    types = ', '.join(str(part['type']) for part in parts if 'type' in part)
    told = {'epochs': 'epoch', 'iterations': 'iter', 'seed': 'seed'}
    return Card(
        name=weights.stem,
        sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
        model=f'{types}: {count:,} parameters, {len(source.classes)} classes.',
        precision=f'{"float16" if options.half else "float32"}, {weights.stat().st_size / 1e6:.1f} MB',
        input=input_lines(cfg),
        activation={True: 'sigmoid', False: 'softmax'}.get(sigmoid, "the head's own rule"),
        classes=source.classes,
        splits=count_data(cfg),
        figures=figures,
        training={name: source.meta[key] for name, key in told.items() if source.meta.get(key) is not None},
        licence=options.licence,
        origins=behind,
        origin_note=options.origin,
    )


def _check_targets(targets: list[Path], force: bool) -> None:
    there = [str(target) for target in targets if target.exists()]
    if there and not force:
        raise ValueError(f'{", ".join(there)} is there already: --force writes over it')


def _notes(source: Source, wide: list[str], half: bool) -> list[str]:
    """What was left out, and what stays in float32."""
    left = [key for key in source.parts if key not in ('state_dict', 'meta')] if 'state_dict' in source.parts else []
    notes = [f'left out: {", ".join(left)}'] if left else []
    if 'ema_state_dict' in left:
        notes.append('published are the averaged weights, by which validation and test were done')
    if half:
        notes.append('float16; the statistics of norm layers stay in float32')
    if wide:
        notes.append(f'values beyond float16, so in float32 too: {", ".join(wide)}')
    return notes


def _warnings(cfg: Config, figures: Figures | None, licence: str | None, changed: list[str]) -> list[str]:
    found = []
    if changed:
        found.append(f'the config is not that of the training, whose AP is not taken over: {", ".join(changed)}')
    if not licence:
        found.append('the licence is not stated: say it by --license')
    if figures is None:
        found.append('the average precision is not known: measure it by --test, or say it by --ap')
    if paths := local_paths(cfg):
        found.append(
            f'the config names places of this machine, {", ".join(paths)}: say what they are for others by '
            '--cfg-options, as data_root=data/mine/'
        )
    return found
