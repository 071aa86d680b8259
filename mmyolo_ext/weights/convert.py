"""Give the weights of any YOLOv5 checkpoint our names, and tell what network they are of."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mmyolo_ext.weights import mmyolo, ultralytics, ultralytics_names
from mmyolo_ext.weights.detect import detect, state_dict_of
from mmyolo_ext.weights.network import Network, describe

YOLOV5_FORMATS = ('ultralytics', 'mmyolo', 'mmyolo_ext')


@dataclass(frozen=True)
class Converted:
    """A checkpoint in our names.

    Attributes:
        state_dict: of a ``YOLODetector``.
        network: what it is the state dict of.
        source: the format it came in, one of :data:`YOLOV5_FORMATS`.
        anchors_told: whether the file says the anchors; the published ones are taken where not.
        left_out: names in the file that are no weights, such as anchors.
    """

    state_dict: dict[str, Tensor]
    network: Network
    source: str
    anchors_told: bool
    left_out: tuple[str, ...] = ()


def convert(content: Any, source: str = 'auto') -> Converted:
    """From what :func:`read_checkpoint` gives.

    Args:
        content: of the file.
        source: one of :data:`YOLOV5_FORMATS`, or ``'auto'`` to find it out.

    Raises:
        ValueError: of no such format, or of a network that is not YOLOv5's.
    """
    source = detect(content) if source == 'auto' else source
    left_out: tuple[str, ...] = ()
    if source == 'ultralytics':
        if not ultralytics.is_ultralytics(content):
            raise ValueError('it holds no model of Ultralytics: neither a pickled one nor names such as model.0.conv')
        weights = ultralytics.weights_of(content)
        told = ultralytics.facts_of(content, weights)
        weights, left_out = ultralytics_names.to_ours(weights, *ultralytics.shape_of(weights))
    elif source in ('mmyolo', 'mmyolo_ext') and detect(content) == source:
        weights = state_dict_of(content)
        weights = mmyolo.to_ours(weights) if source == 'mmyolo' else weights
        told = mmyolo.facts_of(content)
    else:
        raise ValueError(
            f'its names are not those of a YOLOv5 checkpoint ({", ".join(YOLOV5_FORMATS)}): {_sketch(content)}'
        )
    return Converted(weights, describe(weights, told), source, told.get('anchors') is not None, left_out)


def _sketch(content: Any) -> str:
    names = list(state_dict_of(content))
    if not names:
        return f'it holds no tensors by name, but an object of {type(content).__name__}'
    return f'it holds {len(names)} tensors, {", ".join(names[:3])}, ...'
