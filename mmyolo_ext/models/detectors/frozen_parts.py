"""Parts of a model that are not trained, by their names."""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn


class PartlyFrozen(nn.Module):
    """A model of which some parts keep the weights that they were loaded with; to be inherited beside another.

    Frozen parameters require no gradient, so no optimizer takes them, and frozen modules stay in eval mode, so that
    the statistics of their norms stay too. This is settled when the model is built: DistributedDataParallel and
    optimizers, which look at it once, come after that.
    """

    frozen_parts: tuple[str, ...] = ()

    def freeze(self, names: str | Sequence[str]) -> None:
        """Freeze modules and parameters; to be called last in ``__init__``.

        Args:
            names: dotted, as ``'backbone.layers.0'``; ``*`` stands for anything and ``[0-3]`` for one of these
                characters, as in ``'backbone.layers.[0-3]'``. A module means all that is in it.

        Raises:
            ValueError: nothing in the model has such a name, with those that are close to it.
        """
        self.frozen_parts = (names,) if isinstance(names, str) else tuple(names)
        for pattern in self.frozen_parts:
            modules, parameters = _called(self, pattern)
            if not modules and not parameters:
                raise ValueError(_unknown(self, pattern))
            for parameter in (*parameters, *(p for module in modules for p in module.parameters())):
                parameter.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> 'PartlyFrozen':
        """Switch the mode, but for what is frozen."""
        super().train(mode)
        for pattern in self.frozen_parts:
            for module in _called(self, pattern)[0]:
                module.eval()
        return self


def _called(model: nn.Module, pattern: str) -> tuple[list[nn.Module], list[nn.Parameter]]:
    modules = [module for name, module in model.named_modules() if name and fnmatchcase(name, pattern)]
    return modules, [p for name, p in model.named_parameters() if fnmatchcase(name, pattern)]


def _unknown(model: nn.Module, pattern: str) -> str:
    names = list(_names(model))
    close = get_close_matches(pattern, names, n=1)
    if close:
        return f'frozen_parts: nothing in {type(model).__name__} is called {pattern!r}: did you mean {close[0]!r}?'
    parts = [name for name in names if name.count('.') < 2][:20]
    return (
        f'frozen_parts: nothing in {type(model).__name__} is called {pattern!r}; names are dotted, and * stands for '
        f'anything. There are {", ".join(parts)}, and what is in them'
    )


def _names(model: nn.Module) -> Iterator[str]:
    """All names, those of modules first."""
    yield from (name for name, _ in model.named_modules() if name)
    yield from (name for name, _ in model.named_parameters())
