"""Commands in the documentation: the real parser of each tool parses them.

No program is started: pip and git need a network, slurm a cluster, and lines with the comment ``needs a GPU`` a GPU.
"""

import argparse
import importlib.util
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from mmyolo_ext.cli.main import COMMANDS

REPO = Path(__file__).parents[2]
PAGES = [
    *(REPO / name for name in ('README.md', 'README_zh-CN.md', 'CONTRIBUTING.md', 'SECURITY.md')),
    *sorted((REPO / 'docs').rglob('*.md')),
]
PROGRAM = r'(?:mmyolo-ext [\w-]+ [^-\s]|python -m mmyolo_ext|(?:python|bash) (?:tools|benchmarks)/)'
INLINE = re.compile(rf'`((?:[A-Z_]+=\S+ )*{PROGRAM}[^`]*)`')
NAMED_FILE = re.compile(r'(?<!\]\()(?<![\w/.:-])((?:configs|tools|benchmarks|tests|requirements|docs)/[\w./-]*\.\w+)')
# shell scripts that hand their last arguments on to a Python tool, with the number of their own
FORWARDED = {
    'tools/quickstart.sh': ('tools/train.py', 0, ['CONFIG']),
    'tools/dist_train.sh': ('tools/train.py', 2, ['CONFIG']),
    'tools/dist_test.sh': ('tools/test.py', 3, ['CONFIG', 'CHECKPOINT']),
    'tools/slurm_train.sh': ('tools/train.py', 4, ['CONFIG']),
    'tools/slurm_test.sh': ('tools/test.py', 4, ['CONFIG', 'CHECKPOINT']),
}
OTHER_PROGRAMS = {'source', 'cd', 'tar', 'git', 'srun', 'sbatch', 'optuna-dashboard', 'tensorboard', 'mim'}
OTHER_MODULES = {'sphinx', 'build', 'pip'}
SCRIPTS_ON_PAGES = {'runtime.py'}  # tests/export


class ParsedError(BaseException):
    """Raised in place of running a tool, after its arguments were parsed."""


def commands_of(text: str) -> list[str]:
    """Return the commands of a page: those of its bash blocks, and tools within lines."""
    commands = []
    for block in re.findall(r'^```bash\n(.*?)^```', text, re.DOTALL | re.MULTILINE):
        commands += block.replace('\\\n', ' ').splitlines()
    outside = re.sub(r'^```.*?^```', '', text, flags=re.DOTALL | re.MULTILINE)
    commands += [command for command in INLINE.findall(outside) if '...' not in command and '[' not in command]
    commands = [re.sub(r'(^|\s+)#.*', '', command).strip() for command in commands]
    return [command for command in commands if command]


def parts_of(command: str) -> list[list[str]]:
    """Split a line at ``&&`` into commands of words, without comments, variables and ``&``."""
    words, parts = shlex.split(command, comments=True), [[]]
    for word in words:
        if word == '&&':
            parts.append([])
        elif word != '&' and not (not parts[-1] and re.match(r'[A-Z_]+=', word)):
            parts[-1].append(word)
    return [part for part in parts if part]


def parse(script: Path | str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse ``arguments`` by the parser of a script or module."""
    for name in ('parse_args', 'parse_intermixed_args'):
        original = getattr(argparse.ArgumentParser, name)

        def parse_args(self, args=None, namespace=None, original=original):
            original(self, args, namespace)
            raise ParsedError

        monkeypatch.setattr(argparse.ArgumentParser, name, parse_args)
    monkeypatch.setattr(sys, 'argv', [str(script), *arguments])
    with pytest.raises(ParsedError):
        if isinstance(script, str):
            importlib.import_module(script).main()
        elif script.parent.name == 'benchmarks':
            # imported once: some of them register parts
            monkeypatch.syspath_prepend(script.parent)
            importlib.import_module(script.stem).main()
        else:
            runpy.run_path(str(script), run_name='__main__')


def check_python(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Check ``python ARGUMENTS``."""
    if arguments[0] == '-c':
        compile(arguments[1], '-c', 'exec')
        return
    if arguments[0] == '-m' and arguments[1] == 'torch.distributed.run':
        arguments = arguments[arguments.index('-m', 1) :]
    if arguments[0] == '-m':
        module, arguments = arguments[1], arguments[2:]
        if module in OTHER_MODULES:
            return
        assert importlib.util.find_spec(module), f'no module {module}'
        if module == 'mmyolo_ext.cli.run':
            assert not arguments or re.match(r'mmdet::tools/\w+\.py$', arguments[0])
        elif arguments:
            parse(module, arguments, monkeypatch)
    elif arguments[0] not in SCRIPTS_ON_PAGES:
        assert (REPO / arguments[0]).is_file(), f'no file {arguments[0]}'
        if arguments[1:]:
            parse(REPO / arguments[0], arguments[1:], monkeypatch)


def check_bash(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Check ``bash ARGUMENTS``."""
    script, arguments = arguments[0], arguments[1:]
    assert (REPO / script).is_file(), f'no file {script}'
    source = (REPO / script).read_text()
    if script in FORWARDED and arguments != ['--retest']:
        tool, own, positional = FORWARDED[script]
        parse(REPO / tool, [*positional, *arguments[own:]], monkeypatch)
    elif script != 'tests/run.sh':
        assert [word for word in arguments if word.startswith('--') and word not in source] == []


@pytest.mark.parametrize(
    'command',
    sorted({command for page in PAGES for command in commands_of(page.read_text(encoding='utf-8'))}),
)
def test_a_command_is_one_that_its_program_takes(command, monkeypatch):
    for program, *arguments in parts_of(command):
        if program == 'python':
            check_python(arguments, monkeypatch)
        elif program == 'bash':
            check_bash(arguments, monkeypatch)
        elif program == 'mmyolo-ext':
            module = f'mmyolo_ext.cli.{COMMANDS[arguments[0]][0]}'
            if arguments[1:] and arguments[1] != 'TOOL':
                parse(module, arguments[1:], monkeypatch)
        elif program == 'pip':
            assert arguments[0] in ('install', 'uninstall')
        else:
            assert program in OTHER_PROGRAMS, f'unknown program {program}'


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_named_files_exist(page):
    text = page.read_text(encoding='utf-8')
    if page.parent.name == 'coming_from':
        text = re.sub(r'^\|[^|]*\|', '|', text, flags=re.MULTILINE)  # the first column names files of others
    named = set(
        re.findall(r'(?<!\]\()(?<![\w/.:-])((?:configs|tools|benchmarks|tests|requirements|docs)/[\w./-]*\.\w+)', text)
    )
    made = ('configs/mine/', 'docs/_build/')
    missing = [name for name in sorted(named) if not (REPO / name).exists() and not name.startswith(made)]
    assert missing == []


def test_the_reference_has_every_command():
    page = (REPO / 'docs' / 'reference' / 'cli.md').read_text(encoding='utf-8')
    modules = {path.stem for path in (REPO / 'mmyolo_ext' / 'cli').glob('*.py')} - {'__init__', 'common', 'main'}
    assert set(re.findall(r'^### (\w+)$', page, re.MULTILINE)) == {
        'mmdet' if name == 'mmdet_tool' else name for name in modules
    }
