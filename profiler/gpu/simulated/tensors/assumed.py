"""What a program gets that reads a value which the simulated GPU does not compute, and where it did.

The answers are those of the virtual GPU (profiler.gpu.virtual.values.assumptions): what a healthy run could
have given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._ops import OpOverload

from profiler.gpu.simulated.tensors.unsupported import user_line
from profiler.gpu.virtual.values import assumptions

aten = torch.ops.aten


@dataclass(frozen=True)
class AssumedRead:
    """A line of the program at which the host read what is not computed, and what it was answered with."""

    line: str  # file:line: text
    operation: str  # item, copy to the host, nonzero, ...
    assumption: str
    count: int

    def __str__(self) -> str:
        return f"read back, not computed: {self.line} ({self.count}; {self.assumption})"


class AssumedReads:
    """The answers of one simulation; each is noted with its line.

    A floating-point scalar reads as a number that falls from read to read, as a loss does: from twice
    `floats` towards `floats`.
    """

    def __init__(self, floats: float) -> None:
        self._floats = floats
        self._scalars = 0
        self._counts: dict[tuple[str, str, str], int] = {}

    @property
    def reads(self) -> tuple[AssumedRead, ...]:
        """What was read, in the order of first reads."""
        return tuple(AssumedRead(*place, count) for place, count in self._counts.items())

    def note(self, operation: str, assumption: str) -> None:
        """The program reads here."""
        place = (user_line(), operation, assumption)
        self._counts[place] = self._counts.get(place, 0) + 1

    def scalar(self, dtype: torch.dtype) -> bool | int | float:
        """One element of this type."""
        if not dtype.is_floating_point:
            return assumptions.stand_in(dtype)
        self._scalars += 1
        return self._floats * (1 + 1 / self._scalars)

    def words(self, dtype: torch.dtype, elements: int) -> str:
        """What `scalar` or `filled` answers."""
        if dtype.is_floating_point and elements == 1:
            if not self._floats:
                return "0"
            return f"a number that falls from {2 * self._floats:g} towards {self._floats:g} from read to read"
        return assumptions.words(dtype, elements)

    def filled(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor on the host of the same shape."""
        one = tensor.numel() == 1
        value = self.scalar(tensor.dtype) if one else assumptions.stand_in(tensor.dtype)
        return torch.full(tensor.shape, value, dtype=tensor.dtype, device="cpu")

    def answer(self, op: OpOverload, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """What an operation returns whose outcome depends on values: a value, or meta tensors of that shape.

        Raises KeyError for an operation of which nothing can be said.
        """
        if op is aten._local_scalar_dense.default:
            self.note("item", self.words(args[0].dtype, 1))
            return self.scalar(args[0].dtype)
        name = op._schema.name.removeprefix("aten::")
        if name == "equal":
            self.note(name, "true")
            return True
        result = _LARGEST[name](*args, **kwargs)
        self.note(name, assumptions.LARGEST)
        return result


def _indices(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.int64, device="meta")


def _nonzero(tensor: torch.Tensor) -> torch.Tensor:
    return _indices(tensor.numel(), tensor.dim())


def _distinct(
    tensor: torch.Tensor, sorted_: bool = True, return_inverse: bool = False, return_counts: bool = False
) -> tuple[torch.Tensor, ...]:
    """`_unique2`; without its last argument it is `_unique`, which has no counts to return."""
    of_all = tensor.numel()
    return (
        torch.empty((of_all,), dtype=tensor.dtype, device="meta"),
        _indices(*tensor.shape) if return_inverse or return_counts else _indices(0),
        _indices(of_all) if return_counts else _indices(0),
    )


def _consecutive(
    tensor: torch.Tensor, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> tuple[torch.Tensor, ...]:
    if dim is not None:
        raise KeyError("unique_consecutive along a dimension")
    return _distinct(tensor, True, return_inverse, return_counts)


_LARGEST: dict[str, Callable[..., Any]] = {
    "nonzero": _nonzero,
    "_unique2": _distinct,
    "unique_consecutive": _consecutive,
}
