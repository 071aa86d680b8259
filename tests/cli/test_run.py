"""Scripts of the stack run with mmcv's ops supplied."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mmdet
import pytest

from mmyolo_ext.cli.run import find_script

REPO = Path(__file__).parents[2]
# as mmdet's tools do: what needs the ops is imported first of all
SCRIPT = """
import json, multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
import mmcv.ops
import beside

class Box:
    side = 3

def area(box):
    return [box.side ** 2, 'mmcv._ext' in sys.modules]

if __name__ == '__main__':
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
        area_in_worker = pool.submit(area, Box()).result()
    facts = dict(argv=sys.argv, file=__file__, path=sys.path[0], beside=beside.name, worker=area_in_worker)
    print('FACTS', json.dumps(facts))
    sys.exit(7)
"""


def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, 'PYTHONPATH': str(REPO), 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, '-m', 'mmyolo_ext.cli.run', *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, timeout=300)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'my tools').mkdir()
    (tmp_path / 'my tools/script.py').write_text(SCRIPT)
    (tmp_path / 'my tools/beside.py').write_text("name = 'a neighbour'")
    return tmp_path


@pytest.mark.slow
def test_a_script_runs_as_by_python_and_so_do_its_processes(folder):
    script = Path('my tools/script.py')
    done = run(script, 'config.py', '--lr=1', '--name', 'a b', cwd=folder)
    assert done.returncode == 7, done.stderr
    facts = json.loads(done.stdout.split('FACTS ')[1])
    assert facts['argv'] == [str(script), 'config.py', '--lr=1', '--name', 'a b']
    assert facts['file'] == str(script)
    assert Path(facts['path']) == (folder / 'my tools').resolve() and facts['beside'] == 'a neighbour'
    # a class and a function of the script, 3 * 3, and the ops in a process started anew
    assert facts['worker'] == [9, True]


def test_an_error_of_the_script_looks_as_in_python(tmp_path):
    (tmp_path / 'broken.py').write_text("x = 1\nraise RuntimeError('on purpose')")
    done = run('broken.py', cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith('RuntimeError: on purpose')
    assert 'broken.py", line 2, in <module>' in done.stderr


@pytest.mark.parametrize(
    ('arguments', 'code', 'message'),
    [
        (['nowhere.py'], 2, 'error: there is no script nowhere.py: give a path, or PACKAGE::PATH'),
        ([], 2, 'SCRIPT.py ARGUMENTS'),
        (['--help'], 0, 'SCRIPT.py ARGUMENTS'),
    ],
)
def test_the_command_line_names_what_is_missing(arguments, code, message, tmp_path):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == code and message in done.stdout + done.stderr
    assert 'Traceback' not in done.stderr


def test_scripts_are_found_by_path_and_by_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a.py').touch()
    assert find_script('a.py') == Path('a.py')
    assert find_script('mmdet::tools/train.py') == Path(mmdet.__file__).parent / '.mim/tools/train.py'
    assert find_script('mmdet::version.py') == Path(mmdet.__file__).parent / 'version.py'


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('b.py', 'there is no script b.py: give a path, or PACKAGE::PATH'),
        ('.', 'there is no script .:'),
        ('mmdt::tools/train.py', "there is no installed package 'mmdt'"),
        ('json.tool::a.py', "there is no installed package 'json.tool'"),
        ('mmdet::tools/trian.py', r'there is no file .*/\.mim/tools/trian\.py or .*mmdet/tools/trian\.py'),
    ],
)
def test_a_script_that_is_not_there_is_named(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        find_script(name)
