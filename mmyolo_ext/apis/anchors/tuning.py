"""Fit a config's priors to its data, and write what follows: a config, a picture, the figures."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from mmyolo_ext.apis.anchors.boxes import BoxSizes, box_sizes
from mmyolo_ext.apis.anchors.fitness import Rule, Scores, score
from mmyolo_ext.apis.anchors.plot import draw
from mmyolo_ext.apis.anchors.search import fit_priors
from mmyolo_ext.apis.files import check_work_dir
from mmyolo_ext.registry import MODELS


class Head(NamedTuple):
    """What of a head decides its priors.

    Attributes:
        anchors_wh: sizes of each level, (L, A, 2) px.
        strides: of each level, px.
        rule: by which it matches.
    """

    anchors_wh: np.ndarray
    strides: tuple[int, ...]
    rule: Rule


class Tuned(NamedTuple):
    """The priors before and after, what each is worth, and the files; none if the present ones are as good."""

    boxes: BoxSizes
    head: Head
    anchors_wh: np.ndarray
    before: Scores
    after: Scores
    files: tuple[Path, ...]


def tune(cfg: Config, config: Path, out: Path, generations: int = 1000, seed: int = 0, force: bool = False) -> Tuned:
    """Fit, and write ``out`` and the picture beside it if the new priors have the greater fitness.

    Args:
        cfg: read by ``load_config``.
        config: its file, which the written one is based on.
        out: ``.py`` to write.
        generations: see :func:`.fit_priors`.
        seed: likewise.
        force: write over files that are there.

    Raises:
        ValueError: no boxes, fewer than priors, a head without priors, or files that are there already.
    """
    files = (out, out.with_suffix('.png'))
    there = [str(file) for file in files if file.exists()]
    if there and not force:
        raise ValueError(f'{", ".join(there)} is there already: --force writes over it')
    if out.resolve() == config.resolve():
        raise ValueError(f'{out} is the config itself: choose another name by --out')
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    head = head_of(MODELS.build(cfg.model))
    boxes = box_sizes(cfg)
    present = head.anchors_wh.reshape(-1, 2)
    found = fit_priors(boxes.wh, present, head.rule, generations, seed)
    before, after = (score(boxes.wh, priors, head.rule) for priors in (present, found))
    if after.fitness <= before.fitness:
        return Tuned(boxes, head, head.anchors_wh, before, before, ())
    tuned = Tuned(boxes, head, spread_over_levels(found, head.strides), before, after, files)
    check_work_dir(str(out.parent))
    draw(tuned.boxes.wh, head.anchors_wh, tuned.anchors_wh, head.rule, files[1])
    _write(out, config_text(tuned, config, out))
    return tuned


def head_of(model: nn.Module) -> Head:
    """Of a built detector.

    Raises:
        ValueError: its head has no priors as YOLOv5's and YOLOv3's have.
    """
    head = getattr(model, 'bbox_head', None)
    priors = getattr(head, 'anchors_wh', None)
    if priors is None:
        raise ValueError(f'the head must be a YOLOv5Head or YOLOv3Head with priors, got {type(head).__name__}')
    iou, ratio = (getattr(head.assigner, name, None) for name in ('iou_thr', 'prior_match_thr'))
    rule = Rule('iou', iou) if iou is not None else Rule('ratio', 1 / ratio) if ratio else Rule()
    return Head(priors.double().cpu().numpy(), tuple(head.strides), rule)


def spread_over_levels(anchors_wh: np.ndarray, strides: tuple[int, ...]) -> np.ndarray:
    """(L * A, 2) in the order of their areas -> (L, A, 2): the smallest to the level of the smallest stride."""
    by_size = anchors_wh.reshape(len(strides), -1, 2)
    levels = np.empty_like(by_size)
    levels[np.argsort(strides, kind='stable')] = by_size
    return levels


def config_text(tuned: Tuned, config: Path, out: Path) -> str:
    """The config to write: the other one with these priors."""
    base = Path(os.path.relpath(config.resolve(), out.parent.resolve())).as_posix()
    sizes = ',\n                '.join(str([tuple(_tidy(prior)) for prior in level]) for level in tuned.anchors_wh)
    return (
        '# Written by tools/anchors.py: best possible recall '
        f'{tuned.before.recall:.4f} -> {tuned.after.recall:.4f}, mean fitness {tuned.before.fitness:.4f} -> '
        f'{tuned.after.fitness:.4f}\n'
        f'_base_ = [{base!r}]\n\n'
        'model = dict(\n    bbox_head=dict(\n        prior_generator=dict(\n'
        "            type='mmdet.YOLOAnchorGenerator',\n"
        f'            base_sizes=[\n                {sizes},\n            ],\n'
        f'            strides={list(tuned.head.strides)},\n        ),\n    ),\n)\n'
    )


def _tidy(prior_wh: np.ndarray) -> list[float]:
    return [int(side) if side == int(side) else float(side) for side in prior_wh.tolist()]


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    part = path.with_name(f'.{path.name}.part')
    part.write_text(text, encoding='utf-8')
    os.replace(part, path)
