"""A parameter tensor, as the formulas see it."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class Parameter:
    """One parameter tensor.

    Attributes:
        shape: of the tensor.
        element_bytes: of one of its values.
        embedding: whether it is an embedding's table.
        tied: whether the forward pass uses it in two places, so that two gradients are added up.
        transposed: whether one of these comes from a linear layer that used the parameter itself. It is then
            a transposed view, which autograd does not add to in place: their sum is a third tensor.
    """

    shape: tuple[int, ...]
    element_bytes: int = 4
    embedding: bool = False
    tied: bool = False
    transposed: bool = False

    @property
    def elements(self) -> int:
        """Number of values."""
        return prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Of the parameter itself, and of its gradient."""
        return self.elements * self.element_bytes
