"""Check before the first step that model, data, evaluator and checkpoint fit together.

A finding is a pair: whether it is an error, and a sentence that names both sides and the cure.

Letters: G boxes, K anchors of all levels.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn

from mmyolo_ext.engine.data_checks import Finding, Split, leaf_datasets

MIN_SIDE = 2.0  # px; training drops boxes with a side up to it
GOOD_RECALL = 0.98
MAX_MATCHED = 100_000  # boxes
BOX_ITEMS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
PROPOSAL_ITEMS = ('AR@100', 'AR@300', 'AR@1000', 'AR_s@1000', 'AR_m@1000', 'AR_l@1000')


def class_names(dataset: object) -> tuple[str, ...] | None:
    """Return the classes that a dataset declares; None if it declares none."""
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    return (classes,) if isinstance(classes, str) else classes and tuple(classes)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the detector inside wrappers for several processes and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def head_classes(model: nn.Module) -> Iterator[tuple[str, int]]:
    """Yield (name, num_classes) of every box head."""
    model = unwrapped(model)
    roi = getattr(getattr(model, 'roi_head', None), 'bbox_head', None)
    heads = [('bbox_head', getattr(model, 'bbox_head', None))]
    heads += [('roi_head.bbox_head', head) for head in (roi if isinstance(roi, nn.ModuleList) else [roi])]
    for name, head in heads:
        if isinstance(getattr(head, 'num_classes', None), int):
            yield name, head.num_classes


def check_anchors(model: nn.Module, train: Split, datasets: Sequence[object]) -> Iterator[Finding]:
    """Check the best possible recall: the share of the training boxes that an anchor can match.

    This applies to heads with ``anchors_wh`` (levels, anchors, 2) px whose assigner has ``fits(boxes_wh, anchors)``.
    Boxes are scaled as the pipelines resize images, without random scales.

    Args:
        model: With a ``bbox_head``.
        train: The training split.
        datasets: Of training and validation, whose pipelines define the input size.
    """
    head = getattr(unwrapped(model), 'bbox_head', None)
    anchors, fits = getattr(head, 'anchors_wh', None), getattr(getattr(head, 'assigner', None), 'fits', None)
    if anchors is None or fits is None:
        return
    anchors = anchors.detach().float().cpu().reshape(-1, 2)  # (K, 2)
    if (anchors <= 0).any() or not torch.isfinite(anchors).all():
        yield True, f'anchors must have sides above 0, got {anchors.tolist()}: set base_sizes of prior_generator'
        return
    size_hw = input_size_hw(datasets)
    known = (train.sizes_hw[train.image] > 0).all(1) & ~train.ignored
    if size_hw is None or not known.any():
        return
    at_input = f'at an input of {size_hw[1]} x {size_hw[0]} px'
    scale = (np.array(size_hw) / train.sizes_hw[train.image][known]).min(1, keepdims=True)
    boxes_wh = (train.boxes_xyxy[known, 2:] - train.boxes_xyxy[known, :2]) * scale  # (G, 2)
    boxes_wh = boxes_wh[(boxes_wh > MIN_SIDE).all(1)]
    if not len(boxes_wh):
        yield (
            True,
            f'all {int(known.sum())} training boxes have a side of at most {MIN_SIDE:g} px {at_input}, where training '
            'drops them: choose a larger input_size, or tiles',
        )
        return
    boxes_wh = boxes_wh[:: -(-len(boxes_wh) // MAX_MATCHED)]
    recall = float(fits(torch.from_numpy(boxes_wh).float(), anchors).any(1).float().mean())
    if recall < GOOD_RECALL:
        low, middle, high = map(_sizes, np.percentile(boxes_wh, (5, 50, 95), axis=0)[:, None])
        yield (
            recall == 0,
            f'the anchors can match {recall:.1%} of the training boxes (best possible recall), the others are not '
            f'learned: anchors {_sizes(anchors.numpy())} px, boxes {low} to {high} px, median {middle}, {at_input}. '
            'Fit the anchors by tools/anchors.py CONFIG, or change input_size',
        )


def input_size_hw(datasets: Sequence[object]) -> tuple[int, int] | None:
    """Return the size to which the pipelines resize images: of ``Letterbox``, else of ``Resize`` with ``keep_ratio``;
    None if there is neither."""
    steps = [step for dataset in datasets for step in _steps(dataset)]
    for step in steps:
        if type(step).__name__ == 'Letterbox':
            return tuple(step.size_hw)
    for step in steps:
        scale = getattr(step, 'scale', None)
        if getattr(step, 'keep_ratio', False) and isinstance(scale, (tuple, list)) and len(scale) == 2:
            width, height = scale
            return (height, width) if isinstance(height, int) and isinstance(width, int) else None
    return None


def check_evaluator(evaluator: Evaluator | None, dataset: object, split: str) -> Iterator[Finding]:
    """Check that the annotation file of a COCO metric has the classes and images of the dataset."""
    classes = class_names(dataset)
    for metric in getattr(evaluator, 'metrics', ()):
        coco = getattr(metric, '_coco_api', None)
        if coco is None or classes is None:
            continue
        names = [category['name'] for category in coco.dataset.get('categories', ())]
        if tuple(name for name in names if name in classes) != classes:
            yield (
                True,
                f'the annotation file of {split}_evaluator has the categories {tuple(names)}, the {split} data set '
                f'the classes {classes}: scores would be of other classes. Name the same file in both (val_ann sets '
                'both)',
            )
        unknown = sorted({image_id for image_id in _some_image_ids(dataset) if image_id not in coco.imgs}, key=str)
        if unknown:
            yield (
                True,
                f'the annotation file of {split}_evaluator lacks images of the {split} data set, among them the id '
                f'{unknown[0]!r}: name the same file in both (val_ann sets both)',
            )


def check_score_names(hooks: Sequence[Hook], evaluator: Evaluator | None) -> Iterator[Finding]:
    """Check that the evaluator returns the scores that hooks use (``save_best``, ``monitor``).

    The scores of a COCO metric are known in advance; of other metrics only the prefix is compared.
    """
    given, prefixes, all_known = [], set(), True
    for metric in getattr(evaluator, 'metrics', ()):
        prefix = getattr(metric, 'prefix', None)
        prefixes.add(prefix)
        scores = _coco_scores(metric)
        all_known &= scores is not None
        given += [f'{prefix}/{score}' if prefix else score for score in scores or ()]
    for key, name in _wanted_scores(hooks):
        prefix = name.rpartition('/')[0] or None
        if not prefixes or name in given or (not all_known and (prefix in prefixes or None in prefixes)):
            continue
        near = difflib.get_close_matches(name, given, n=1, cutoff=0.5)
        hint = f', did you mean {near[0]!r}?' if near else '.'
        offer = [score for score in given if not score.endswith('_precision')] or [f'{p}/...' for p in prefixes]
        yield True, f'{key}={name!r} is no score of the evaluator{hint} It gives {", ".join(offer)}'


def check_checkpoint_classes(checkpoint: Mapping, dataset: object, starts: bool) -> Iterator[Finding]:
    """Check that a checkpoint was trained on the classes of the dataset, in the same order.

    Args:
        checkpoint: As loaded.
        dataset: Of the training or test.
        starts: Whether a training starts from the weights, where other classes are intended.
    """
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    meta = meta if isinstance(meta, Mapping) else {}
    described = meta.get('dataset_meta')
    described = described if isinstance(described, Mapping) else {}
    trained = described.get('classes') or described.get('CLASSES') or meta.get('CLASSES') or ()
    trained = (trained,) if isinstance(trained, str) else tuple(map(str, trained))
    classes = class_names(dataset)
    if not trained or classes is None or trained == classes or len(trained) != len(classes):
        return  # of another number of classes the shapes differ, which is reported when they are loaded
    both = f'the checkpoint was trained on the classes {_names(trained)}, the data set has {_names(classes)}'
    if sorted(trained) == sorted(classes):
        first = next(a for a, b in zip(trained, classes, strict=True) if a != b)
        yield (
            True,
            f'{both}: the same in another order, so {first!r} and others would be confused. Order the categories of '
            'the annotation file, and class_names, as in the checkpoint',
        )
    else:
        yield False, f'{both}: {"its class outputs start from" if starts else "its scores are"} those of other classes'


def _steps(dataset: object) -> Iterator[object]:
    """Yield the transforms of a dataset and of those inside it."""
    pipeline = getattr(dataset, 'pipeline', None)
    yield from getattr(pipeline, 'transforms', pipeline if isinstance(pipeline, (list, tuple)) else ())
    for part in getattr(dataset, 'datasets', [dataset.dataset] if hasattr(dataset, 'dataset') else []):
        yield from _steps(part)


def _some_image_ids(dataset: object) -> Iterator[object]:
    for leaf in leaf_datasets(dataset):
        if hasattr(leaf, 'get_data_info') and len(leaf):
            yield from (leaf.get_data_info(index).get('img_id') for index in {0, len(leaf) // 2, len(leaf) - 1})


def _coco_scores(metric: object) -> list[str] | None:
    """Return the names of the scores of a COCO metric on boxes, masks or proposals; None of another metric."""
    kinds = getattr(metric, 'metrics', None)
    if not hasattr(metric, '_coco_api') or not isinstance(kinds, (list, tuple)):
        return None
    scores = []
    for kind in kinds:
        if kind == 'proposal_fast':
            scores += [f'AR@{number}' for number in metric.proposal_nums]
        elif kind == 'proposal':
            scores += metric.metric_items or PROPOSAL_ITEMS
        else:
            scores += [f'{kind}_{item}' for item in metric.metric_items or BOX_ITEMS]
            if getattr(metric, 'classwise', False):
                classes = (getattr(metric, 'dataset_meta', None) or {}).get('classes') or ()
                scores += [f'{name}_precision' for name in classes]
    return scores


def _wanted_scores(hooks: Sequence[Hook]) -> Iterator[tuple[str, str]]:
    for hook in hooks:
        if isinstance(hook, CheckpointHook) or hasattr(hook, 'save_best'):
            names = getattr(hook, 'save_best', None) or ()
            yield from (('save_best', n) for n in ([names] if isinstance(names, str) else names) if n != 'auto')
        if isinstance(hook, EarlyStoppingHook):
            yield 'monitor', hook.monitor


def _sizes(sizes_wh: np.ndarray) -> str:
    return ', '.join(f'{w:g} x {h:g}' for w, h in sizes_wh.round(1).tolist())


def _names(names: Sequence[str]) -> str:
    return f'{tuple(names)}' if len(names) <= 12 else f'{tuple(names[:11])} and {len(names) - 11} more'
