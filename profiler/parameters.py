"""A parameter tensor, as the formulas see it."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class Parameter:
    """One parameter tensor: its shape, the bytes of an element, and whether it is an embedding's table."""

    shape: tuple[int, ...]
    element_bytes: int = 4
    embedding: bool = False

    @property
    def elements(self) -> int:
        """Number of values."""
        return prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Of the parameter itself, and of its gradient."""
        return self.elements * self.element_bytes
