"""The state that a checkpoint gives to an object after it was made."""

from collections import OrderedDict
from typing import Any

import numpy as np
from mmengine.logging import HistoryBuffer

from mmyolo_ext.compat import pickle_numpy
from mmyolo_ext.compat.inert import RefusedError, StandIn


def set_state(target: Any, state: Any) -> None:
    """Give what was built its state, in place.

    Raises:
        RefusedError: it is nothing that has one; functions, classes and tensors cannot be changed by a file.
    """
    if isinstance(target, StandIn):
        _extend_state(target, state)
    elif type(target) is np.ndarray:
        pickle_numpy.fill_array(target, state)
    elif isinstance(target, np.dtype):
        pickle_numpy.finish_dtype(target, state)
    elif type(target) is HistoryBuffer and isinstance(state, dict):
        # its own way would take functions from the file
        logs, counts = (np.asarray(state.get(key, ())) for key in ('_log_history', '_count_history'))
        target.__init__(logs, counts, int(state.get('max_length', 1000000)))
    elif type(target) is OrderedDict and isinstance(state, dict):
        metadata = state.get('_metadata')
        if isinstance(metadata, dict) and all(isinstance(value, dict) for value in metadata.values()):
            target._metadata = metadata  # the versions of layers, which load_state_dict asks for
    else:
        raise RefusedError(f'a state for {type(target).__name__}')


def _extend_state(target: StandIn, state: Any) -> None:
    # attributes, and those of __slots__ after them
    parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    if all(part is None or isinstance(part, dict) for part in parts):
        before = target.state if isinstance(target.state, dict) else {}
        target.state = {key: value for part in (before, *parts) if part for key, value in part.items()}
    else:
        target.state = state
