"""Weights by name, from the lists of the packages that publish them: ``load_from = 'mmdet::rtmdet_tiny'``.

=================  ===================================================================================================
``mmdet::``        the metafiles of mmdet: names, aliases and stems of configs, or the start of one: ``rtmdet_tiny``
``torchvision::``  ``torchvision.models``, or MMEngine's copy of its list: ``shufflenet_v2_x1_0``
``timm::``         ``timm.list_pretrained()``: ``resnet18.a1_in1k``
=================  ===================================================================================================

A file is downloaded once into the cache of ``torch.hub``, and compared with the hash in its name.
"""

import functools
import hashlib
import importlib
import importlib.util
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import mmengine
from mmengine.fileio import load
from mmengine.logging import print_log

from mmyolo_ext.checkpoint.safe_load import downloaded

HASH = re.compile(r'-([0-9a-f]{8,64})$')  # at the end of a file's stem, as torch.hub has it
TIMM_HUB = 'https://huggingface.co/{}/resolve/main/pytorch_model.bin'
NON_COMMERCIAL = re.compile(r'\bnc\b|non-?commercial', re.IGNORECASE)
SHOWN = 5


@dataclass(frozen=True)
class ZooWeights:
    """Published weights.

    Attributes:
        name: As the user wrote it, with its package.
        url: Of the file.
        licence: SPDX name of the licence, None if the package states none.
        note: What the licence refers to.
        data: Data of the training, None if unknown.
    """

    name: str
    url: str
    licence: str | None
    note: str
    data: str | None = None

    @property
    def digest(self) -> str | None:
        """Return the start of the file's SHA-256, from its name; None if it has none."""
        found = HASH.search(Path(urlparse(self.url).path).stem)
        return found and found[1]

    def __str__(self) -> str:
        data = f', trained on {self.data}' if self.data else ''
        return f'{self.name}: {self.url} (licence {self.licence or "not stated"}: {self.note}{data})'


def is_zoo_name(source: object) -> bool:
    """Return whether a text has the form ``PACKAGE::NAME`` with a package of :data:`PACKAGES`."""
    return isinstance(source, str) and '::' in source and source.partition('::')[0] in PACKAGES


def origins_in(config: Mapping[str, Any]) -> list[dict[str, str | None]]:
    """Return the origins of the weights that a config names, for the ``meta`` of checkpoints and the model card."""
    names = [config.get('load_from'), *_texts(config.get('model'))]
    origins = []
    for name in dict.fromkeys(name for name in names if is_zoo_name(name)):
        with suppress(ValueError):  # of a package that is gone by now
            weights = find_weights(name)
            note = ', '.join(filter(None, (weights.note, weights.data and f'trained on {weights.data}')))
            source = f'{name} = {weights.url}'
            origins.append({'source': source, 'format': None, 'licence': weights.licence, 'note': note})
    return origins


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping | list | tuple):
        for part in node.values() if isinstance(node, Mapping) else node:
            yield from _texts(part)


def fetch(name: str) -> Path:
    """Download the weights of a name, once; log their source, licence and hash.

    Raises:
        ValueError: If the name is unknown, or there is no network: with the URL and where to put the file.
    """
    weights = find_weights(name)
    path = downloaded(weights.url, with_hash=weights.digest is not None)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if weights.digest and not digest.startswith(weights.digest):
        raise ValueError(
            f'{path} is not the file of {weights.url}: its SHA-256 starts with {digest[: len(weights.digest)]}, not '
            f'{weights.digest}; delete it and download it again'
        )
    checked = 'as in its name' if weights.digest else 'which its publisher does not state'
    level = logging.WARNING if NON_COMMERCIAL.search(weights.licence or '') else logging.INFO
    print_log(f'Weights {weights}; SHA-256 {digest[:16]}, {checked}', 'current', level)
    return path


@functools.cache
def find_weights(name: str) -> ZooWeights:
    """Look up a name such as ``mmdet::rtmdet_tiny``, without the network.

    Raises:
        ValueError: If the package or the name is unknown or ambiguous.
    """
    package, _, model = name.partition('::')
    if package not in PACKAGES or not model:
        raise ValueError(f'weights must be PACKAGE::NAME with one of the packages {", ".join(PACKAGES)}, got {name!r}')
    return PACKAGES[package](name, model)


def _find_mmdet(name: str, model: str) -> ZooWeights:
    folder = _package_folder('mmdet') / '.mim'
    files = sorted((folder / 'configs').glob('*/metafile.yml'))
    if not files:
        raise ValueError(f'the installed mmdet has no metafiles in {folder}: install it again by pip')
    # a hundred files of YAML take seconds to parse: read those that can contain the name
    plain = _plain(model)
    entries = [entry for file in files if plain in _plain(file.read_text('utf-8')) for entry in _models(file)]
    exact = [entry for entry in entries if plain in map(_plain, _names(entry))]
    starting = [entry for entry in entries if any(_plain(n).startswith(plain + '_') for n in _names(entry))]
    found = {str(entry['Weights']): entry for entry in exact or starting}
    if len(found) != 1:
        known = [str(entry['Name']) for entry in found.values()]
        known = known or [str(entry['Name']) for file in files for entry in _models(file)]
        raise ValueError(_unknown(name, model, known, bool(found)))
    url, entry = found.popitem()
    results = entry.get('Results')
    data = results[0].get('Dataset') if isinstance(results, list) and results else None
    return ZooWeights(name, url, 'Apache-2.0', 'that of MMDetection, which publishes them', data)


def _models(file: Path) -> list[dict]:
    content = load(file)
    models = content.get('Models', []) if isinstance(content, dict) else content
    return [entry for entry in models or [] if isinstance(entry, dict) and entry.get('Weights')]


def _names(entry: dict) -> list[str]:
    alias = entry.get('Alias') or []
    return [str(entry['Name']), Path(str(entry.get('Config'))).stem, *([alias] if isinstance(alias, str) else alias)]


def _find_torchvision(name: str, model: str) -> ZooWeights:
    licence = 'BSD-3-Clause', "that of torchvision; the data's terms may also apply", 'ImageNet-1K'
    model, _, tag = model.partition('.')
    models = None
    with suppress(Exception):  # absent, or built for another torch, which fails in its own way
        models = importlib.import_module('torchvision.models')
    if models is not None:
        if model in models.list_models():
            table = models.get_model_weights(model)
            tags = {weights.name.lower(): weights.url for weights in table}
            if tag.lower() not in ('', *tags) or not tags:
                raise ValueError(f'{name}: {model} has the weights {", ".join(tags) or "none"}, got {tag!r}')
            return ZooWeights(name, tags[tag.lower()] if tag else table.DEFAULT.url, *licence)
        known = models.list_models()
    else:
        table = load(Path(mmengine.__file__).parent / 'hub' / 'torchvision_0.12.json')
        by_name = {_letters(key): url for key, url in table.items() if url}  # names of older releases
        if not tag and (url := by_name.get(_letters(model))):
            return ZooWeights(name, url, *licence)
        known = [key for key, url in table.items() if url]
    raise ValueError(_unknown(name, model, known, False))


def _find_timm(name: str, model: str) -> ZooWeights:
    try:
        timm = importlib.import_module('timm')
    except Exception as error:  # absent, or with a torchvision of another build, which fails in its own way
        raise ValueError(f'{name} needs timm: pip install timm ({type(error).__name__}: {error})') from error
    config = timm.get_pretrained_cfg(model) if model.partition('.')[0] in timm.list_models() else None
    url = config and (config.url or (TIMM_HUB.format(config.hf_hub_id) if config.hf_hub_id else None))
    if not url:
        raise ValueError(_unknown(name, model, timm.list_pretrained(), False))
    return ZooWeights(name, url, config.license, 'as timm states it', None)


PACKAGES: dict[str, Callable[[str, str], ZooWeights]] = {
    'mmdet': _find_mmdet,
    'torchvision': _find_torchvision,
    'timm': _find_timm,
}


def _letters(text: str) -> str:
    return re.sub(r'[^a-z0-9]', '', text.lower())


def _plain(text: str) -> str:
    return re.sub(r'[-.]', '_', text.lower())


def _unknown(name: str, model: str, known: Iterable[str], ambiguous: bool) -> str:
    if ambiguous:
        return f'{name} may be {", ".join(sorted(known)[:SHOWN])}: write the whole name'
    starts = {key[: len(model)]: key for key in sorted(known, reverse=True)}  # names end with the schedule
    close = [starts[start] for start in get_close_matches(model, starts, SHOWN, 0.7)]
    return f'there are no weights {name}' + (f': did you mean {", ".join(close)}?' if close else '')


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.origin:
        raise ValueError(f'{package} is not installed: pip install {package}')
    return Path(spec.origin).parent
