"""Download a checkpoint once, for all processes that share a disk."""

import sys
from pathlib import Path
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, is_main_process


def downloaded(url: str, with_hash: bool = False) -> Path:
    """The file, kept where ``torch.hub`` keeps its own; rank 0 downloads for all that share its disk.

    Args:
        url: ``http(s)://``, ending with the name of a file.
        with_hash: the name ends with the start of the file's SHA-256, after a hyphen, which must be right.

    Raises:
        ValueError: no name of a file, nothing can be downloaded from there, or another hash. Every rank raises it:
            none is left waiting.
    """
    path = Path(torch.hub.get_dir()) / 'checkpoints' / Path(urlparse(url).path).name
    if not path.suffix:
        raise ValueError(f'{url} does not end with the name of a file: download it and give the path')
    if is_main_process():
        try:
            _download(url, path, with_hash)
        finally:
            barrier()
    else:
        barrier()
        _download(url, path, with_hash)
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
