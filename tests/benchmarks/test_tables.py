"""Shared code of the benchmarks: measuring, the reported line, tables in pages."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))

import machine
import tables


def test_a_measurement_is_the_median_of_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    # seconds at the start and the end of each repeat: the first is warm-up, then 3, 1, 2, 9, 4 s for two runs
    seconds = iter([0, 50, 0, 3, 0, 1, 0, 2, 0, 9, 0, 4])
    monkeypatch.setattr(machine, 'time', SimpleNamespace(perf_counter=lambda: next(seconds)))
    calls = []
    figures = machine.measure(lambda: calls.append(1), repeats=5, warmup=1, runs=2)
    # of 1.5, 0.5, 1, 4.5, 2 s a run; (4.5 - 0.5) / 1.5 = 2.667
    assert figures == {
        'median_ms': 1500,
        'min_ms': 500,
        'max_ms': 4500,
        'spread': 2.667,
        'repeats': 5,
        'runs': 2,
    }
    assert len(calls) == 12


@pytest.mark.parametrize('wrong', [{'repeats': 4}, {'runs': 0}])
def test_too_few_repeats(wrong: dict) -> None:
    with pytest.raises(ValueError, match='repeats must be 5 or more and runs 1 or more'):
        machine.measure(lambda: None, **wrong)


def test_the_line_of_a_benchmark(capsys: pytest.CaptureFixture) -> None:
    machine.report('some', {'a': 1}, {'warp_ms': 1.4, 'matmul_ms': 12.0})
    (line,) = capsys.readouterr().out.splitlines()
    result = json.loads(line)
    assert result['benchmark'] == 'some' and result['figures'] == {'a': 1} and result['calibration']['warp_ms'] == 1.4
    assert result['machine']['cores'] >= 1 and {'python', 'torch', 'numpy'} <= result['machine']['versions'].keys()


def test_tables_replace_the_text_between_markers(tmp_path: Path) -> None:
    doc = tmp_path / 'doc.md'
    doc.write_text('a\n<!-- one:begin -->\nold\n<!-- one:end -->\nb\n<!-- two:begin --><!-- two:end -->\n')
    text = tables.table(['x', 'y'], [['1', '2']])
    assert text == '| x | y |\n| --- | --- |\n| 1 | 2 |'
    for _ in range(2):
        tables.update('one', text, doc)
        assert doc.read_text() == (
            f'a\n<!-- one:begin -->\n{text}\n<!-- one:end -->\nb\n<!-- two:begin --><!-- two:end -->\n'
        )
    begin, end = '<!-- one:begin -->', '<!-- one:end -->'
    for content in ('', end + begin, begin + end + end, begin + begin + end, begin + end + begin):
        doc.write_text(content)
        with pytest.raises(ValueError, match='must have one <!-- one:begin -->'):
            tables.update('one', text, doc)
        assert doc.read_text() == content


def test_spans() -> None:
    assert tables.span({'median_ms': 12.345, 'min_ms': 9.87, 'max_ms': 13.0}) == '12.3 (9.9-13.0)'
    assert tables.span({'median_ms': 1.234, 'min_ms': 1.2, 'max_ms': 1.3}) == '1.23 (1.20-1.30)'
