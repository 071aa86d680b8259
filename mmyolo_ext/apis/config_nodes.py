"""The dicts in a config: found, and told apart by their types."""

from collections.abc import Iterator


def walk(node: object) -> Iterator[dict]:
    """Every dict in nested dicts and lists, outer ones first."""
    if isinstance(node, dict):
        yield node
        for value in list(node.values()):
            yield from walk(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from walk(value)


def leaf_datasets(node: dict) -> Iterator[dict]:
    """The configs of the innermost data sets of a loader or a wrapper."""
    inner = [node['dataset']] if 'dataset' in node else node.get('datasets', [])
    for part in inner:
        yield from leaf_datasets(part)
    if not inner:
        yield node


def kind(node: dict) -> str:
    """The name of a type without its scope."""
    name = node.get('type', '')
    return name.rsplit('.', 1)[-1] if isinstance(name, str) else name.__name__
