"""Check the installation: ``python -m mmyolo_ext.cli.doctor`` prints each fault and the command that repairs it.

The checks read an :class:`Environment` only, so tests can pass invented ones. Torch, mmcv and OpenCV are imported one
by one inside :func:`examine`, because the doctor must start on a broken installation.
"""

import argparse
import importlib
import importlib.metadata
import platform
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from mmyolo_ext.ops import compile_command, ops_status
from mmyolo_ext.version import __version__

OK, NOTE, FAULT = 'ok', 'note', 'FAULT'
MINIMUM_PYTHON = (3, 10)


@dataclass(frozen=True)
class Finding:
    """Result of a check. ``status`` is :data:`OK`, :data:`NOTE` (works, worth knowing) or :data:`FAULT`."""

    name: str
    status: str
    detail: str
    cure: str = ''
    """Command that repairs a fault."""


@dataclass(frozen=True)
class Package:
    """A package that is required or used if present: its module, and the distributions that provide it, best first."""

    module: str
    distributions: tuple[str, ...]
    needed: bool = True
    minimum: str = '0'


PACKAGES = (
    Package('torch', ('torch',), minimum='2.4'),
    Package('torchvision', ('torchvision',), needed=False),
    Package('numpy', ('numpy',)),
    Package('cv2', ('opencv-python-headless', 'opencv-python', 'opencv-contrib-python')),
    Package('mmengine', ('onedl-mmengine', 'mmengine', 'mmengine-lite'), minimum='0.10.12'),
    Package('mmcv', ('onedl-mmcv', 'mmcv', 'mmcv-lite', 'mmcv-full'), minimum='2.3.6'),
    Package('mmdet', ('onedl-mmdetection', 'mmdet'), minimum='3.5.1'),
    Package('pycocotools', ('pycocotools',)),
    Package('faster_coco_eval', ('faster-coco-eval',), needed=False),
)

SYSTEM_LIBRARIES = {
    'libGL.so': 'libgl1',
    'libEGL.so': 'libegl1',
    'libgthread-2.0.so': 'libglib2.0-0',
    'libglib-2.0.so': 'libglib2.0-0',
    'libSM.so': 'libsm6',
    'libICE.so': 'libice6',
    'libXext.so': 'libxext6',
    'libXrender.so': 'libxrender1',
    'libX11.so': 'libx11-6',
    'libxcb.so': 'libxcb1',
    'libgomp.so': 'libgomp1',
    'libstdc++.so': 'libstdc++6',
}
"""Package of Debian and Ubuntu for each shared library that OpenCV or torch may lack on a minimal system."""


@dataclass(frozen=True)
class Environment:
    """Facts about an installation, which the checks read."""

    python: tuple[int, ...] = (3, 11, 0)
    distributions: dict[str, str] = field(default_factory=dict)
    """Installed distributions, normalised names in lower case, with their versions."""
    import_errors: dict[str, str] = field(default_factory=dict)
    """Error message of each module that cannot be imported."""
    ops: str = 'compiled'
    """Result of :func:`mmyolo_ext.ops.ops_status`."""
    devices: tuple[str, ...] = ('cpu',)

    def installed(self, package: Package) -> list[str]:
        """Return the installed distributions of a package."""
        return [name for name in package.distributions if name in self.distributions]


def check_python(environment: Environment) -> list[Finding]:
    """Check that the interpreter is not older than :data:`MINIMUM_PYTHON`."""
    version = '.'.join(map(str, environment.python))
    if environment.python[:2] < MINIMUM_PYTHON:
        needed = '.'.join(map(str, MINIMUM_PYTHON))
        cure = f'install Python {needed} or newer, then: python{needed} -m venv .venv'
        return [Finding('python', FAULT, f'{version}, needed is {needed} or newer', cure)]
    return [Finding('python', OK, version)]


def check_packages(environment: Environment) -> list[Finding]:
    """Check that every package of :data:`PACKAGES` is installed, new enough and can be imported."""
    return [_check_package(package, environment) for package in PACKAGES]


def _check_package(package: Package, environment: Environment) -> Finding:
    installed, error = environment.installed(package), environment.import_errors.get(package.module, '')
    versions = ', '.join(f'{name} {environment.distributions[name]}' for name in installed)
    install = f'pip install {_requirement(package)}'
    if not installed and (error or not package.needed):
        status, cure = (FAULT, install) if package.needed else (NOTE, '')
        return Finding(package.module, status, 'not installed' + ('' if package.needed else ' (optional)'), cure)
    if error:  # optional packages are used wherever they are found
        cure = _cure_of_import(package, error, environment)
        return Finding(package.module, FAULT, f'{versions or "found, but it"} does not import: {error}', cure)
    ours = environment.distributions.get(package.distributions[0])
    if ours and _number(ours) < _number(package.minimum):
        return Finding(package.module, FAULT, f'{versions}, needed is {package.minimum} or newer', install)
    return Finding(package.module, OK, versions or 'present, of unknown version')


def _requirement(package: Package) -> str:
    return f"'{package.distributions[0]}>={package.minimum}'" if package.minimum != '0' else package.distributions[0]


def _cure_of_import(package: Package, error: str, environment: Environment) -> str:
    library = missing_library(error)
    if library is not None:
        return f'apt-get update && apt-get install -y {SYSTEM_LIBRARIES[library]}'
    if package.module == 'torchvision':
        return torchvision_command(environment.distributions.get('torch', ''))
    if package.module == 'cv2':
        uninstall = 'pip uninstall -y opencv-python opencv-contrib-python'
        return f'{uninstall} && pip install --force-reinstall --no-deps opencv-python-headless'
    return f'pip install --force-reinstall --no-deps {_requirement(package)}'


def torchvision_command(torch_version: str) -> str:
    """Return the command that installs the torchvision built for a version of torch such as ``2.13.0+cpu``.

    Release 0.(n + 15) belongs to torch 2.n; the suffix names the index of PyTorch. For an unknown version of torch,
    the command uninstalls torchvision.
    """
    found = re.match(r'2\.(\d+)', torch_version)
    if found is None:
        return 'pip uninstall -y torchvision'
    build = torch_version.partition('+')[2]
    index = f' --index-url https://download.pytorch.org/whl/{build}' if build else ''
    return f"pip install --force-reinstall --no-deps 'torchvision==0.{int(found[1]) + 15}.*'{index}"


def missing_library(error: str) -> str | None:
    """Return the key of :data:`SYSTEM_LIBRARIES` for "libGL.so.1: cannot open shared object file", if there is one."""
    found = re.search(r'(lib[\w+.-]+\.so)[\d.]*: cannot open shared object', error)
    return found[1] if found and found[1] in SYSTEM_LIBRARIES else None


def check_opencv_twins(environment: Environment) -> list[Finding]:
    """Check for several OpenCV distributions, which share a folder: removing one breaks the others."""
    package = next(package for package in PACKAGES if package.module == 'cv2')
    installed = environment.installed(package)
    if len({environment.distributions[name] for name in installed}) > 1:
        versions = ', '.join(f'{name} {environment.distributions[name]}' for name in installed)
        cure = f'pip uninstall -y {" ".join(installed)} && pip install {package.distributions[0]}'
        return [Finding('opencv twins', FAULT, f'different versions share one folder: {versions}', cure)]
    return []


def check_mixed_stack(environment: Environment) -> list[Finding]:
    """Check that onedl's distributions are not mixed with the original ones, which install the same modules."""
    stack = [package for package in PACKAGES if package.module in ('mmengine', 'mmcv', 'mmdet')]
    ours = [name for package in stack for name in environment.installed(package) if name.startswith('onedl-')]
    original = [name for package in stack for name in environment.installed(package) if name not in ours]
    if not original:
        return [Finding('stack', OK, 'onedl packages alone' if ours else 'none installed')]
    wanted = ' '.join(package.distributions[0] for package in stack)
    cure = f'pip uninstall -y {" ".join(original)} && pip install --force-reinstall --no-deps {wanted}'
    if ours:
        return [Finding('stack', FAULT, f'{", ".join(original)} mixed with {", ".join(ours)}', cure)]
    return [Finding('stack', FAULT, f'original packages, unmaintained since 2024: {", ".join(original)}', cure)]


def check_ops(environment: Environment) -> list[Finding]:
    """Report the source of mmcv's ops; nothing if a package that they need cannot be imported."""
    errors = environment.import_errors
    if errors.keys() & {'torch', 'numpy', 'cv2', 'mmengine', 'mmcv'}:
        return []
    if 'mmcv.ops' in errors:
        detail = f'{environment.ops}, but mmcv.ops does not import: {errors["mmcv.ops"]}'
        return [Finding('mmcv ops', FAULT, detail, compile_command())]
    if environment.ops == 'compiled':
        return [Finding('mmcv ops', OK, 'compiled')]
    return [Finding('mmcv ops', OK, f'supplied by mmyolo_ext; to have the compiled ones: {compile_command()}')]


def check_models(environment: Environment) -> list[Finding]:
    """Check that mmdet's models can be imported; report nothing if a package that they need is at fault."""
    error = environment.import_errors.get('mmdet.models')
    if error is None:
        return [] if 'mmdet' in environment.import_errors else [Finding('mmdet.models', OK, 'imports')]
    below = {package.module for package in PACKAGES if package.needed or environment.installed(package)} | {'mmcv.ops'}
    if environment.import_errors.keys() & below:
        return []
    package = next(package for package in PACKAGES if package.module == 'mmdet')
    missing = re.match(r"ModuleNotFoundError: No module named '([\w-]+)", error)
    if 'torchvision' in error:
        cure = torchvision_command(environment.distributions.get('torch', ''))
    elif missing and missing[1] not in ('mmdet', 'mmcv', 'mmengine', 'torch'):
        cure = f'pip install {missing[1]}'
    else:
        cure = _cure_of_import(package, error, environment)
    return [Finding('mmdet.models', FAULT, f'does not import: {error}', cure)]


def check_devices(environment: Environment) -> list[Finding]:
    """List the devices of torch; never a fault, because a CPU is enough."""
    return [Finding('devices', OK, ', '.join(environment.devices) or 'none: torch does not import')]


CHECKS: tuple[Callable[[Environment], list[Finding]], ...] = (
    check_python,
    check_packages,
    check_opencv_twins,
    check_mixed_stack,
    check_ops,
    check_models,
    check_devices,
)


def examine() -> Environment:
    """Return the environment of this interpreter."""
    distributions = {}
    for distribution in importlib.metadata.distributions():
        if name := distribution.metadata['Name']:
            distributions.setdefault(re.sub(r'[-_.]+', '-', name).lower(), distribution.version)
    modules = [package.module for package in PACKAGES] + ['mmcv.ops', 'mmdet.models']
    errors = {module: error for module in modules if (error := _import_error(module))}
    if not errors.keys() & {'torch', 'torchvision'} and (error := _torchvision_error()):
        errors['torchvision'] = error
    return Environment(tuple(sys.version_info[:3]), distributions, errors, ops_status(), _devices(errors))


def _import_error(module: str) -> str:
    """Return the first line of the error of an import, or ''. A broken extension may raise anything."""
    try:
        importlib.import_module(module)
    except Exception as error:
        return _first_line(error)
    return ''


def _torchvision_error() -> str:
    """Return the error of torchvision's compiled ops, or '': a wrong build fails at the first call, not at import."""
    import torch
    import torchvision

    try:
        for device in ('cpu', *(['cuda'] if torch.cuda.is_available() else [])):
            box = torch.tensor([[0.0, 0.0, 1.0, 1.0]], device=device)
            torchvision.ops.nms(box, box[:, 0], 0.5)
    except Exception as error:
        return _first_line(error)
    return ''


def _first_line(error: Exception) -> str:
    return f'{type(error).__name__}: {str(error).splitlines()[0] if str(error) else "no message"}'


def _devices(errors: dict[str, str]) -> tuple[str, ...]:
    if 'torch' in errors:
        return ()
    import torch

    gpus = [f'cuda:{index} {torch.cuda.get_device_name(index)}' for index in range(torch.cuda.device_count())]
    apple = ['mps'] if torch.backends.mps.is_available() else []
    return (f'cpu ({torch.get_num_threads()} threads)', *gpus, *apple)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.match(r'[\d.]*', version)[0].split('.') if part)


def report(findings: list[Finding]) -> str:
    """Return one line per finding, then each fault with the command that repairs it."""
    width = max(len(finding.name) for finding in findings)
    lines = [f'{finding.name:{width}}  {finding.status:5}  {finding.detail}' for finding in findings]
    faults = [finding for finding in findings if finding.status == FAULT]
    for finding in faults:
        lines += ['', f'{finding.name}: {finding.detail}', f'    {finding.cure}']
    lines += ['', f'{len(faults)} fault{"s" * (len(faults) != 1)} found.' if faults else 'Nothing wrong.']
    return '\n'.join(lines)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Print what is wrong with this environment; exit with 1 if anything is."""
    argparse.ArgumentParser(description='Check the installation').parse_args(argv)
    print(f'mmyolo_ext {__version__} on {platform.platform()}')
    environment = examine()
    findings = [finding for check in CHECKS for finding in check(environment)]
    print(report(findings))
    sys.exit(int(any(finding.status == FAULT for finding in findings)))


if __name__ == '__main__':
    main()
