"""Configuration of the documentation: ``python -m sphinx -W --keep-going -b html docs docs/_build/html``."""

import contextlib
import importlib
import io
import os
import pkgutil
import sys
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault('COLUMNS', '100')  # the width of --help

project = 'mmyolo_ext'
author = 'the mmyolo_ext authors'
copyright = 'the mmyolo_ext authors, Apache-2.0'
exec((ROOT / 'mmyolo_ext' / 'version.py').read_text())
release = version = globals()['__version__']

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
exclude_patterns = ['_build']
html_theme = 'furo'
html_title = f'mmyolo_ext {release}'
html_copy_source = False
html_show_sourcelink = False

myst_enable_extensions = ['colon_fence', 'deflist']
myst_heading_anchors = 4  # links to headings, as GitHub writes them

# A reference to a part of mmyolo_ext that does not resolve is an error. The build has no network, so references to
# torch, mmengine and mmdet stay plain text.
nitpicky = True
nitpick_ignore_regex = [('py:.*', r'(?!mmyolo_ext\.).*')]

autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_typehints_format = 'short'
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True


class CommandHelp(Directive):
    """``command-help:: MODULE``: the output of ``python -m MODULE --help``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the help as one literal block."""
        output, module = io.StringIO(), self.arguments[0]
        commands = importlib.import_module('mmyolo_ext.cli.main').COMMANDS
        names = {f'mmyolo_ext.cli.{entry[0]}': f'mmyolo-ext {name}' for name, entry in commands.items()}
        arguments, sys.argv = sys.argv, [names.get(module, f'python -m {module}')]  # the program in the help
        with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
            importlib.import_module(module).main(['--help'])
        sys.argv = arguments
        return [nodes.literal_block(text=output.getvalue(), language='text')]


def keep_internal_reference(app, env, node, contnode):
    """Show a reference to something of ours that exists but has no page as plain text; others are errors."""
    target = node['reftarget']
    for name in (target, f'{node.get("py:module")}.{target.lstrip(".")}'):
        if name.startswith('mmyolo_ext.'):
            with contextlib.suppress(ImportError, AttributeError, ValueError):
                pkgutil.resolve_name(name)
                return contnode
    return None


def skip_field(app, what, name, member, skip, options):
    """Leave out the fields of named tuples, which the docstring of the class explains."""
    return True if (getattr(member, '__doc__', None) or '').startswith('Alias for field number') else None


def setup(app) -> None:
    """Register the directive, the check of references and the filter of members."""
    app.add_directive('command-help', CommandHelp)
    app.connect('missing-reference', keep_internal_reference)
    app.connect('autodoc-skip-member', skip_field)
