"""Parse configs of untrusted files without executing them: Python text in a checkpoint, and YAML.

MMEngine stores ``Config.pretty_text`` in ``meta['cfg']``: assignments of numbers, strings, lists, tuples, dicts and
``dict(...)`` calls. Nothing else is accepted, so a text that calls or imports anything is an error and never runs.
"""

import ast
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml
from mmengine.fileio.handlers import yaml_handler

MAX_CHARACTERS = 500_000
MAX_DEPTH = 60
MAX_INTEGER = 2**63
MAX_YAML_VALUES = 1_000_000
MAX_YAML_DEPTH = 100
ALLOWED = 'a config in a checkpoint may hold numbers, strings, lists, tuples, dicts and dict(name=value) alone'


def parse_config(text: str) -> dict[str, Any]:
    """Parse the text of a config as literals and ``dict(...)`` calls.

    Args:
        text: What MMEngine's ``Config.pretty_text`` writes.

    Returns:
        The value of each name, of Python's own types: dict, list, tuple, str, int, float, bool and None.

    Raises:
        ValueError: The text is no such config; the message names the line and what is not allowed there. Nothing of
            it has been executed.
    """
    return {name: _value(node, 0) for name, node in _assignments(text)}


def parse_plain_parts(text: object) -> dict[str, Any]:
    """Parse a config as :func:`parse_config` does, leaving out the names whose values it does not accept.

    For texts of other tools, of which only some names are of interest.

    Returns:
        The value of each name; nothing where the text is not Python or not text.
    """
    found = {}
    try:
        assignments = _assignments(text, strict=False)
    except ValueError:
        return {}
    for name, node in assignments:
        try:
            found[name] = _value(node, 0)
        except ValueError:
            found.pop(name, None)
    return found


def _assignments(text: object, strict: bool = True) -> list[tuple[str, ast.expr]]:
    if not isinstance(text, str):
        raise ValueError(f'a config in a checkpoint must be text, got {type(text).__name__}')
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f'a config in a checkpoint must be at most {MAX_CHARACTERS:,} characters, got {len(text):,}')
    _check_nesting(text)
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise ValueError(f'line {error.lineno} of the config is not valid: {error.msg}') from error
    except (ValueError, MemoryError, RecursionError) as error:  # a null byte, nesting without brackets
        raise ValueError(f'the config cannot be parsed: {str(error) or "it is nested too deeply"}') from error
    found = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            found.append((node.targets[0].id, node.value))
        elif strict:
            _refuse(node)
    return found


def _check_nesting(text: str) -> None:
    """Refuse nesting that would exhaust the recursion of Python's parser.

    Brackets in strings count too: real configs have about ten levels.
    """
    depth = 0
    for number, line in enumerate(text.splitlines(), 1):
        for character in line:
            if character in '([{':
                depth += 1
                if depth > MAX_DEPTH:
                    raise ValueError(f'line {number} of the config is nested more than {MAX_DEPTH} levels deep')
            elif character in ')]}':
                depth = max(depth - 1, 0)


def _value(node: ast.expr, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError(f'line {node.lineno} of the config is nested more than {MAX_DEPTH} levels deep')
    if isinstance(node, ast.Constant) and (node.value is None or type(node.value) in (str, bool, int, float)):
        if type(node.value) is int and node.value >= MAX_INTEGER:
            raise ValueError(f'line {node.lineno} of the config has a number beyond 64 bits')
        return node.value
    if isinstance(node, ast.Name) and node.id in ('inf', 'nan'):  # how Python writes these numbers
        return math.inf if node.id == 'inf' else math.nan
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _value(node.operand, depth + 1)
        return -number if type(number) in (int, float) else _refuse(node)
    if isinstance(node, ast.List):
        return [_value(part, depth + 1) for part in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(part, depth + 1) for part in node.elts)
    if isinstance(node, ast.Dict) and None not in node.keys:
        values = [_value(part, depth + 1) for part in node.values]
        try:
            return dict(zip((_value(key, depth + 1) for key in node.keys), values, strict=True))
        except TypeError:  # a list as a key
            _refuse(node)
    is_dict = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict'
    # MMEngine writes dict({'a b': 1}) where a key is not a Python name
    if is_dict and [type(part) for part in node.args] in ([], [ast.Dict]) and all(k.arg for k in node.keywords):
        first = _value(node.args[0], depth + 1) if node.args else {}
        return {**first, **{keyword.arg: _value(keyword.value, depth + 1) for keyword in node.keywords}}
    return _refuse(node)


def _refuse(node: ast.AST) -> None:
    raise ValueError(
        f'line {node.lineno} of the config has {type(node).__name__}, which is not allowed: {ALLOWED}; nothing was '
        'executed'
    )


class DataLoader(getattr(yaml, 'CSafeLoader', yaml.SafeLoader)):
    """PyYAML's safe loader with limits on nesting and on the values that aliases (``*name``) repeat."""

    def get_single_data(self) -> object:
        """Return the one document of the stream.

        Raises:
            yaml.YAMLError: If it is not valid, has tags of Python, is nested too deeply, or its aliases repeat too
                many values.
        """
        try:
            node = self.get_single_node()
            check_amount(node, _yaml_parts, MAX_YAML_VALUES, MAX_YAML_DEPTH, yaml.YAMLError)
        except RecursionError as error:
            raise yaml.YAMLError('it is nested too deeply') from error
        return None if node is None else self.construct_document(node)


# for MMEngine's load and Config.fromfile
yaml_handler.Loader = DataLoader


def _yaml_parts(node: Any) -> Iterable[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return (part for pair in node.value for part in pair)
    return node.value if isinstance(node, yaml.SequenceNode) else ()


def check_amount(
    root: Any, parts_of: Callable[[Any], Iterable[Any]], most: int, deepest: int, error: type[Exception]
) -> None:
    """Refuse nested data with too many values, counting repeated references, or nested too deeply.

    A file may refer to a list many times, or to the list from within: code that walks through it would never end.

    Args:
        root: Outermost value.
        parts_of: Returns the values in a value; none for a plain one.
        most: Largest number of values.
        deepest: Largest number of levels.
        error: Class of the error.
    """
    counted: dict[int, int] = {}

    def count(node: Any, depth: int) -> int:
        if depth > deepest:
            raise error(f'values nested more than {deepest} levels deep')
        parts = parts_of(node)
        if not parts:
            return 1
        if id(node) not in counted:
            counted[id(node)] = most  # for a reference to a container around it
            counted[id(node)] = 1 + sum(count(part, depth + 1) for part in parts)
        if counted[id(node)] > most:
            raise error(f'more than {most:,} values, by references or to itself')
        return counted[id(node)]

    count(root, 0)


def base_text(base: Path, folder: Path) -> str:
    """Return how a config in ``folder`` names ``base``: ``mmyolo_ext::...`` in an installed package, else a path."""
    _, installed, name = base.as_posix().partition('/mmyolo_ext/.mim/configs/')
    return f'mmyolo_ext::{name}' if installed else Path(os.path.relpath(base.resolve(), folder.resolve())).as_posix()
