"""Find the configs that come with the package, by short name, file name or ``mmyolo_ext::path``."""

import importlib.util
import re
from pathlib import Path

import mmyolo_ext
from mmyolo_ext.apis.config_nodes import closest

# What a short name such as ``yolov5_n`` leaves out: network size and data.
LEFT_OUT = re.compile(r'_(640|1280)_coco$')


def config_folder(package: str = 'mmyolo_ext') -> Path:
    """Return the folder of the configs of an installed package, or of the clone that this package runs from.

    Raises:
        ValueError: If the package is not installed or has no configs.
    """
    if package == 'mmyolo_ext':
        root = Path(mmyolo_ext.__file__).parent
        folders = [root.parent / 'configs', root / '.mim' / 'configs']
    else:
        spec = importlib.util.find_spec(package)
        if spec is None:
            raise ValueError(f'the package {package!r} is not installed')
        folders = [Path(spec.origin).parent / '.mim' / 'configs']
    for folder in folders:
        if (folder / '_base_').is_dir():
            return folder
    raise ValueError(f'the package {package!r} has no configs in {folders[-1]}: install it anew')


def config_names() -> dict[str, Path]:
    """Return the ready configs of this package, file names without suffix to paths, in the order of the names."""
    folder = config_folder()
    files = sorted(file for file in folder.glob('*/*.py') if file.parent.name != '_base_')
    return {file.stem: file for file in files}


def config_path(name: str) -> Path:
    """Return the path of a config.

    Args:
        name: Path of a file; name of a config of this package with or without size and data, such as
            ``yolov5_n_640_coco`` or ``yolov5_n``; or ``PACKAGE::PATH`` as in ``_base_`` of a config.

    Raises:
        ValueError: If there is no such config.
    """
    if Path(name).is_file():
        return Path(name)
    files = config_names()
    package, separator, path = name.partition('::')
    if separator:
        file = config_folder(package) / path
        file = file if file.suffix in ('.py', '.yaml', '.yml', '.json') else file.with_name(f'{file.name}.py')
        if file.is_file():
            return file
    short = {LEFT_OUT.sub('', stem): file for stem, file in files.items()}
    known = {**short, **files}
    if name in known:
        return known[name]
    match = closest(Path(path or name).stem, known)
    hint = f'did you mean {match!r}?' if match else '`mmyolo-ext configs` lists the names'
    raise ValueError(f'there is no config {name}: {hint}')
