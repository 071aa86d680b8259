"""The sdist and the wheel, built once, and an environment that has the wheel and not the clone."""

import os
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import NamedTuple

import pytest

REPO = Path(__file__).parents[2]
SOURCES = ('setup.py', 'pyproject.toml', 'MANIFEST.in', 'model-index.yml', 'README.md', 'LICENSE', 'CHANGELOG.md')
FOLDERS = ('mmyolo_ext', 'configs', 'tools')


class Installed(NamedTuple):
    """An environment with the wheel, and an empty folder to work in."""

    python: Path
    folder: Path

    def run(self, *words: object, code: int = 0) -> str:
        """Run a program of the environment, by default ``mmyolo-ext``, and return what it prints."""
        program, *words = (str(word) for word in words)
        env = {name: value for name, value in os.environ.items() if name not in ('PYTHONPATH', 'VIRTUAL_ENV')}
        env |= {'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'Agg', 'MMENGINE_LOG_LEVEL': 'ERROR'}
        done = subprocess.run(
            [self.python.parent / program, *words], cwd=self.folder, env=env, capture_output=True, text=True
        )
        assert done.returncode == code, f'{program} {" ".join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}'
        return done.stdout + done.stderr


@pytest.fixture(scope='session')
def distributions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sdist and the wheel, which is built from the sdist as ``python -m build`` does."""
    pytest.importorskip('build.__main__', reason='`pip install build`: it makes the sdist and the wheel')
    clone = tmp_path_factory.mktemp('clone')
    for name in SOURCES:
        shutil.copy(REPO / name, clone)
    for name in FOLDERS:
        shutil.copytree(REPO / name, clone / name, ignore=shutil.ignore_patterns('__pycache__', '.mim'))
    # without isolation: the build must not need a network
    command = [sys.executable, '-m', 'build', '--no-isolation', '--skip-dependency-check', str(clone)]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (sdist,), (wheel,) = (clone / 'dist').glob('*.tar.gz'), (clone / 'dist').glob('*.whl')
    return {'sdist': sdist, 'wheel': wheel}


@pytest.fixture(scope='session')
def installed(distributions: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """A fresh environment with the wheel, which sees the other packages of the tests' environment."""
    folder = tmp_path_factory.mktemp('environment')
    venv.create(folder / 'env', with_pip=False)
    python = folder / 'env' / 'bin' / 'python'
    paths = {'base': folder / 'env', 'platbase': folder / 'env'}
    packages = Path(sysconfig.get_path('purelib', 'venv', paths))
    command = [sys.executable, '-m', 'pip', '--python', str(python), 'install', '--no-deps', '--no-index', '-q']
    subprocess.run([*command, str(distributions['wheel'])], check=True, capture_output=True)
    others = [path for path in sys.path if path in (*site.getsitepackages(), *pth_folders())]
    (packages / 'others.pth').write_text('\n'.join(others))
    work = folder / 'work'
    work.mkdir()
    return Installed(python, work)


def pth_folders() -> list[str]:
    """Return the folders of packages that this environment borrows from others."""
    return [path for path in sys.path if Path(path).name == 'site-packages']
