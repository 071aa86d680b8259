"""A fake clock, so that tests of times do not wait, and toys whose times it measures."""

import types

import torch
from toy_runner import ToyDataset, ToyModel


class FakeTime(types.SimpleNamespace):
    """Stands in for the module ``time``."""

    def __init__(self) -> None:
        super().__init__(seconds=1000.0)

    def pass_by(self, seconds: float) -> None:
        self.seconds += seconds

    def time(self) -> float:
        return self.seconds

    perf_counter = time

    def __deepcopy__(self, memo):
        return self  # MMEngine copies what its configs hold; there is but one time


class SlowDataset(ToyDataset):
    """The n-th requested sample takes ``cost(n)`` seconds."""

    def __init__(self, clock: FakeTime, cost, length: int = 10) -> None:
        super().__init__(length)
        self.clock, self.cost, self.asked = clock, cost, 0

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        self.clock.pass_by(self.cost(self.asked))
        self.asked += 1
        return super().__getitem__(index)


class SlowModel(ToyModel):
    """Every pass takes ``seconds``."""

    def __init__(self, clock: FakeTime, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def forward(self, x, mode='loss'):
        self.clock.pass_by(self.seconds)
        return super().forward(x, mode)

    def __deepcopy__(self, memo):
        return ToyModel()
