"""The names of the classes of a data set, before it is built: found, and checked."""

from collections.abc import Sequence

from mmyolo_ext.registry import DATASETS


def class_names_of(dataset: dict) -> tuple[str, ...] | None:
    """From the ``metainfo`` of a data set's config, else from its type; None if neither has them."""
    with DATASETS.switch_scope_and_registry(None) as registry:  # as building does, which finds names of mmdet
        own = getattr(registry.get(dataset['type']), 'METAINFO', {}).get('classes')
    classes = (dataset.get('metainfo') or {}).get('classes') or own
    return (classes,) if isinstance(classes, str) else tuple(classes) if classes else None


def class_names_fault(names: Sequence) -> str | None:
    """What is wrong with a list of class names; None if nothing is."""
    if not names:
        return 'there must be at least one class, got none'
    for name in names:
        if isinstance(name, (int, float)):
            return f'class names are texts, got the number {name!r}: write {str(name)!r}, with quotes'
        if not isinstance(name, str):
            return f'class names are texts, got {name!r}'
        if not name:
            return f'a class name is empty: {tuple(names)}'
    double = sorted({name for name in names if list(names).count(name) > 1})
    return f'class names must be distinct, got {", ".join(map(repr, double))} more than once' if double else None
