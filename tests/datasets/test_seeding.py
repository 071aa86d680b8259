"""Generators for the time of one sample."""

import random

import numpy as np
import pytest
import torch

from mmyolo_ext.datasets.seeded_dataset import kept_generators, seed_generators


def draws():
    return random.random(), np.random.rand(), torch.rand(1).item()


def start():
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)


def test_the_callers_draws_go_on():
    start()
    expected = [draws(), draws()]
    start()
    found = [draws()]
    with kept_generators():
        seed_generators(0, 1, 2)
        draws()
    assert [*found, draws()] == expected


def test_they_go_on_after_an_error():
    start()
    expected = [draws(), draws()]
    start()
    found = [draws()]
    with pytest.raises(ZeroDivisionError), kept_generators():
        seed_generators(0, 1, 2)
        draws()
        raise ZeroDivisionError
    assert [*found, draws()] == expected


def test_keys_are_hashed_not_added():
    def first_draws(*key):
        with kept_generators():
            seed_generators(*key)
            return draws()

    keys = [(s, e, i) for s in range(3) for e in range(3) for i in range(3)] + [(2**40, 0, 0), (0, 2**31, 0)]
    found = [first_draws(*key) for key in keys]
    for generator in range(3):
        assert len({draw[generator] for draw in found}) == len(keys)
    assert found == [first_draws(*key) for key in keys]
