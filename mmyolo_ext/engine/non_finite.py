"""Find the layer where numbers stop being finite, and dump the iteration for ``tools/replay.py``."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import BaseBoxes
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.optim import OptimWrapper
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

STRUCTURES = {kind.__name__: kind for kind in (DetDataSample, InstanceData, PixelData)}
KIND = '__structure__'
FORMAT = 'mmyolo_ext.non_finite.1'


class Iteration:
    """One iteration of a training, kept until its optimizer step is known to be finite.

    Args:
        number: Number of the iteration, from 0.
        batch: As it came from the loader.

    Attributes:
        losses: Outputs of the model for the log.
        gradients: Names of parameters whose gradients are not finite.
        random_states: States of PyTorch's generators before the iteration: CPU and, with a GPU, CUDA.
    """

    def __init__(self, number: int, batch: Any) -> None:
        self.number = number
        self.batch = batch
        self.losses: dict[str, Any] = {}
        self.gradients: list[str] = []
        self.random_states = [torch.get_rng_state()]
        if torch.cuda.is_available():
            self.random_states.append(torch.cuda.get_rng_state())

    @property
    def images(self) -> list[str]:
        """Paths of the images, or their ids."""
        samples = self.batch.get('data_samples', ()) if isinstance(self.batch, dict) else ()
        infos = [sample.metainfo for sample in samples if isinstance(sample, BaseDataElement)]
        return [str(info.get('img_path', info.get('img_id', '?'))) for info in infos]


def diagnose(model: nn.Module, iteration: Iteration, wrapper: OptimWrapper | None = None) -> dict[str, Any]:
    """Run the forward and the backward pass of an iteration again and check every number.

    Parameters, their gradients and the generators are not changed; buffers are.

    Args:
        model: Not wrapped.
        iteration: With its batch and random states.
        wrapper: Optimizer wrapper of the training, for its precision and its loss scale.

    Returns:
        ``losses`` (name to value), ``layer`` (name of the first module whose output is not finite, else of the module
        nearest to the loss whose gradient is not, else None), ``stage`` (``'output'``, ``'gradient'`` or None).
    """
    order: list[str] = []
    bad_outputs: list[str] = []

    def look(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        order.append(name)
        tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        if not bad_outputs and not all(tensor.isfinite().all() for tensor in tensors):
            bad_outputs.append(name)

    handles = [
        module.register_forward_hook(lambda *args, name=name: look(name, *args))
        for name, module in model.named_modules()
        if name
    ]
    training = model.training
    try:
        gpus = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(gpus), torch.enable_grad():
            torch.set_rng_state(iteration.random_states[0])
            if gpus and len(iteration.random_states) > 1:
                torch.cuda.set_rng_state(iteration.random_states[1])
            model.train()
            losses, loss = _losses(model, iteration.batch, wrapper)
            found = {'losses': losses, 'layer': None, 'stage': None}
            if bad_outputs:
                return {**found, 'layer': bad_outputs[0], 'stage': 'output'}
            bad = set(_bad_gradients(model, loss, wrapper))
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    owners = {name.rpartition('.')[0] for name in bad}
    nearest = [name for name in order if name in owners]
    layer = nearest[-1] if nearest else min(bad, default=None)
    return {**found, 'layer': layer, 'stage': 'gradient' if bad else None}


def as_number(value: Any) -> float:
    """Return a logged value as a number; if it has one number per image, as of some heads, their mean."""
    return float(value.detach().float().mean()) if isinstance(value, Tensor) else float(value)


def write_dump(
    path: Path, iteration: Iteration, found: dict[str, Any], model: nn.Module, facts: dict[str, Any]
) -> None:
    """Write an iteration as plain data, which ``torch.load(path, weights_only=True)`` can read.

    Args:
        path: File to write.
        iteration: Iteration to write.
        found: Result of :func:`diagnose`.
        model: With parameters and buffers of before the step.
        facts: Plain values: seed, epoch, rank, loss scale, config.
    """
    content = {
        'format': FORMAT,
        'iteration': iteration.number,
        'images': iteration.images,
        'batch': to_plain(iteration.batch),
        'random_states': iteration.random_states,
        'model': {name: value.cpu() for name, value in _state(model).items()},
        **found,
        **facts,
    }
    torch.save(content, path)


def read_dump(path: str | Path) -> tuple[Iteration, dict[str, Any]]:
    """Read a dump of :func:`write_dump`.

    Returns:
        The iteration, and the whole content of the file.

    Raises:
        ValueError: If the file is not such a dump.
    """
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
        if content['format'] != FORMAT:
            raise ValueError(f'its format is {content["format"]!r}')
    except Exception as error:  # a damaged archive or another pickle raises many kinds
        raise ValueError(f'{path} is not a dump of a stopped training (non_finite_iter_K.pth): {error}') from error
    iteration = Iteration(content['iteration'], from_plain(content['batch']))
    iteration.random_states = content['random_states']
    return iteration, content


@torch.no_grad()
def load_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Load parameters and buffers of a dump, including buffers that are not in checkpoints.

    Raises:
        ValueError: If names or shapes differ.
    """
    own = _state(model)
    differing = sorted(own.keys() ^ state.keys()) or [n for n in own if own[n].shape != state[n].shape]
    if differing:
        raise ValueError(f'the dump does not fit the config: {len(differing)} tensors differ, as {differing[:3]}')
    for name, value in state.items():
        own[name].copy_(value)


def to_plain(value: Any) -> Any:
    """Convert a batch to tensors, numbers, strings, lists, tuples and dicts; other objects become strings."""
    if isinstance(value, (BaseBoxes, Tensor)):
        return getattr(value, 'tensor', value).detach().cpu()
    if isinstance(value, BaseDataElement):
        fields = {key: to_plain(field) for key, field in value.items()}
        return {KIND: type(value).__name__, 'metainfo': to_plain(value.metainfo), 'fields': fields}
    if isinstance(value, (BitmapMasks, PolygonMasks)):
        return {KIND: 'BitmapMasks', 'masks': torch.from_numpy(np.ascontiguousarray(value.to_ndarray()))}
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in 'biuf':
        return torch.from_numpy(np.ascontiguousarray(value)) if value.ndim else value.item()
    if isinstance(value, dict):
        return {str(key): to_plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return (tuple if isinstance(value, tuple) else list)(map(to_plain, value))
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def from_plain(value: Any) -> Any:
    """Convert the result of :func:`to_plain` back; boxes stay tensors."""
    if isinstance(value, dict) and value.get(KIND) == 'BitmapMasks':
        masks = value['masks'].numpy()
        return BitmapMasks(masks, *masks.shape[1:])
    if isinstance(value, dict) and KIND in value:
        element = STRUCTURES.get(value[KIND], InstanceData)(metainfo=from_plain(value['metainfo']))
        for key, field in value['fields'].items():
            setattr(element, key, from_plain(field))
        return element
    if isinstance(value, dict):
        return {key: from_plain(entry) for key, entry in value.items()}
    return type(value)(map(from_plain, value)) if isinstance(value, (list, tuple)) else value


def _losses(model: nn.Module, batch: Any, wrapper: OptimWrapper | None) -> tuple[dict[str, float], Tensor]:
    """Run the forward pass as ``train_step`` does."""
    with nullcontext() if wrapper is None else wrapper.optim_context(model):
        outputs = model._run_forward(model.data_preprocessor(batch, True), mode='loss')
    loss, logged = model.parse_losses(outputs)
    return {name: as_number(value) for name, value in logged.items()}, loss


def _bad_gradients(model: nn.Module, loss: Tensor, wrapper: OptimWrapper | None) -> Iterator[str]:
    """Yield the names of parameters whose gradients are not finite, without touching ``.grad``."""
    scaler = getattr(wrapper, 'loss_scaler', None)
    scaled = loss if scaler is None else scaler.scale(loss)
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(scaled, [parameter for _, parameter in named], allow_unused=True)
    for (name, _), gradient in zip(named, gradients, strict=True):
        if gradient is not None and not gradient.isfinite().all():
            yield name


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in (*model.named_parameters(), *model.named_buffers())}
