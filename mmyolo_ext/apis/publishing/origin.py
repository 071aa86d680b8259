"""Where the weights of a training came from, and under which licence that is.

A chain is followed as long as its files are there: a checkpoint that started from another, which was converted from a
third. Nothing in them is executed; the config that MMEngine keeps in a checkpoint is read as text.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

from mmyolo_ext.apis.config_nodes import kind, walk
from mmyolo_ext.checkpoint.config_text import parse_plain_parts
from mmyolo_ext.compat.checkpoint_file import read_checkpoint
from mmyolo_ext.weights import detect

# the licence of the tool that writes such files, which its owners claim for weights trained with it
FORMAT_LICENCES = {'ultralytics': 'AGPL-3.0', 'mmyolo': 'GPL-3.0'}
# the first that is found in a place
PLACE_LICENCES = (
    ('ultralytics', 'AGPL-3.0'),
    ('openmmlab.com/mmyolo/', 'GPL-3.0'),
    ('torchvision://', 'BSD-3-Clause'),
    ('download.pytorch.org/', 'BSD-3-Clause'),
    ('mmcls://', 'Apache-2.0'),
    ('open-mmlab://', 'Apache-2.0'),
    ('openmmlab.com/', 'Apache-2.0'),
)
OWN_FORMATS = ('mmyolo_ext', None)


class Origin(NamedTuple):
    """Weights that a training started from: their place, the name alone of a local file; what is known of them."""

    place: str
    format: str | None = None
    licence: str | None = None
    note: str = ''

    @property
    def copyleft(self) -> bool:
        """Whether the licence asks that what builds on the work be under it too."""
        return (self.licence or '').upper().startswith(('AGPL', 'GPL'))

    def __str__(self) -> str:
        """Place, format, licence and note in one line."""
        known = f'format of {self.format}' if self.format else ''
        parts = (known, f'licence {self.licence or "not known"}', self.note)
        return f'{self.place} ({", ".join(part for part in parts if part)})'


def origins(config: Mapping[str, Any], content: Any, name: str) -> list[Origin]:
    """All that is behind a checkpoint, each once.

    Args:
        config: of its training, as given; what the checkpoint itself keeps of its config counts too.
        content: of the checkpoint, from ``read_checkpoint``.
        name: of its file.
    """
    seen: set[str] = set()
    found = [
        *_behind_content(content, name, seen),
        *(origin for place in places(config) for origin in _behind(place, seen)),
    ]
    return list(dict.fromkeys(found))


def places(config: Mapping[str, Any]) -> Iterator[str]:
    """What a config starts weights from: ``load_from``, ``init_cfg`` and the like of the model's parts."""
    if isinstance(config.get('load_from'), str):
        yield config['load_from']
    for node in walk(config.get('model')):
        yield from (init['checkpoint'] for init in pretrained_of(node) if isinstance(init.get('checkpoint'), str))
        yield from (node[key] for key in ('pretrained', 'weights') if isinstance(node.get(key), str))
        if node.get('pretrained') is True:
            yield f'{kind(node)} {node.get("model_name", "")}'.strip()


def pretrained_of(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The entries of type Pretrained in the ``init_cfg`` of a model's part."""
    inits = node.get('init_cfg')
    inits = inits if isinstance(inits, (list, tuple)) else [inits]
    return [init for init in inits if isinstance(init, Mapping) and kind(init) == 'Pretrained']


def _behind(place: str, seen: set[str]) -> list[Origin]:
    """What stands behind a place, itself first."""
    if place in seen:
        return []
    seen.add(place)
    licence = next((licence for part, licence in PLACE_LICENCES if part in place.lower()), None)
    if '://' in place or not re.search(r'\.\w+$', place):  # an address, or a name such as timm's
        return [Origin(place, licence=licence)]
    path = Path(place).expanduser()
    if path.suffix == '.weights':
        return [Origin(path.name, 'darknet', licence)]
    if not path.is_file():
        return [Origin(path.name, licence=licence, note='the file is not there, so what it is cannot be told')]
    try:
        content = read_checkpoint(path)
    except ValueError:
        return [Origin(path.name, licence=licence, note='the file cannot be read')]
    behind = _behind_content(content, path.name, seen)
    return behind or [Origin(path.name, detect(content), licence or _meta(content).get('license'))]


def _behind_content(content: Any, name: str, seen: set[str]) -> list[Origin]:
    """What a checkpoint tells of itself: of another tool, converted from one, or started from others."""
    form = detect(content)
    if form in FORMAT_LICENCES:
        return [Origin(name, form, FORMAT_LICENCES[form])]
    meta = _meta(content)
    converted = re.fullmatch(r'(.+) \((\w+)\)', str(meta.get('converted_from')))
    found = [Origin(converted[1], converted[2], FORMAT_LICENCES.get(converted[2]))] if converted else []
    found += _told(meta.get('origins'))
    return found + [more for place in places(parse_plain_parts(meta.get('cfg'))) for more in _behind(place, seen)]


def _told(entries: Any) -> list[Origin]:
    """What a file that this tool published says of its origins; what is not of that form is passed over."""
    entries = entries if isinstance(entries, list) else []
    fields = set(Origin._fields)
    entries = [entry for entry in entries if isinstance(entry, dict) and set(entry) == fields]
    return [Origin(**entry) for entry in entries if all(isinstance(part, (str, NoneType)) for part in entry.values())]


def _meta(content: Any) -> Mapping[str, Any]:
    meta = content.get('meta') if isinstance(content, Mapping) else None
    return meta if isinstance(meta, Mapping) else {}
