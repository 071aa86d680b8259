"""The arithmetic of benchmarks/pipeline.py, with a fake clock: samples, warps, memory."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))

import pipeline


def test_a_sample_in_warps_of_its_own_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    # milliseconds a sample: one repeat of warm-up, then five; and those of a warp before, between and after them
    samples_ms, warps_ms = [100, 2, 2, 6, 6, 5], [50, 1, 1, 3, 5, 1, 1]
    seconds, calls = 0.0, []

    def batches(dataset: object) -> Iterator[None]:
        nonlocal seconds
        for sample_ms in samples_ms:
            for _ in range(3):
                seconds += sample_ms * 16 / 1e3
                yield

    def calibrate(repeats: int) -> dict[str, float]:
        nonlocal seconds
        seconds += 1000  # which no sample takes
        calls.append(repeats)
        return {'warp_ms': warps_ms[len(calls) - 1]}

    monkeypatch.setattr(pipeline, 'batches', batches)
    monkeypatch.setattr(pipeline, 'calibrate', calibrate)
    monkeypatch.setattr(pipeline, 'time', SimpleNamespace(perf_counter=lambda: seconds))
    figures = pipeline.samples_per_second(None, repeats=5, runs=3)
    assert len(calls) == len(warps_ms)
    # a warp around the repeats: (1 + 1) / 2 = 1, 2, 4, 3, 1; a sample 2/1, 2/2, 6/4, 6/3, 5/1 of them, whose median is
    # not that of the samples over that of the warps, 5/2
    assert figures['warps_per_sample'] == {'median': 2.0, 'min': 1.0, 'max': 5.0}
    assert figures['warp_ms'] == 2
    assert figures['sample_ms'] == {'median': 5.0, 'min': 2.0, 'max': 6.0}
    assert (figures['samples_per_second'], figures['repeats']) == (200.0, 5)


def test_memory_is_held_against_its_start_after_two_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, looks = [], []

    def batches(dataset: object) -> Iterator[None]:
        while True:
            drawn.append(1)
            yield

    def resident_mb() -> float:
        looks.append(len(drawn))
        return [400.0, 410.0, 404.0][len(looks) - 1]

    monkeypatch.setattr(pipeline, 'batches', batches)
    monkeypatch.setattr(pipeline, '_resident_mb', resident_mb)
    figures = pipeline.resident_memory(range(40), samples=20)
    # two epochs of 40 are 5 batches of 16; 20 samples are 2
    assert looks == [5, 6, 7]
    assert figures == {'mosaics': 32, 'mb_before': 400, 'mb_after': 404, 'mb_at_most': 410, 'growth': 0.025}
