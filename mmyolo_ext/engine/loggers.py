"""Experiment trackers that cannot fail a training."""

from typing import Any

from mmengine.dist import is_main_process
from mmengine.logging import MMLogger
from mmengine.visualization.vis_backend import BaseVisBackend

from mmyolo_ext.registry import VISBACKENDS


@VISBACKENDS.register_module()
class GuardedVisBackend(BaseVisBackend):
    """Write to another backend of MMEngine until it fails; then switch it off with one warning.

    Args:
        backend: Config of the backend, such as ``dict(type='TensorboardVisBackend')``.
        save_dir: Folder for its files; the visualizer passes it.
    """

    def __init__(self, backend: dict, save_dir: str | None = None) -> None:
        super().__init__(save_dir)
        self._backend: BaseVisBackend | None = None
        self.type = backend['type']
        if is_main_process():
            try:
                self._backend = VISBACKENDS.build({'save_dir': save_dir, **backend})
            except Exception as error:
                self._switch_off(error)

    def _init_env(self) -> None:
        """Do nothing: the backend starts at its first write."""

    @property
    def experiment(self) -> Any:
        """Return the experiment of the backend, None if it is switched off."""
        return self._call('experiment')

    def add_config(self, *args: Any, **kwargs: Any) -> None:
        self._call('add_config', *args, **kwargs)

    def add_graph(self, *args: Any, **kwargs: Any) -> None:
        self._call('add_graph', *args, **kwargs)

    def add_image(self, *args: Any, **kwargs: Any) -> None:
        self._call('add_image', *args, **kwargs)

    def add_scalar(self, *args: Any, **kwargs: Any) -> None:
        self._call('add_scalar', *args, **kwargs)

    def add_scalars(self, *args: Any, **kwargs: Any) -> None:
        self._call('add_scalars', *args, **kwargs)

    def close(self) -> None:
        if self._backend is not None and self._backend._env_initialized:
            self._call('close')

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if self._backend is None:
            return None
        try:
            attribute = getattr(self._backend, name)
            return attribute(*args, **kwargs) if name != 'experiment' else attribute
        except (Exception, SystemExit) as error:  # of others' code and of the network
            self._switch_off(error)
            return None

    def _switch_off(self, error: BaseException) -> None:
        self._backend = None
        reason = (str(error).strip() or '-').splitlines()[0]
        MMLogger.get_current_instance().warning(
            f'{self.type} is switched off, the run continues: {type(error).__name__}: {reason}'
        )
