"""mmdet's own tools on any config: ``mmyolo-ext mmdet browse_dataset CONFIG --output-dir DIR``.

MMDetection installs its tools in ``mmdet/.mim/tools``. Several of them import ``mmcv.ops`` first, which fails where
mmcv has no compiled ops, and none applies the shortcuts of our configs. This command supplies the ops, copies the
config with the shortcuts applied, and runs the tool.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import mmdet

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.config_nodes import closest
from mmyolo_ext.cli.common import tool
from mmyolo_ext.cli.run import run_script

USAGE = 'usage: mmyolo-ext mmdet TOOL [options of the tool]'


@tool
def main(argv: Sequence[str] | None = None) -> None:
    """Run the tool that ``argv``, by default the command line, names."""
    name, *words = list(sys.argv[1:] if argv is None else argv) or ['--help']
    tools = find_tools()
    if name in ('-h', '--help'):
        print(USAGE)
        print('tools of mmdet:', *sorted(tools), sep='\n  ')
        return
    if name not in tools:
        match = closest(name, tools)
        hint = f'did you mean {match!r}?' if match else 'mmyolo-ext mmdet --help lists them'
        raise ValueError(f'mmdet has no tool {name!r}: {hint}')
    with TemporaryDirectory() as folder:
        run_script(tools[name], [_resolved(word, Path(folder)) for word in words])


def find_tools() -> dict[str, Path]:
    """Return the scripts of the installed mmdet by name.

    Raises:
        ValueError: If it was installed without them.
    """
    folder = Path(mmdet.__file__).parent / '.mim' / 'tools'
    folders = (folder, folder.parents[2] / 'tools')  # the second of a clone
    for root in folders:
        if found := {path.stem: path for path in sorted(root.rglob('*.py'), reverse=True)}:
            return found
    raise ValueError(f'the installed mmdet has no tools in {folder}: install it again by pip')


def _resolved(word: str, folder: Path) -> str:
    """Return the path of a copy of a config with its shortcuts applied; any other word as it is."""
    if not word.endswith('.py') or word.startswith('-') or not Path(word).is_file():
        return word
    copy = folder / Path(word).name
    load_config(word, with_recipe=False).dump(copy)
    return str(copy)
