"""Read PyTorch checkpoints without executing what is in them.

A checkpoint is a pickle, and a pickle may call any function. PyTorch's ``weights_only=True`` calls none, but it
refuses files that hold anything besides weights, such as pickled models and checkpoints of MMEngine. This module reads
them: tensors and plain data as they are, objects of any other class as :class:`~.pickle_objects.StandIn`.
"""

import pickle
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, is_main_process
from torch import Tensor

from mmyolo_ext.checkpoint.config_text import check_amount
from mmyolo_ext.checkpoint.pickle_objects import RefusedError
from mmyolo_ext.checkpoint.safe_pickle import PICKLE_START, PickleModule, load_legacy

ZIP_START = b'PK\x03\x04'
LEGACY_START = pickle.dumps(torch.serialization.MAGIC_NUMBER, 2)[2:-1]  # of torch before 1.6
# torch stores without compression; a zip that grows by more was made to fill the memory
MOST_GROWTH = 20
MOST_VALUES, MOST_DEPTH = 20_000_000, 100


def read_checkpoint(path: str | Path, map_location: Any = 'cpu') -> Any:
    """Return the content of a file of ``torch.save`` (of any version) or ``pickle``.

    Args:
        path: File; ``~`` is the home folder.
        map_location: As in ``torch.load``.

    Raises:
        ValueError: If the file does not exist, is empty, cut short or of another format, or names code; that code has
            not run.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f'there is no checkpoint {path}' + (': it is a folder' if path.is_dir() else ''))
    if path.stat().st_size == 0:
        raise ValueError(f'the checkpoint {path} is empty (0 bytes): copy or download it again')
    try:
        with path.open('rb') as file:
            content = _read(file, path.stat().st_size, map_location)
        check_amount(content, _parts, MOST_VALUES, MOST_DEPTH, RefusedError)
        return content
    except RefusedError as error:
        raise ValueError(
            f'the checkpoint {path} is refused, and nothing of it has run: it asks for {error}. A checkpoint that '
            'does this is hostile, or holds more than weights: save its state dict alone where you trust it'
        ) from error
    # a broken pickle may raise anything
    except Exception as error:
        reason = str(error).strip().split('\n')[0] or type(error).__name__
        raise ValueError(
            f'the checkpoint {path} cannot be read as a file of torch.save ({reason}): it may be cut short or not a '
            'checkpoint; copy or download it again'
        ) from error


def _read(file: BinaryIO, size: int, map_location: Any) -> Any:
    start = file.read(32)
    file.seek(0)
    if start.startswith(ZIP_START):
        sizes = _storage_sizes(file, size)
        file.seek(0)
        return torch.load(file, map_location, PickleModule(sizes), weights_only=False)
    if start[:1] != PICKLE_START:
        raise ValueError(f'it starts with {start[:4]!r}')
    if LEGACY_START in start:
        return load_legacy(file.read(), map_location)
    return PickleModule({}).load(file)


def check_growth(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Refuse a zip whose entries together are far larger than the file, because compressed or overlapping.

    Raises:
        RefusedError: If they are.
    """
    if sum(entry.file_size for entry in entries) > MOST_GROWTH * size + 2**20:
        raise RefusedError(f'more than {MOST_GROWTH} times its own size')


def _parts(node: Any) -> Iterable[Any]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, (list, tuple, set, frozenset)) else ()


def _storage_sizes(file: BinaryIO, size: int) -> dict[str, int]:
    """Return the bytes of every storage in a zip of torch by its key; refuse what torch would not write."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    if any(entry.filename.startswith(('/', '\\')) or '..' in entry.filename.split('/') for entry in entries):
        raise RefusedError('a file outside of the archive')
    check_growth(entries, size)
    file.seek(0)
    # torch's own list of records decides whether it runs a program
    if 'constants.pkl' in torch._C.PyTorchFileReader(file).get_all_records():
        raise RefusedError('a program of TorchScript (torch.jit.save), which is code and not a checkpoint')
    inside = {entry.filename.partition('/')[2]: entry.file_size for entry in entries}
    return {name.removeprefix('data/'): count for name, count in inside.items() if name.startswith('data/')}


NAMED = 3  # tensors in the message


def non_finite_names(state_dict: Mapping[str, Any]) -> list[str]:
    """Return the names of floating-point tensors that hold NaN or infinity.

    A tensor of zeros and minus infinities passes: it is a mask that is added to attention scores.

    Args:
        state_dict: Names to tensors; may be nested, as that of an optimizer; other values are left out.
    """
    return [name for name, tensor in _named_tensors(state_dict, '') if not _is_finite(tensor)]


def check_finite(state_dict: Mapping[str, Any], source: str | Path) -> None:
    """Refuse a state dict that holds NaN or infinity.

    Args:
        state_dict: As of :func:`non_finite_names`.
        source: File it came from, for the message.

    Raises:
        ValueError: Naming the file and the tensors.
    """
    names = non_finite_names(state_dict)
    if names:
        more = f' and {len(names) - NAMED} more' if len(names) > NAMED else ''
        raise ValueError(
            f'{source} holds NaN or infinity in {", ".join(names[:NAMED])}{more}: the training that wrote it had '
            'diverged; use an earlier checkpoint'
        )


def _is_finite(tensor: Tensor) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.is_meta or bool(tensor.isfinite().all()):
        return True
    return bool(((tensor == 0) | (tensor == float('-inf'))).all())


def _named_tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, (Mapping, list, tuple)):
        entries = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, entry in entries:
            yield from _named_tensors(entry, f'{name}.{key}' if name else str(key))


def downloaded(url: str, with_hash: bool = False) -> Path:
    """Download a file once into the cache of ``torch.hub``; rank 0 downloads for all that share its disk.

    Args:
        url: ``http(s)://``, ending with a file name.
        with_hash: Check the start of the file's SHA-256, which ends the name after a hyphen.

    Returns:
        Path of the file.

    Raises:
        ValueError: If the URL names no file, the download fails, or the hash differs; on every rank.
    """
    path = Path(torch.hub.get_dir()) / 'checkpoints' / Path(urlparse(url).path).name
    if not path.suffix:
        raise ValueError(f'{url} does not end with a file name: download the file and give its path')
    try:
        if is_main_process():
            _download(url, path, with_hash)
    finally:
        barrier()
    _download(url, path, with_hash)  # on other machines
    return path


def _download(url: str, path: Path, with_hash: bool) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = path.stem.rpartition('-')[2] if with_hash else None
    try:
        torch.hub.download_url_to_file(url, str(path), digest, progress=sys.stderr.isatty())
    # no network, no such page; and RuntimeError for another hash
    except (OSError, RuntimeError) as error:
        raise ValueError(f'{url} cannot be downloaded ({error}): put the file at {path}, or give its path') from error
