"""Random generators that depend on a key alone, for the time of one sample."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded_generators(seed: int, *key: int) -> Iterator[None]:
    """Within, ``random``, ``numpy.random`` and torch's CPU generator start from a hash of (seed, key).

    Afterwards the three go on where they were. Keys that differ give streams that are independent, however close the
    numbers (NumPy's ``SeedSequence``), which adding them up to one seed would not.

    Args:
        seed, key: Whole numbers from 0 on.
    """
    words = np.random.SeedSequence(seed, spawn_key=key).generate_state(10)
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(words[:4].tobytes())
    np.random.seed(words[4:8])
    # torch.manual_seed would seed the accelerators too, and wake them in a worker.
    torch.default_generator.manual_seed(int(words[8:10].view(np.int64)[0]))
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
