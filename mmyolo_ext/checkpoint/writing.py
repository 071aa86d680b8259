"""Write checkpoints so that neither a killed process nor a full disk loses a complete one."""

import errno
import hashlib
import io
import json
import math
import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

MANIFEST = 'checkpoints.json'
POINTER = 'last_checkpoint'
HASH_DIGITS = 8  # in the name of a published file, as mmdet and torch.hub have it
# variances reach 1e-9 and 1e6, beyond float16; they are under one percent of the numbers
STATISTICS = ('running_mean', 'running_var')
UNFINISHED = '.writing'  # suffix of a file before it is renamed
OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT)
# what MMEngine and this package call checkpoints of a run; best_* hold weights alone
NUMBERED = re.compile(r'(?P<best>best_.+_)?(?P<unit>epoch|iter)_(?P<number>\d{1,15})\.pth')
RESUMABLE = ('periodic', 'emergency')
FACTS = {
    'epoch': int,
    'iter': int,
    'batch': int,
    'size': int,
    'sha256': str,
    'kind': str,
    'metric': str,
    'score': float,
}


class WriteError(RuntimeError):
    """A checkpoint could not be written; what was written before is untouched."""


class CheckpointFolder:
    """The checkpoints of a run, and the manifest of those that were completely written.

    ``checkpoints.json`` gives for each file ``sha256``, ``size``, ``epoch`` and ``iter`` (completed counts), ``batch``
    (completed iterations of the epoch after those), ``kind`` (``periodic``, ``emergency`` or ``best``), and for the
    best ones ``metric`` and ``score``. A file that was renamed just before the process was killed is not in it; its
    own checksums show whether it is complete.

    Args:
        folder: Where the files are; made by the first write.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        # a process killed after it deleted a file leaves its entry
        self.entries = {name: at for name, at in read_manifest(self.folder).items() if _is_file(self.folder / name)}

    def write(self, name: str, content: Any, expendable: Iterable[str] = (), **facts: Any) -> Path:
        """Write a checkpoint under its final name only when all of it is on the disk, then note it in the manifest.

        Args:
            name: Plain file name.
            content: What ``torch.save`` takes; only plain data, so that ``torch.load`` reads it back safely.
            expendable: Files of the run that would be deleted after this write anyway; if the disk is full, they are
                deleted before a second attempt.
            **facts: ``epoch``, ``iter``, ``batch``, ``kind``, ``metric``, ``score``.

        Raises:
            WriteError: The disk is full, permission was lost, or the file reads back differently.
        """
        path = self.folder / name
        stream = io.BytesIO()
        torch.save(content, stream)
        saved = stream.getbuffer()
        with _write_errors(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.entries.pop(name, None):  # until the new one is noted, the file's own checksums count
                self._write_manifest()
            try:
                _write_file(path, saved)
            except OSError as error:
                expendable = [other for other in expendable if other != name]
                if error.errno not in OUT_OF_SPACE or not self._unlink(expendable):
                    raise
                _write_file(path, saved)
            digest = hashlib.sha256(saved).hexdigest()
            if digest_of(path) != digest:
                raise OSError(errno.EIO, 'it reads back differently from what was written')
            self.entries[name] = {'sha256': digest, 'size': len(saved), **facts}
            self._write_manifest()
        return path

    def adopt(self, name: str, **facts: Any) -> None:
        """Note a complete checkpoint that the manifest does not know.

        Args:
            name: File in this folder.
            **facts: As of :meth:`write`.

        Raises:
            WriteError: The manifest cannot be written.
        """
        path = self.folder / name
        with _write_errors(self.folder / MANIFEST):
            self.entries[name] = {'sha256': digest_of(path), 'size': path.stat().st_size, **facts}
            self._write_manifest()

    def point(self, folder: str | Path, name: str) -> None:
        """Name a checkpoint in ``last_checkpoint`` of ``folder``; a hint for other tools.

        Raises:
            WriteError: It cannot be written.
        """
        pointer = Path(folder) / POINTER
        with _write_errors(pointer):
            _write_file(pointer, str(self.folder / name).encode(), sync=False)

    def delete(self, names: Iterable[str]) -> None:
        """Delete checkpoints of this folder; what cannot be deleted is left."""
        gone = list(names)
        self._unlink(gone)
        if self.entries.keys() & set(gone):
            self.entries = {name: facts for name, facts in self.entries.items() if name not in gone}
            with suppress(OSError):
                self._write_manifest()

    def best(self, metric: str) -> tuple[str, float] | None:
        """Return name and score of the best checkpoint by a metric, if the file is there."""
        for name, facts in reversed(self.entries.items()):
            if facts.get('metric') == metric and math.isfinite(facts.get('score', math.nan)):
                return name, facts['score']
        return None

    def newest(self) -> Path | None:
        """Return the newest checkpoint of the manifest to resume from, if any is there."""
        usable = [(moment_of(facts), name) for name, facts in self.entries.items() if facts.get('kind') in RESUMABLE]
        return self.folder / max(usable)[1] if usable else None

    def set_aside(self, names: Iterable[str], timestamp: str) -> Path | None:
        """Move checkpoints into a new subfolder ``earlier_TIMESTAMP``, with their part of the manifest.

        Returns:
            The subfolder, or None where no file is to be moved.
        """
        names = [name for name in names if _is_file(self.folder / name)]
        if not names:
            return None
        target = self.folder / f'earlier_{timestamp}'
        while target.exists():
            target = target.with_name(f'{target.name}_2')
        target.mkdir()
        moved = {name: self.entries.pop(name) for name in names if name in self.entries}
        if moved:
            _write_json(target / MANIFEST, moved)
            self._write_manifest()
        for name in names:
            os.rename(self.folder / name, target / name)
        _sync_folder(self.folder)
        return target

    def _write_manifest(self) -> None:
        _write_json(self.folder / MANIFEST, self.entries)

    def _unlink(self, names: Iterable[str]) -> bool:
        """Delete regular files of the folder; return whether any is deleted."""
        gone = False
        for name in names:
            if is_plain_name(name) and _is_file(self.folder / name):
                with suppress(OSError):
                    (self.folder / name).unlink()
                    gone = True
        return gone


def moment_of(facts: Mapping[str, Any]) -> tuple[int, int]:
    """Return when a checkpoint was saved, in epochs and iterations of the next one, which sorts in order of time.

    The count of iterations would not: epochs get shorter when a run resumes with a larger batch.
    """
    return facts.get('epoch', -1), facts.get('batch', 0)


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of ``checkpoints.json`` by file name; empty if it is missing or damaged.

    Only plain file names and known facts of the right type are taken, whoever wrote the file.
    """
    try:
        read = json.loads((folder / MANIFEST).read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):
        return {}
    entries = {}
    for name, facts in read.items() if isinstance(read, dict) else ():
        if is_plain_name(name) and isinstance(facts, dict):
            entries[name] = {
                key: kind(facts[key])
                for key, kind in FACTS.items()
                if isinstance(facts.get(key), (int, float) if kind is float else kind)
            }
    return entries


def checkpoint_names(folder: str | Path) -> list[str]:
    """Return the names of the checkpoints in a folder, the best ones and those of another naming included."""
    names = file_names(folder)
    known = read_manifest(Path(folder))
    return [name for name in names if name in known or NUMBERED.fullmatch(name)]


def file_names(folder: str | Path) -> list[str]:
    """Return the names of the regular files in a folder, sorted; links are left out."""
    try:
        with os.scandir(folder) as found:
            return sorted(entry.name for entry in found if entry.is_file(follow_symlinks=False))
    except OSError:
        return []


def remove_unfinished(folder: str | Path) -> list[str]:
    """Delete unfinished files of killed processes, and return their names."""
    names = [name for name in file_names(folder) if name.startswith('.') and name.endswith(UNFINISHED)]
    for name in names:
        with suppress(OSError):
            (Path(folder) / name).unlink()
    return names


def is_plain_name(name: object) -> bool:
    """Return whether a name from a file is a plain file name, without a folder."""
    return isinstance(name, str) and PurePath(name).name == name and name not in ('', '.', '..') and '\0' not in name


def plain(value: Any, dropped: list[str] | None = None, where: str = '') -> Any:
    """Return a value as ``torch.load`` reads it back with ``weights_only=True``: tensors and Python's own types.

    Arrays become tensors, histories of MMEngine dicts of two tensors; tensors go to the CPU.

    Args:
        value: Any nesting of mappings and sequences.
        dropped: Takes the places of values of other types, which become None.
        where: Place of the value, for ``dropped``.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, PurePath):
        return str(value)
    if value is None or isinstance(value, (bool, bytes)) or type(value) in PLAIN:
        return value
    if isinstance(value, HistoryBuffer):
        logs, counts = (torch.from_numpy(np.array(part, dtype=np.float64)) for part in value.data)
        return {'log': logs, 'count': counts, 'max_length': int(value.max_length)}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in 'bif':
        return torch.from_numpy(value.copy())
    for kind in (str, int, float):  # of their subclasses
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        items = {key: plain(part, dropped, f'{where}.{key}') for key, part in value.items() if type(key) in PLAIN}
        if not isinstance(value, OrderedDict):
            return items
        items = OrderedDict(items)
        if hasattr(value, '_metadata'):
            items._metadata = plain(value._metadata)
        return items
    if isinstance(value, (list, tuple, set, frozenset, np.ndarray)):
        parts = [plain(part, dropped, f'{where}[{index}]') for index, part in enumerate(value)]
        return tuple(parts) if isinstance(value, tuple) else parts
    if dropped is not None:
        dropped.append(f'{where.removeprefix(".")} ({type(value).__name__})')
    return None


PLAIN = (str, int, float, bool, torch.Size, torch.dtype, torch.device)


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(f'cannot write {error.filename or path}: {error.strerror or error}') from error


def _write_file(path: Path, content: bytes | memoryview, sync: bool = True) -> None:
    """Write a file under another name, flush it to disk and rename it.

    Args:
        path: Of the file.
        content: Of the file.
        sync: Wait until it is on the disk; a file that may be lost need not.
    """
    unfinished = path.with_name(f'.{path.name}{UNFINISHED}')
    try:
        with unfinished.open('wb') as file:
            file.write(content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException as error:
        with suppress(OSError):
            unfinished.unlink()
        if isinstance(error, OSError):
            error.filename = str(path)
        raise
    if sync:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Flush file names to disk, which a rename alone does not."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # file systems that cannot
            raise
    finally:
        os.close(handle)


def _write_json(path: Path, content: Any) -> None:
    _write_file(path, json.dumps(content, indent=1).encode())


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    found = hashlib.sha256()
    with path.open('rb') as file:
        while part := file.read(2**20):
            found.update(part)
    return found.hexdigest()


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def slim(state_dict: Mapping[str, Tensor], half: bool) -> tuple[dict[str, Tensor], list[str]]:
    """Copy the tensors of a state dict for publication: contiguous, without shared memory.

    Args:
        state_dict: Weights that were validated, ``state_dict`` of a checkpoint: MMEngine's ``EMAHook`` stores the EMA
            there, and the weights to resume from in ``ema_state_dict``.
        half: Store floating-point tensors in float16, except the statistics of norm layers and tensors with a value
            beyond 65504, the largest of float16, which stay in float32.

    Returns:
        The copies, and the names of the tensors besides statistics that stay in float32.

    """
    slimmed, wide = {}, []
    for name, value in state_dict.items():
        value = value.detach().cpu()
        dtype = torch.float32 if value.is_floating_point() else value.dtype
        if half and value.is_floating_point() and not name.endswith(STATISTICS):
            if value.half().isfinite().all():
                dtype = torch.float16
            else:
                wide.append(name)
        slimmed[name] = value.to(dtype).clone(memory_format=torch.contiguous_format)
    return slimmed, wide


def pack(state_dict: Mapping[str, Tensor], meta: Mapping[str, Any]) -> tuple[bytes, str]:
    """Return the bytes of a published file, and the first digits of their SHA-256 for its name.

    The same weights and ``meta`` give the same bytes with the same release of PyTorch.
    """
    stream = io.BytesIO()
    torch.save({'meta': dict(meta), 'state_dict': dict(state_dict)}, stream)
    content = stream.getvalue()
    return content, hashlib.sha256(content).hexdigest()[:HASH_DIGITS]
