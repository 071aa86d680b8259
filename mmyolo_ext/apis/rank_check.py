"""Check that all ranks train on the same config and the same data, before anything is built."""

import hashlib
import os
import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlparse

import torch
from mmengine.config import Config
from torch import distributed

from mmyolo_ext.apis.config_nodes import leaf_datasets
from mmyolo_ext.version import __version__

# Keys that say where something lies: every node may keep its copy elsewhere.
PLACES = {'work_dir', 'data_root', 'ann_file', 'data_prefix', 'filename', 'folder', 'save_dir', 'out_dir'}
MOST_DIFFERENCES = 3
MOST_RANKS = 3
CHUNK_BYTES = 1 << 20


def check_ranks(cfg: Config, loaders: Sequence[str]) -> None:
    """Compare config, versions, annotations and the number of images of every rank with those of rank 0.

    Each node's first rank reads its annotation files once and counts its images; the others of the node see the same
    files. All ranks take part and all of them end the same way, so that none waits for one that has stopped.

    Args:
        cfg: The resolved config.
        loaders: The loaders in use, such as ``['train_dataloader', 'val_dataloader']``.

    Raises:
        ValueError: On every rank, if a rank differs or its data is missing. The message names rank, host and what
            differs.
    """
    try:
        facts = (config_facts(cfg), _data_facts(cfg, loaders))
        problems = []
    except (OSError, ValueError) as error:
        facts, problems = None, [str(error)]
    host = socket.gethostname()
    reference = [(host, facts)]
    distributed.broadcast_object_list(reference, src=0)
    first_host, expected = reference[0]
    if facts and expected:
        problems = [*_differences(facts[0], expected[0]), *_differences(*_common(facts[1], expected[1]))]
    reports: list = [None] * distributed.get_world_size()
    distributed.all_gather_object(reports, (host, facts is not None, problems))
    faults = [_fault(rank, *report, first_host) for rank, report in enumerate(reports) if report[2]]
    if faults:
        more = f'; and {len(faults) - MOST_RANKS} more ranks' if len(faults) > MOST_RANKS else ''
        raise ValueError('; '.join(faults[:MOST_RANKS]) + more)


def _fault(rank: int, host: str, compared: bool, problems: list[str], first_host: str) -> str:
    more = f' and {len(problems) - MOST_DIFFERENCES} more' if len(problems) > MOST_DIFFERENCES else ''
    text = ', '.join(problems[:MOST_DIFFERENCES]) + more
    if compared:
        return f'rank {rank} (host {host}) differs from rank 0 (host {first_host}): {text}'
    return f'rank {rank} (host {host}): {text}'


def _differences(facts: dict[str, str], expected: dict[str, str]) -> Iterator[str]:
    for name in [*expected, *(name for name in facts if name not in expected)]:
        own, first = facts.get(name, 'missing'), expected.get(name, 'missing')
        if own != first:
            yield f'{name} is {own}, not {first}'


def _common(*facts: dict[str, str]) -> list[dict[str, str]]:
    return [{name: part[name] for name in part if all(name in other for other in facts)} for part in facts]


def config_facts(cfg: Config) -> dict[str, str]:
    """Return what must be the same on all ranks whatever their data: versions, and each value of the config."""
    facts = {'version of mmyolo_ext': __version__, 'version of torch': torch.__version__}
    facts.update(_leaves(cfg.to_dict()))
    return facts


def _leaves(node: object, path: str = '') -> Iterator[tuple[str, str]]:
    """Yield the keys and values of a nested config, as ``train_dataloader.batch_size`` and ``'16'``."""
    if isinstance(node, dict):
        children = node.items()
    elif isinstance(node, (list, tuple)) and any(isinstance(child, (dict, list, tuple)) for child in node):
        children = enumerate(node)
    else:
        text = re.sub(r' at 0x[0-9a-f]+', '', repr(node))  # addresses of functions
        yield path, text if len(text) <= 80 else f'{text[:40]}... ({hashlib.sha256(text.encode()).hexdigest()[:8]})'
        return
    for key, child in children:
        if key not in PLACES:
            yield from _leaves(child, f'{path}.{key}' if path else str(key))


def _data_facts(cfg: Config, loaders: Sequence[str]) -> dict[str, str]:
    facts: dict[str, str] = {}
    if int(os.environ.get('LOCAL_RANK', 0)) > 0:  # the first rank of the node reads the same files
        return facts
    for loader in loaders:
        datasets = leaf_datasets(cfg[loader].dataset) if cfg.get(loader) else ()
        for number, dataset in enumerate(datasets):
            where = loader + (f' ({number + 1})' if number else '')
            annotations = _local_path(dataset, dataset.get('ann_file'))
            if annotations:
                facts[f'annotation file {annotations.name} of {where}'] = _content(annotations)
            for prefix in (dataset.get('data_prefix') or {}).values():
                folder = _local_path(dataset, prefix)
                if folder:
                    facts[f'number of files in {folder.name} of {where}'] = str(_count_files(folder))
    if cfg.get('load_from') and Path(cfg.load_from).is_file():
        facts['content of load_from'] = _content(Path(cfg.load_from))
    return facts


def _local_path(dataset: dict, relative: str | None) -> Path | None:
    """Return the path of a file or folder of a data set; None for what is not on a disk."""
    root = dataset.get('data_root') or ''
    if not isinstance(relative, str) or not relative or dataset.get('backend_args'):
        return None
    if len(urlparse(root).scheme) > 1 or len(urlparse(relative).scheme) > 1:
        return None
    return Path(root) / relative


def _content(path: Path) -> str:
    """Describe what is in a file, or in the files of a folder by their names and sizes.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    digest = hashlib.sha256()
    if path.is_dir():
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            digest.update(f'{entry.name} {entry.stat().st_size}\n'.encode())
        return f'a folder of other content ({digest.hexdigest()[:8]})'
    try:
        with path.open('rb') as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
    except FileNotFoundError:
        raise FileNotFoundError(f'the annotation file {path} does not exist') from None
    return f'{path.stat().st_size:,} bytes with SHA-256 {digest.hexdigest()[:8]}'


def _count_files(folder: Path) -> int:
    try:
        with os.scandir(folder) as entries:
            return sum(1 for _ in entries)
    except FileNotFoundError:
        raise FileNotFoundError(f'the image folder {folder} does not exist') from None
