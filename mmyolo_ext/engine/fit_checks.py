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

from mmyolo_ext.engine.preflight_data import Finding, Split, class_names, leaf_datasets, nested_datasets, spread

MIN_SIDE = 2.0  # px; training drops boxes with a side up to it
GOOD_RECALL = 0.98
MAX_MATCHED = 100_000  # boxes
BOX_ITEMS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')


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
    head, size_hw = getattr(unwrapped(model), 'bbox_head', None), input_size_hw(datasets)
    anchors, fits = getattr(head, 'anchors_wh', None), getattr(getattr(head, 'assigner', None), 'fits', None)
    known = (train.sizes_hw[train.image] > 0).all(1) & ~train.ignored
    if anchors is None or fits is None or size_hw is None or not known.any():
        return
    anchors = anchors.detach().float().cpu().reshape(-1, 2)  # (K, 2)
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
    """Return the size of the first ``Letterbox`` of the pipelines, or of a ``Resize`` that keeps the ratio."""
    steps = [step for dataset in datasets for step in _steps(dataset)]
    sizes = [tuple(step.size_hw) for step in steps if type(step).__name__ == 'Letterbox']
    sizes += [
        tuple(step.scale[::-1]) for step in steps if type(step).__name__ == 'Resize' and step.keep_ratio and step.scale
    ]
    return next((size for size in sizes if len(size) == 2 and all(isinstance(side, int) for side in size)), None)


def check_evaluator(evaluator: Evaluator | None, dataset: object, split: str) -> Iterator[Finding]:
    """Check that the annotation file of a COCO metric has the classes and images of the dataset."""
    classes = class_names(dataset)
    start, cure = f'the annotation file of {split}_evaluator', 'name the same file in both (val_ann sets both)'
    for metric in getattr(evaluator, 'metrics', ()):
        coco = getattr(metric, '_coco_api', None)
        if coco is None or classes is None:
            continue
        names = tuple(category['name'] for category in coco.dataset.get('categories', ()))
        if tuple(name for name in names if name in classes) != classes:
            yield (
                True,
                f'{start} has the categories {names}, the {split} data set the classes {classes}: scores would be of '
                f'other classes; {cure}',
            )
        unknown = [image_id for image_id in _some_image_ids(dataset) if image_id not in coco.imgs]
        if unknown:
            yield True, f'{start} lacks images of the {split} data set, among them the id {unknown[0]!r}: {cure}'


def check_score_names(hooks: Sequence[Hook], evaluator: Evaluator | None) -> Iterator[Finding]:
    """Check that the evaluator returns the scores that hooks use (``save_best``, ``monitor``).

    The scores of a COCO metric on boxes or masks are known in advance; with other metrics nothing is checked.
    """
    given = []
    for metric in getattr(evaluator, 'metrics', ()):
        kinds = getattr(metric, 'metrics', None)
        if not hasattr(metric, '_coco_api') or not set(kinds) <= {'bbox', 'segm'}:
            return
        given += [f'{metric.prefix}/{kind}_{item}' for kind in kinds for item in metric.metric_items or BOX_ITEMS]
    wanted = []
    for hook in hooks:
        if isinstance(hook, CheckpointHook) and hook.save_best:
            wanted += [('save_best', name) for name in hook.key_indicators]
        if isinstance(hook, EarlyStoppingHook):
            wanted.append(('monitor', hook.monitor))
    for key, name in wanted:
        if given and name != 'auto' and name not in given and not name.endswith('_precision'):
            near = difflib.get_close_matches(name, given, n=1, cutoff=0.5)
            hint = f', did you mean {near[0]!r}?' if near else '.'
            yield True, f'{key}={name!r} is no score of the evaluator{hint} It gives {", ".join(given)}'


def check_checkpoint_classes(checkpoint: Mapping, dataset: object, starts: bool) -> Iterator[Finding]:
    """Check that a checkpoint was trained on the classes of the dataset, in the same order.

    Args:
        checkpoint: As loaded.
        dataset: Of the training or test.
        starts: Whether a training starts from the weights, where other classes are intended.
    """
    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    described = meta.get('dataset_meta') or {}
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
    for part in nested_datasets(dataset):
        pipeline = getattr(part, 'pipeline', None)
        yield from getattr(pipeline, 'transforms', pipeline if isinstance(pipeline, (list, tuple)) else ())


def _some_image_ids(dataset: object) -> Iterator[object]:
    for leaf in leaf_datasets(dataset):
        yield from (leaf.get_data_info(index).get('img_id') for index in spread(len(leaf), 3))


def _sizes(sizes_wh: np.ndarray) -> str:
    return ', '.join(f'{w:g} x {h:g}' for w, h in sizes_wh.round(1).tolist())


def _names(names: Sequence[str]) -> str:
    return f'{tuple(names)}' if len(names) <= 12 else f'{tuple(names[:11])} and {len(names) - 11} more'
