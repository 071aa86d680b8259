"""What a run sets in ``RectBatchDataset``, of its loader and its pipeline."""

from collections.abc import Sequence

from mmengine.config import Config

MMDET_NAMES = {'LoadImage': 'mmyolo_ext.LoadImageFromFile', 'Letterbox': 'mmyolo_ext.Resize'}


def fit_rect_batches(cfg: Config, world_size: int = 1) -> None:
    """Give each ``RectBatchDataset`` of a config the images of a batch of all ranks, which share a rectangle.

    Its own ``pipeline``, which tools of mmdet read, becomes that of the dataset inside.
    """
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader, nested = cfg.get(name) or {}, []
        node = loader.get('dataset')
        while isinstance(node, dict):
            nested.append(node)
            node = node.get('dataset') or next(iter(node.get('datasets') or ()), None)
        for node in nested:
            if str(node.get('type')).endswith('RectBatchDataset') and loader.get('batch_size'):
                node['batch_size'] = loader['batch_size'] * world_size
                node['pipeline'] = inference_pipeline(nested[-1].get('pipeline') or [])


def inference_pipeline(pipeline: Sequence[dict]) -> list[dict]:
    """Return a test pipeline with the names that mmdet's ``DetInferencer`` and SAHI look for.

    ``Letterbox`` becomes ``Resize`` with ``scale`` (width, height); annotations are not loaded.
    """
    steps = []
    for step in pipeline:
        kind = step['type']
        name = getattr(kind, '__name__', kind).rsplit('.', 1)[-1]
        if name == 'LoadAnnotations':
            continue
        step = {**step, 'type': MMDET_NAMES.get(name, kind)}
        if name == 'Letterbox' and 'size_hw' in step:
            size = step.pop('size_hw')
            step['scale'] = (size, size) if isinstance(size, int) else tuple(size)[::-1]
        steps.append(step)
    return steps
