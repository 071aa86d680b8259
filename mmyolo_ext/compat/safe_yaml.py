"""Let MMEngine read YAML as data: its own handler would call the Python functions that a file names."""

import yaml
from mmengine.fileio.handlers import yaml_handler

MAX_VALUES = 1_000_000
MAX_DEPTH = 100


class DataLoader(getattr(yaml, 'CSafeLoader', yaml.SafeLoader)):
    """PyYAML's safe loader, with limits on nesting and on what aliases (``*name``) repeat."""

    def get_single_data(self) -> object:
        """Return the one document of the stream.

        Raises:
            yaml.YAMLError: It is not valid, has tags of Python, is nested too deeply, or its aliases stand for too
                many values.
        """
        try:
            node = self.get_single_node()
            _count(node, {}, 0)
        except RecursionError as error:
            raise yaml.YAMLError('it is nested too deeply') from error
        return None if node is None else self.construct_document(node)


def install() -> None:
    """Use :class:`DataLoader` in MMEngine's ``load`` and ``Config.fromfile``."""
    yaml_handler.Loader = DataLoader


def _count(node: yaml.Node | None, counted: dict[int, int], depth: int) -> int:
    """Return the number of values below a node, with those that aliases repeat."""
    if depth > MAX_DEPTH:
        raise yaml.YAMLError(f'it is nested more than {MAX_DEPTH} levels deep')
    if id(node) in counted:
        return counted[id(node)]
    counted[id(node)] = MAX_VALUES  # of an alias to something that it is inside of
    parts = node.value if isinstance(node, yaml.CollectionNode) else ()
    parts = [part for pair in parts for part in pair] if isinstance(node, yaml.MappingNode) else parts
    total = 1 + sum(_count(part, counted, depth + 1) for part in parts)
    if total > MAX_VALUES:
        raise yaml.YAMLError(f'its aliases stand for more than {MAX_VALUES:,} values, or for themselves')
    counted[id(node)] = total
    return total
