"""Experiment trackers that can neither fail nor change a training."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.logging import MMLogger
from mmengine.visualization import Visualizer
from mmengine.visualization.vis_backend import BaseVisBackend

from mmyolo_ext.registry import VISBACKENDS


@VISBACKENDS.register_module()
class GuardedVisBackend(BaseVisBackend):
    """Write to another backend of MMEngine until it fails; then switch it off with one warning.

    The random numbers of the run do not depend on it: ClearML sets a seed of its own when it starts.

    Args:
        backend: Config of the backend, such as ``dict(type='TensorboardVisBackend')``.
        save_dir: Folder for its files; the visualizer passes it.
    """

    def __init__(self, backend: dict, save_dir: str | None = None) -> None:
        super().__init__(save_dir)
        self._backend: BaseVisBackend | None = None
        self._open = False  # written to since the last close
        self.type = backend['type']
        if is_main_process():
            try:
                self._backend = VISBACKENDS.build({'save_dir': save_dir, **_of_environment(backend)})
            except Exception as error:
                self._switch_off(error)

    def _init_env(self) -> None:
        """Do nothing: the backend starts at its first write."""

    @property
    def experiment(self) -> Any:
        """Return the experiment of the backend, None if it is switched off."""
        return self._guarded(lambda backend: backend.experiment)

    def add_config(self, config: Config, **kwargs: Any) -> None:
        if self.type.endswith('WandbVisBackend'):  # MMEngine's sends all Python files below the current folder too
            self._guarded(lambda backend: backend.experiment.config.update(config.to_dict(), allow_val_change=True))
        else:
            self._call('add_config', config, **kwargs)

    def add_graph(self, *args: Any, **kwargs: Any) -> None:
        self._call('add_graph', *args, **kwargs)

    def add_image(self, *args: Any, **kwargs: Any) -> None:
        self._call('add_image', *args, **kwargs)

    def add_scalar(self, *args: Any, **kwargs: Any) -> None:
        self._call('add_scalar', *args, **kwargs)

    def add_scalars(self, *args: Any, **kwargs: Any) -> None:
        self._call('add_scalars', *args, **kwargs)

    def close(self) -> None:
        """Let the backend write what it holds back, once."""
        if self._open:
            self._call('close')
        self._open = False

    def _call(self, name: str, *args: Any, **kwargs: Any) -> None:
        self._guarded(lambda backend: getattr(backend, name)(*args, **kwargs))

    def _guarded(self, use: Callable[[BaseVisBackend], Any]) -> Any:
        if self._backend is None:
            return None
        self._open = True
        try:
            with _kept_random_states():
                return use(self._backend)
        except (Exception, SystemExit) as error:  # of others' code and of the network
            self._switch_off(error)
            return None

    def _switch_off(self, error: BaseException) -> None:
        self._backend = None
        reason = (str(error).strip() or '-').splitlines()[0]
        MMLogger.get_current_instance().warning(
            f'{self.type} is switched off, the run continues: {type(error).__name__}: {reason}'
        )


def close_trackers(visualizer: Visualizer) -> None:
    """Close the trackers of a run that ends early; MMEngine closes them only at the end of a whole training."""
    for backend in visualizer._vis_backends.values():
        if isinstance(backend, GuardedVisBackend):
            backend.close()


def _of_environment(backend: dict) -> dict:
    """Let MLflow use the server of its environment variable, which MMEngine replaces by files; allow these files."""
    if not backend['type'].endswith('MLflowVisBackend') or backend.get('tracking_uri'):
        return backend
    os.environ.setdefault('MLFLOW_ALLOW_FILE_STORE', 'true')  # since MLflow 3
    return {**backend, 'tracking_uri': os.environ.get('MLFLOW_TRACKING_URI')}


@contextmanager
def _kept_random_states() -> Iterator[None]:
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
