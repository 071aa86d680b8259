"""What an assigner finds.

Letters: P positives (matches) of a level.
"""

from typing import NamedTuple

from torch import Tensor


class Positives(NamedTuple):
    """The matches of one level: which box teaches which anchor in which cell of which picture. Long tensors, (P,).

    Attributes:
        image: index in the batch.
        anchor: index among the level's.
        cell_y: row.
        cell_x: column.
        gt: index of the box.
        valid: (P,) bool, which of them are matches; the others are padding, at places that exist. None: all are.
    """

    image: Tensor
    anchor: Tensor
    cell_y: Tensor
    cell_x: Tensor
    gt: Tensor
    valid: Tensor | None = None

    def __len__(self) -> int:
        return len(self.gt)

    @property
    def place(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Image, anchor, row and column."""
        return self.image, self.anchor, self.cell_y, self.cell_x

    @property
    def count(self) -> int | Tensor:
        """How many matches there are; a scalar tensor where there is padding, since only the device knows then."""
        return len(self) if self.valid is None else self.valid.sum()

    def without_padding(self) -> 'Positives':
        """The matches alone, in their order. The host waits for the device, to know their number."""
        if self.valid is None:
            return self
        matches = self.valid.nonzero().flatten()
        return Positives(*(field[matches] for field in (*self.place, self.gt)))
