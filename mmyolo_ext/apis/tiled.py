"""The setting ``tile`` of a config: train and validate on tiles of large images."""

from collections.abc import Iterator

from mmengine.config import Config

from mmyolo_ext.apis.config_nodes import LOADERS

TRAINING = ('min_visible', 'background', 'seed')


def set_tiles(cfg: Config, tile: int | dict) -> None:
    """Put ``TiledDataset`` around the datasets of all loaders, and evaluate whole images by ``TiledCocoMetric``.

    Args:
        cfg: Changed in place; datasets that are tiled already stay.
        tile: Side of the tiles in px, or the arguments of ``TiledDataset``.

    Raises:
        ValueError: On another type or an unknown argument, or an evaluator other than ours.
    """
    settings = dict(tile) if isinstance(tile, dict) else {'size': tile}
    unknown = settings.keys() - {'size', 'overlap', *TRAINING}
    if unknown or 'size' not in settings:
        raise ValueError(
            'tile must be the side of tiles in px or dict(size=640, overlap=0.2, min_visible=0.4, background=0.1), '
            f'got {tile!r}'
        )
    for name in LOADERS:
        for node in leaf_nodes((cfg.get(name) or {}).get('dataset')):
            inner = {**node}
            node.clear()
            node.update(type='mmyolo_ext.TiledDataset', dataset=inner, **settings)
    for name in ('val_evaluator', 'test_evaluator'):
        evaluator = cfg.get(name)
        if evaluator and str(evaluator.get('type')).rpartition('.')[2] not in ('CocoMetric', 'TiledCocoMetric'):
            raise ValueError(f'tile needs mmyolo_ext.CocoMetric as {name}, got {evaluator.get("type")!r}')
        if evaluator:
            evaluator['type'] = 'mmyolo_ext.TiledCocoMetric'


def leaf_nodes(node: object) -> Iterator[dict]:
    """Yield the configs of the datasets inside all wrappers, without those in a ``TiledDataset``."""
    if not isinstance(node, dict) or str(node.get('type')).endswith('TiledDataset'):
        return
    inner = [node['dataset']] if 'dataset' in node else node.get('datasets')
    if inner is None:
        yield node
    for part in inner or ():
        yield from leaf_nodes(part)
