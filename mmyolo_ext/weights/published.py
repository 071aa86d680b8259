"""The file of a published checkpoint: the weights that were validated, and nothing of the training.

MMEngine's ``EMAHook``, and ours on it, exchanges two sets when it saves: ``state_dict`` holds the averaged weights,
by which validation and test are done, ``ema_state_dict`` those that a resumed training goes on from. So what is
published is ``state_dict``.
"""

import hashlib
import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

HASH_DIGITS = 8  # as mmdet and torch.hub have them in names
# a variance may be 1e-9 or 1e6, half precision holds neither; they are under one percent of the numbers
STATISTICS = ('running_mean', 'running_var')


def slim(state_dict: Mapping[str, Tensor], half: bool) -> tuple[dict[str, Tensor], list[str]]:
    """Copies of the tensors that share no memory and lie in the usual order, whatever the layout in training was.

    Args:
        state_dict: of a model.
        half: store floating-point tensors in float16; the statistics of norm layers, and tensors with a value beyond
            65504, the largest of float16, stay in float32.

    Returns:
        The copies, and the names of those beside the statistics that stayed.

    Raises:
        ValueError: a value is not finite.
    """
    broken = [name for name, value in state_dict.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise ValueError(
            f'the weights have NaN or infinite values in {len(broken)} tensors ({", ".join(broken[:3])}): their '
            'training had diverged'
        )
    given = {name: value.detach().cpu() for name, value in state_dict.items()}
    wide = [name for name, value in given.items() if half and _is_halved(name, value) and not _fits_half(value)]
    slimmed = {}
    for name, value in given.items():
        dtype = torch.float16 if half and _is_halved(name, value) and name not in wide else None
        if dtype is None and value.is_floating_point():
            dtype = torch.float32
        slimmed[name] = value.to(dtype or value.dtype).clone(memory_format=torch.contiguous_format)
    return slimmed, wide


def pack(state_dict: Mapping[str, Tensor], meta: Mapping[str, Any]) -> tuple[bytes, str]:
    """The bytes of the file, and the name's part for them: the first digits of their SHA-256.

    The same weights and ``meta`` give the same bytes with one release of PyTorch, for it writes neither time nor name
    into what it saves to memory.
    """
    stream = io.BytesIO()
    torch.save({'meta': dict(meta), 'state_dict': dict(state_dict)}, stream)
    content = stream.getvalue()
    return content, hashlib.sha256(content).hexdigest()[:HASH_DIGITS]


def _is_halved(name: str, value: Tensor) -> bool:
    return value.is_floating_point() and not name.endswith(STATISTICS)


def _fits_half(value: Tensor) -> bool:
    return bool(value.half().isfinite().all())
