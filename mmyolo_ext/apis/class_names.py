"""The names of the classes of a data set, before it is built."""

from mmyolo_ext.registry import DATASETS


def class_names_of(dataset: dict) -> tuple[str, ...] | None:
    """From the ``metainfo`` of a data set's config, else from its type; None if neither has them."""
    with DATASETS.switch_scope_and_registry(None) as registry:  # as building does, which finds names of mmdet
        own = getattr(registry.get(dataset['type']), 'METAINFO', {}).get('classes')
    classes = (dataset.get('metainfo') or {}).get('classes') or own
    return (classes,) if isinstance(classes, str) else tuple(classes) if classes else None
