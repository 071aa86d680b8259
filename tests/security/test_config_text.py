"""A config stored in a checkpoint is parsed, and nothing of it is executed."""

import math
from pathlib import Path

import pytest
from mmengine.config import Config

from mmyolo_ext.apis import load_config
from mmyolo_ext.checkpoint.config_text import parse_config, parse_plain_parts
from mmyolo_ext.engine.formatted_config import FormattedConfig, format_config

CONFIGS = Path(__file__).parents[2] / 'configs'


def test_values_are_those_of_the_text() -> None:
    text = 'a = dict(b=[1, (2.5, "x")], c={"d e": None, 3: -1})\ne = 1e-05\nf = (True, False, ())\ng = -inf\nh = [nan]'
    parsed = parse_config(text)
    assert parsed['a'] == {'b': [1, (2.5, 'x')], 'c': {'d e': None, 3: -1}}
    assert (parsed['e'], parsed['f'], parsed['g']) == (0.00001, (True, False, ()), -math.inf)
    assert math.isnan(parsed['h'][0]) and list(parsed) == ['a', 'e', 'f', 'g', 'h']


@pytest.mark.parametrize('name', ['yolov5/*.py', 'yolov3/*.py', 'mixed/*.py', 'light/*.py'])
def test_what_mmengine_writes_is_read_back(name: str) -> None:
    path = next(iter(sorted(CONFIGS.glob(name))), None)
    if path is None:
        pytest.skip(f'configs/{name} does not exist')
    cfg = load_config(path)
    assert parse_config(cfg.pretty_text) == cfg.to_dict()
    assert parse_config(format_config(cfg.to_dict())) == cfg.to_dict()


def test_a_run_writes_what_is_read_back() -> None:
    values = {'b c': 1, 'd': 'it\'s "x"\n# ', 'n': [{'ü': -2}, (1,)], 3: {'lambda': None}}
    cfg = {'z': dict.fromkeys('abc', 30 * 'x'), 'a': values, 'e': math.inf, 'f': (), 'g': [('long' * 30,)]}
    text = format_config(cfg)
    assert parse_config(text) == cfg and list(parse_config(text)) == sorted(cfg)
    assert Config.fromstring(format_config({'a': values}), '.py').a == values
    # 104 characters in a line: one entry a line, and the short value after it in one
    assert text.endswith(f"z = dict(\n    a='{30 * 'x'}',\n    b='{30 * 'x'}',\n    c='{30 * 'x'}',\n)\n")
    assert FormattedConfig({'a': [int]}).pretty_text == 'a = [int]\n'
    with pytest.raises(SyntaxError, match='Failed to format'):
        _ = FormattedConfig({'a': [object()]}).pretty_text


def test_odd_keys_and_texts_of_mmengine() -> None:
    cfg = Config({'a': {'b c': 1, 'd': 'it\'s "x"\n# ', 'n': [{'ü': -2}, (1,)]}, 'e': math.inf})
    assert parse_config(cfg.pretty_text) == cfg.to_dict()


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('a = 1\nimport os', 'line 2 of the config has Import'),
        ('from os import system', 'line 1 of the config has Import'),
        ('a = open("CANARY", "w")', 'line 1 of the config has Call'),
        ('a = dict(b=1,\n c=[open("CANARY", "w")])', 'line 2 of the config has Call'),
        ('open("CANARY", "w")', 'line 1 of the config has Expr'),
        ('a = dict\nb = a', 'line 1 of the config has Name'),
        ('a = dict(open("CANARY", "w"))', 'line 1 of the config has Call'),
        ('a = dict(**open("CANARY", "w"))', 'line 1 of the config has Call'),
        ('a = {**dict(b=1)}', 'line 1 of the config has Dict'),
        ('a = {open("CANARY", "w"): 1}', 'line 1 of the config has Call'),
        ('a = {[]: 1}', 'line 1 of the config has Dict'),
        ('a = ().__class__', 'line 1 of the config has Attribute'),
        ('a = [x for x in [1]]', 'line 1 of the config has ListComp'),
        ('a = 2 ** 99', 'line 1 of the config has BinOp'),
        ('a = [0] * 99999999999', 'line 1 of the config has BinOp'),
        ('a = f"{open(1)}"', 'line 1 of the config has JoinedStr'),
        ('a = lambda: 1', 'line 1 of the config has Lambda'),
        ('@open\ndef f(): pass', 'of the config has FunctionDef'),
        ('class A: pass', 'line 1 of the config has ClassDef'),
        ('a = b = 1', 'line 1 of the config has Assign'),
        ('a.b = 1', 'line 1 of the config has Assign'),
        ('a: open("CANARY", "w") = 1', 'line 1 of the config has AnnAssign'),
        ('a = (b := 1)', 'line 1 of the config has NamedExpr'),
        ('a = b"x"', 'line 1 of the config has Constant'),
        ('a = 1j', 'line 1 of the config has Constant'),
        ('a = -"x"', 'line 1 of the config has UnaryOp'),
        ('a = 99999999999999999999', 'line 1 of the config has a number beyond 64 bits'),
        ('a = ' + '9' * 5000, 'line 1 of the config is not valid'),
        ('a = (', 'line 1 of the config is not valid'),
        ('\n a = 1', 'line 2 of the config is not valid'),
        ('a = "\0"', 'null bytes'),
        ('a = "\ud800"', 'the config cannot be parsed'),
        ('a = ' + '[' * 61 + ']' * 61, 'line 1 of the config is nested more than 60 levels deep'),
        ('a = ' + '-' * 400_000 + '1', 'nested too deeply'),
        ('a = b' + '.c' * 200_000, 'recursion'),
        ('a = "' + 'x' * 500_000 + '"', 'at most 500,000 characters, got 500,006'),
        (7, 'must be text, got int'),
        (None, 'must be text, got NoneType'),
    ],
)
def test_anything_else_is_refused_and_does_not_run(tmp_path: Path, text: object, message: str) -> None:
    canary = tmp_path / 'canary'
    text = text.replace('CANARY', str(canary)) if isinstance(text, str) else text
    with pytest.raises(ValueError) as caught:
        parse_config(text)
    assert message in str(caught.value) and '\n' not in str(caught.value)
    parse_plain_parts(text)
    assert not canary.exists()


def test_names_with_other_values_are_left_out_on_request() -> None:
    text = 'import os\na = dict(b=1)\nc = open("x")\nd = 2\nd = open("x")\n'
    assert parse_plain_parts(text) == {'a': {'b': 1}}
    assert parse_plain_parts('a = (') == parse_plain_parts(None) == parse_plain_parts(7) == {}
