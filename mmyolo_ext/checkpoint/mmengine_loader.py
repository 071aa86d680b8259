"""Let MMEngine read any checkpoint without executing anything in it, and with our names."""

from logging import WARNING
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import (
    _process_mmcls_checkpoint,
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)

from mmyolo_ext.checkpoint import model_zoo
from mmyolo_ext.checkpoint.conversion import Converted, convert, detect, state_dict_of
from mmyolo_ext.checkpoint.matching import ANCHORS, DARKNET_FILE
from mmyolo_ext.checkpoint.safe_load import check_finite, downloaded, read_checkpoint

CATALOGUES = ('modelzoo://', 'torchvision://', 'open-mmlab://', 'openmmlab://', 'mmcls://')
MMENGINE = 'mmengine.runner.checkpoint'
FOREIGN = ('ultralytics', 'mmyolo')


def read_weights(path: str | Path, map_location: Any = 'cpu') -> Any:
    """Return a checkpoint for MMEngine's runner.

    Our own checkpoints and mmdet's are returned as they are, so that a run can resume from them. Those of Ultralytics
    and MMYOLO are converted to a ``state_dict`` with our names, the class names in ``meta``, and the anchors. A bare
    state dict is wrapped in ``state_dict``. The model reads a ``.weights`` file of Darknet itself.

    Raises:
        ValueError: If the file is missing, broken or hostile, holds NaN or infinity, or a model that ours cannot be.
    """
    path = Path(path).expanduser()
    checkpoint = _read(path, map_location)
    if isinstance(checkpoint, dict):
        check_finite(state_dict_of(checkpoint) or {}, path)
    return checkpoint


def _read(path: Path, map_location: Any) -> Any:
    if path.suffix == '.weights' and path.is_file():
        return {'state_dict': {}, 'meta': {}, DARKNET_FILE: str(path)}
    content = read_checkpoint(path, map_location)
    if detect(content) not in FOREIGN:
        bare = isinstance(content, dict) and 'state_dict' not in content and state_dict_of(content)
        return {'state_dict': content, 'meta': {}} if bare else content
    converted = _converted(content, path)
    network = converted.network
    checkpoint = {'state_dict': converted.state_dict, 'meta': {}}
    if network.classes:
        checkpoint['meta']['dataset_meta'] = {'classes': network.classes}
    if converted.has_anchors:
        checkpoint[ANCHORS] = network.anchors
    else:
        print_log(f'{path} holds no anchors: those of the config are used.', 'current', WARNING)
    return checkpoint


def yolov5_in_our_names(content: Any, source: str | Path) -> Any:
    """Convert a checkpoint of Ultralytics or MMYOLO to a state dict with our names; return others as they are.

    Args:
        content: Result of :func:`~.safe_load.read_checkpoint`.
        source: Its file, for messages.

    Raises:
        ValueError: If our model cannot be theirs.
    """
    return _converted(content, source).state_dict if detect(content) in FOREIGN else content


def _converted(content: Any, source: str | Path) -> Converted:
    try:
        converted = convert(content)
    except ValueError as error:
        raise ValueError(f'{source} cannot be taken: {error}') from error
    network = converted.network
    print_log(
        f'{source} is of {converted.source}: a YOLOv5 {network.arch} {network.version} network, deepen_factor '
        f'{network.deepen_factor}, widen_factor {network.widen_factor}, {network.num_classes} classes.',
        logger='current',
    )
    return converted


# MMEngine logs the name of the loader from its eleventh letter on
def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Read a path by :func:`read_weights`."""
    return read_weights(filename, map_location)


def load_from_http(filename: str, map_location: Any = None) -> Any:
    """Download a file, then read it by :func:`read_weights`."""
    return read_weights(downloaded(filename), map_location)


def load_from_catalogue(filename: str, map_location: Any = None) -> Any:
    """Read a model of MMEngine's lists: ``torchvision://``, ``mmcls://``, ``open-mmlab://``."""
    scheme, _, name = filename.partition('://')
    if scheme in ('torchvision', 'modelzoo'):
        urls = get_torchvision_models()
    elif scheme == 'mmcls':
        urls = get_mmcls_models()
    else:
        urls = get_external_models()
        name = get_deprecated_model_names().get(name, name)
    if not str(urls.get(name)).startswith(('http://', 'https://')):
        raise ValueError(f'{filename} is not in the list of MMEngine: give a file or a URL')
    content = load_from_http(urls[name], map_location)
    return _process_mmcls_checkpoint(content) if scheme == 'mmcls' else content


def load_from_zoo(filename: str, map_location: Any = None) -> Any:
    """Read weights by the name that a package publishes them under: ``mmdet::rtmdet_tiny``, see :mod:`.model_zoo`."""
    return read_weights(model_zoo.fetch(filename), map_location)


def load_from_storage(filename: str, map_location: Any = None) -> Any:
    """Refuse an address whose loader in MMEngine would execute the content of the file."""
    raise ValueError(f'{filename} cannot be read from there: download the file, and give its path')


def install_reader() -> None:
    """Replace MMEngine's loaders, for ``load_from``, ``resume`` and ``init_cfg`` of any model.

    The loaders of all its addresses are replaced, because they unpickle files.
    """
    theirs = [prefix for prefix, loader in CheckpointLoader._schemes.items() if loader.__module__ == MMENGINE]
    CheckpointLoader.register_scheme(theirs, load_from_storage, force=True)
    CheckpointLoader.register_scheme(CATALOGUES, load_from_catalogue, force=True)
    CheckpointLoader.register_scheme([f'{package}::' for package in model_zoo.PACKAGES], load_from_zoo, force=True)
    CheckpointLoader.register_scheme('', load_from_local, force=True)
    CheckpointLoader.register_scheme(('http://', 'https://'), load_from_http, force=True)
